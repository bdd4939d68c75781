"""A volume on disk is the volume in memory, and other programs see it at its true place."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import ContractError
from data_contracts.volume import CTVolume
from pipeline.imaging.nifti import read_nifti, write_nifti

numbers = st.floats(-1, 1, allow_nan=False)


def volume_of(shape: tuple[int, int, int] = (4, 5, 6), affine: np.ndarray | None = None) -> CTVolume:
    hu = np.random.default_rng(1).integers(-1024, 3000, shape).astype(np.int16)
    tilt = np.array([[0, 0, 0.7, -120.3], [0.5, 0.7, 0, 14.25], [2.0, 0, 0, 33.0], [0, 0, 0, 1]])
    return CTVolume(hu, tilt if affine is None else affine, "f00d")


@settings(max_examples=40, deadline=None)
@given(
    entries=st.lists(numbers, min_size=9, max_size=9),
    scale=st.tuples(*[st.floats(0.2, 6)] * 3),
    origin=st.tuples(*[st.floats(-1000, 1000)] * 3),
    gz=st.booleans(),
)
def test_any_affine_and_every_voxel_come_back_exactly(
    entries: list[float],
    scale: tuple[float, ...],
    origin: tuple[float, ...],
    gz: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * 2 + 0.5 * np.array(entries).reshape(3, 3)) * scale
    affine[:3, 3] = origin
    volume = volume_of(affine=affine)
    path = tmp_path_factory.mktemp("nifti") / ("v.nii.gz" if gz else "v.nii")
    write_nifti(path, volume)
    back = read_nifti(path)
    assert np.array_equal(back.affine, volume.affine)
    assert np.array_equal(back.hu, volume.hu)
    assert back.hu.dtype == np.int16
    assert back.frame_of_reference_key == "f00d"


def test_nibabel_sees_each_voxel_at_its_place_in_ras(tmp_path: Path) -> None:
    volume = volume_of()
    write_nifti(tmp_path / "v.nii", volume)
    image = nibabel.load(tmp_path / "v.nii")
    assert image.shape == (6, 5, 4)
    assert image.get_data_dtype() == np.int16
    for k, j, i in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        assert image.dataobj[i, j, k] == volume.hu[k, j, i]
        x, y, z = volume.to_lps_mm(np.array([k, j, i]))
        assert np.allclose(image.affine @ (i, j, k, 1), (-x, -y, z, 1), atol=1e-4)


def test_a_sheared_grid_has_a_sform_only_and_a_straight_one_both(tmp_path: Path) -> None:
    write_nifti(tmp_path / "sheared.nii", volume_of())
    straight = np.array([[0, 0, 0.7, -120.3], [0, 0.7, 0, 14.25], [2.0, 0, 0, 33.0], [0, 0, 0, 1]])
    write_nifti(tmp_path / "straight.nii", volume_of(affine=straight))
    sheared, plain = (nibabel.load(tmp_path / name) for name in ("sheared.nii", "straight.nii"))
    assert (sheared.header["sform_code"], sheared.header["qform_code"]) == (1, 0)
    assert (plain.header["sform_code"], plain.header["qform_code"]) == (1, 1)
    assert np.allclose(plain.get_qform(), plain.get_sform(), atol=1e-4)


def test_the_header_says_slope_one_and_millimetres(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii", volume_of())
    raw = (tmp_path / "v.nii").read_bytes()
    assert np.frombuffer(raw[112:120], "<f4").tolist() == [1.0, 0.0]
    assert raw[123] == 2


def test_the_same_volume_gives_the_same_bytes_when_compressed(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume_of())
    write_nifti(tmp_path / "c.nii", volume_of())
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "c.nii").read_bytes()


def test_an_image_that_was_moved_by_another_program_stays_where_it_was_moved(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii", volume_of())
    image = nibabel.load(tmp_path / "v.nii")
    moved = image.affine.copy()
    moved[:3, 3] += 7
    image.set_sform(moved, code=1)
    nibabel.save(image, tmp_path / "moved.nii")
    assert np.allclose(read_nifti(tmp_path / "moved.nii").affine[:3, 3], volume_of().affine[:3, 3] + (-7, -7, 7))


@pytest.mark.parametrize("damage", ["missing", "cut", "junk", "float", "flat"])
def test_a_file_that_holds_no_hu_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "v.nii"
    write_nifti(path, volume_of())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "junk":
        path.write_bytes(b"junk" * 200)
    elif damage == "float":
        nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), 0.5, np.float32), np.eye(4)), path)
    else:
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3), np.int16), np.eye(4)), path)
    with pytest.raises(ContractError) as caught:
        read_nifti(path)
    assert "\n" not in caught.value.line()
