"""A stored series is whole or not there; its padding stands beside it as a mask."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from data_contracts.errors import ContractError
from data_contracts.series import SeriesRecord
from data_contracts.volume import CTVolume
from pipeline.imaging.padding_mask import (
    PADDING_NAME,
    PaddingMask,
    mask_of_array,
    read_padding_mask,
    write_padding_mask,
)
from pipeline.intake.store import store_series


def record_of(volume: CTVolume, key: str = "0123456789abcdef") -> SeriesRecord:
    return SeriesRecord(
        series_key=key,
        study_key="s",
        patient_key="p",
        site="a",
        volume_path=f"series/{key}/volume.nii",
        n_slices=len(volume.hu),
        shape_kji=volume.shape_kji,
        spacing_kji_mm=volume.spacing_kji_mm,
        affine_lps=tuple(tuple(line) for line in volume.affine.tolist()),
        series_uid_key="u",
        sop_uid_keys=(),
        pixel_sha256="",
        source_path="",
    )


def volume_of(shape: tuple[int, int, int] = (5, 9, 11)) -> CTVolume:
    hu = np.random.default_rng(0).integers(-1024, 3000, shape).astype(np.int16)
    return CTVolume(hu, np.array([[0, 0, 0.7, -3.5], [0, 0.7, 0, 8.25], [2.0, 0, 0, 1], [0, 0, 0, 1]]))


def circle(shape: tuple[int, int, int]) -> np.ndarray:
    _, j, i = np.indices(shape)
    return (j - shape[1] / 2) ** 2 + (i - shape[2] / 2) ** 2 > (min(shape[1:]) / 2) ** 2


@settings(deadline=None, max_examples=40)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=20)))
def test_a_mask_goes_to_a_file_and_back_unchanged(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("mask")
    packed = mask_of_array(mask)
    if packed is None:
        assert not mask.any()
        return
    assert np.array_equal(packed.to_array(), mask)
    write_padding_mask(folder / PADDING_NAME, packed)
    read = read_padding_mask(folder)
    assert read is not None
    assert read.dtype == bool
    assert np.array_equal(read, mask)


def test_the_same_circle_in_every_slice_is_kept_once(tmp_path: Path) -> None:
    mask = circle((300, 64, 64))
    mask[7] = False
    packed = mask_of_array(mask)
    assert packed is not None
    assert packed.planes.shape == (1, 64, 8)
    write_padding_mask(tmp_path / "a.npz", packed)
    write_padding_mask(tmp_path / "b.npz", packed)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 3000


def test_a_stored_series_has_its_volume_its_record_and_its_mask(tmp_path: Path) -> None:
    volume = volume_of()
    padding = circle(volume.shape_kji)
    record = store_series(tmp_path / "series", record_of(volume), volume, mask_of_array(padding))
    folder = tmp_path / "series" / record.series_key
    assert sorted(path.name for path in folder.iterdir()) == ["padding.npz", "series.json", "volume.nii"]
    mask = read_padding_mask(folder)
    assert mask is not None
    assert np.array_equal(mask, padding)
    image = nibabel.load(folder / "volume.nii")
    assert np.array_equal(np.asarray(image.dataobj), volume.hu.transpose(2, 1, 0))
    assert SeriesRecord.read(folder / "series.json") == record


def test_a_series_without_padding_has_no_mask(tmp_path: Path) -> None:
    volume = volume_of()
    record = store_series(tmp_path / "series", record_of(volume), volume)
    folder = tmp_path / "series" / record.series_key
    assert not (folder / PADDING_NAME).exists()
    assert read_padding_mask(folder) is None


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", bytes(300)])
def test_a_torn_mask_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PADDING_NAME).write_bytes(content)
    with pytest.raises(ContractError, match="mask of padding"):
        read_padding_mask(tmp_path)


def test_a_mask_of_another_shape_than_it_says_is_an_error(tmp_path: Path) -> None:
    wrong = PaddingMask((4, 6, 9), np.zeros((1, 6, 1), np.uint8), np.zeros(4, np.int32))
    write_padding_mask(tmp_path / PADDING_NAME, wrong)
    with pytest.raises(ContractError):
        read_padding_mask(tmp_path)


def test_a_disk_that_fills_up_in_the_mask_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.intake.store.write_padding_mask", full)
    volume = volume_of()
    with pytest.raises(OSError, match="No space"):
        store_series(tmp_path / "series", record_of(volume), volume, mask_of_array(circle(volume.shape_kji)))
    assert list((tmp_path / "series").iterdir()) == []
