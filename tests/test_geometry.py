"""Volumes lie where their headers say: any pose, tilt, spacing and order, and as other readers place them."""

from __future__ import annotations

import random
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import Truth, body_hu, set_stored, slices_of, stored_of, truth_of, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_headers import plane

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.check import Part, make_parts
from pipeline.intake.discover import discover
from pipeline.intake.gaps import fill_missing
from pipeline.intake.ingest_series import ingest_series

PSEUDONYMS = Pseudonymizer(b"secret")


def ingest(source: Path, workspace: Path, **policy: object) -> list[SeriesRecord | Rejection]:
    params = IngestParams.from_mapping(dict(policy))
    discovery = discover(source, PSEUDONYMS, params, workspace / "scratch")
    return [
        item for raw in discovery.series for item in ingest_series(raw, PSEUDONYMS, params, workspace / "series", "a")
    ]


def volume_of(source: Path, workspace: Path, **policy: object) -> tuple[SeriesRecord, CTVolume]:
    (record,) = ingest(source, workspace, **policy)
    assert isinstance(record, SeriesRecord), record.detail
    return record, read_nifti(workspace / record.volume_path)


poses = st.tuples(
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 10.0),
    st.tuples(st.floats(0.2, 1.5), st.floats(0.2, 1.5)),
    st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)),
    st.integers(4, 60),
)


def drawn(pose: tuple[int, float, tuple[float, float], tuple[float, float], int]) -> Truth:
    """Slices in any orientation, their step leaving the normal as a tilt makes it."""
    seed, step_mm, ps, slip, n = pose
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    row, column = axes[0], axes[1]
    step = step_mm * (np.cross(row, column) + slip[0] * row + slip[1] * column)
    hu = np.zeros((n, 5, 4), dtype=np.int16)
    return truth_of(hu, iop=(*row, *column), ps=ps, step=tuple(step))


@settings(max_examples=150, deadline=None)
@given(pose=poses)
def test_every_corner_of_any_pose_is_within_a_hundredth_of_a_millimetre(
    pose: tuple[int, float, tuple[float, float], tuple[float, float], int],
) -> None:
    truth = drawn(pose)
    # as headers carry them: six decimals of a position, nine of a direction
    planes = [
        plane(
            np.round(place, 6),
            n,
            orientation=tuple(np.round(truth.iop[0], 9).tolist()),
            pixel_spacing=tuple(np.round(truth.ps, 6).tolist()),
            rows=512,
            columns=512,
        )
        for n, place in enumerate(truth.ipp)
    ]
    random.Random(pose[0]).shuffle(planes)
    (part,) = make_parts(planes, IngestParams())
    assert isinstance(part, Part), part.detail
    for k, j, i in product((0, len(planes) - 1), (0, 511), (0, 511)):
        true = truth.ipp[k] + i * truth.ps[1] * truth.iop[k][:3] + j * truth.ps[0] * truth.iop[k][3:]
        assert np.linalg.norm(part.grid.affine[:3] @ [k, j, i, 1] - true) <= 0.01


@settings(max_examples=8, deadline=None)
@given(pose=poses)
def test_every_voxel_of_any_pose_keeps_its_value_at_its_place(
    pose: tuple[int, float, tuple[float, float], tuple[float, float], int],
) -> None:
    truth = drawn((*pose[:4], 7))
    truth.hu = body_hu(7, 12, 10, seed=pose[0] % 1000)
    with tempfile.TemporaryDirectory() as folder:
        datasets = slices_of(truth, "P")
        random.Random(pose[0]).shuffle(datasets)
        write_series(Path(folder) / "in", datasets)
        _, volume = volume_of(Path(folder) / "in", Path(folder))
    j, i = np.mgrid[:12, :10]
    for k, hu in enumerate(truth.hu):
        places = (
            truth.ipp[k] + i[..., None] * truth.ps[1] * truth.iop[k][:3] + j[..., None] * truth.ps[0] * truth.iop[k][3:]
        )
        kji = volume.to_kji(places)
        index = np.rint(kji).astype(int)
        assert np.linalg.norm(volume.to_lps_mm(index) - places, axis=-1).max() <= 0.01
        assert np.array_equal(volume.hu[tuple(np.moveaxis(index, -1, 0))], hu)


POSES = {
    "head first supine": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "decubitus": (0, 1, 0, -1, 0, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.6, 0.8, 0),
}


@pytest.mark.parametrize("pose", POSES)
def test_other_readers_place_and_read_a_sound_series_alike(pose: str, tmp_path: Path) -> None:
    import highdicom
    import SimpleITK

    truth = truth_of(iop=POSES[pose], ps=(0.6, 0.75))
    datasets = slices_of(truth, "P")
    random.Random(5).shuffle(datasets)
    write_series(tmp_path / "in", datasets)
    _, volume = volume_of(tmp_path / "in", tmp_path)

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "in")))
    image = reader.Execute()
    assert np.array_equal(volume.hu, SimpleITK.GetArrayViewFromImage(image))
    for corner in product(*((0, size - 1) for size in volume.shape_kji)):
        theirs = image.TransformIndexToPhysicalPoint([int(value) for value in corner[::-1]])
        assert np.abs(volume.to_lps_mm(np.array(corner)) - theirs).max() <= 1e-3

    stacked = highdicom.get_volume_from_series(datasets, apply_presentation_lut=False, dtype=np.float64)
    for corner in product(*((0, size - 1) for size in volume.shape_kji)):
        place = stacked.map_indices_to_reference(np.array([corner]))[0]
        index = np.rint(volume.to_kji(place)).astype(int)
        assert np.abs(volume.to_lps_mm(index) - place).max() <= 1e-3
        assert volume.hu[tuple(index)] == stacked.array[corner]


def test_a_missing_slice_is_interpolated_at_its_place_where_the_policy_says_so(tmp_path: Path) -> None:
    truth = truth_of()
    ramp = truth.hu.copy()
    ramp[11] = np.rint((ramp[10].astype(float) + ramp[12]) / 2)
    left = [ds for n, ds in enumerate(slices_of(truth, "P")) if n != 11]
    write_series(tmp_path / "in", left)
    record, volume = volume_of(tmp_path / "in", tmp_path, missing="interpolate")
    assert np.array_equal(volume.hu, ramp)
    assert np.allclose(volume.affine[:3, 0], truth.ipp[1] - truth.ipp[0])
    (finding,) = record.findings
    assert finding.code is ReasonCode.SLICES_INTERPOLATED
    assert finding.detail == "1 of 24 slices interpolated at 1 place(s): slice 12"
    assert len(finding.sop_instance_uids) == 2
    assert record.n_slices == len(record.sop_uid_keys) == 24
    assert [k for k, key in enumerate(record.sop_uid_keys) if not key] == [11]
    (refused,) = ingest(tmp_path / "in", tmp_path)
    assert refused.reason is ReasonCode.MISSING_SLICES  # type: ignore[union-attr]


def test_holes_in_several_places_of_a_tilted_series_are_filled_before_it_is_made_upright(tmp_path: Path) -> None:
    step = (0.0, 2 * float(np.tan(np.radians(12))), 2.0)
    truth = truth_of(step=step)
    left = [ds for n, ds in enumerate(slices_of(truth, "P")) if n not in (3, 15, 16)]
    write_series(tmp_path / "in", left)
    record, volume = volume_of(tmp_path / "in", tmp_path, missing="interpolate", max_missing=2, tilt="resample")
    assert volume.is_orthogonal
    assert len(volume.hu) == 24
    assert {finding.code for finding in record.findings} >= {ReasonCode.SLICES_INTERPOLATED, ReasonCode.GANTRY_TILT}
    assert abs(float(volume.affine[2, 0]) - 2.0) < 1e-6


def test_interpolation_takes_tissue_and_never_mixes_it_with_padding() -> None:
    hu = np.array([[[100, PADDING_HU, PADDING_HU]], [[200, 300, PADDING_HU]]], dtype=np.int16)
    full, masks = fill_missing(hu, [1], PADDING_HU, list(hu == PADDING_HU))
    assert full[1].tolist() == [[150, 300, PADDING_HU]]
    assert masks[1] is not None
    assert masks[1].tolist() == [[False, False, True]]


def test_identical_slices_are_dropped_and_named(tmp_path: Path) -> None:
    truth = truth_of()
    again = slices_of(truth, "P")
    datasets = slices_of(truth, "P", study=again[0].StudyInstanceUID, series=again[0].SeriesInstanceUID)
    for ds in again:
        ds.FrameOfReferenceUID = datasets[0].FrameOfReferenceUID
    write_series(tmp_path / "in", [*datasets, again[0], again[9], again[23]])
    record, volume = volume_of(tmp_path / "in", tmp_path)
    assert np.array_equal(volume.hu, truth.hu)
    (finding,) = record.findings
    assert finding.code is ReasonCode.DUPLICATE_SLICES
    assert "3 identical slice(s) dropped: slice 1, 10, 24 was" in finding.detail
    assert len(finding.sop_instance_uids) == 3


@pytest.mark.parametrize("same_uid", [False, True])
def test_a_slice_that_comes_again_with_other_pixels_is_a_conflict(tmp_path: Path, same_uid: bool) -> None:
    datasets = slices_of(truth_of(), "P")
    (other,) = [ds for n, ds in enumerate(slices_of(truth_of(body_hu(seed=5)), "P")) if n == 9]
    for word in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(other, word, getattr(datasets[0], word))
    if same_uid:
        other.SOPInstanceUID = datasets[9].SOPInstanceUID
    write_series(tmp_path / "in", [*datasets, other])
    (refused,) = ingest(tmp_path / "in", tmp_path)
    assert isinstance(refused, Rejection)
    assert refused.reason is ReasonCode.CONFLICTING_DUPLICATES
    assert len(refused.sop_instance_uids) == (1 if same_uid else 2)


def test_two_places_under_one_uid_are_a_conflict(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "P")
    datasets[4].SOPInstanceUID = datasets[5].SOPInstanceUID
    write_series(tmp_path / "in", datasets)
    (refused,) = ingest(tmp_path / "in", tmp_path)
    assert isinstance(refused, Rejection)
    assert refused.reason is ReasonCode.CONFLICTING_DUPLICATES
    assert "share SOP Instance UIDs" in refused.detail


def test_a_scan_whose_halves_are_numbered_is_one_volume_while_the_picture_goes_on(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "P")
    for number, ds in enumerate(datasets):
        ds.AcquisitionNumber = 1 if number < 12 else 2
    write_series(tmp_path / "in", datasets)
    record, volume = volume_of(tmp_path / "in", tmp_path)
    assert len(volume.hu) == 24
    (finding,) = record.findings
    assert finding.code is ReasonCode.MULTIPLE_ACQUISITIONS
    assert "kept" in finding.detail


def test_a_second_scan_right_above_the_first_is_a_volume_of_its_own(tmp_path: Path) -> None:
    below = truth_of()
    above = truth_of(body_hu(seed=9)[:, ::-1], origin=(-120.5, -98.25, 33.0 + 48.0))
    first = slices_of(below, "P")
    second = slices_of(above, "P", study=first[0].StudyInstanceUID, series=first[0].SeriesInstanceUID)
    for ds in second:
        ds.AcquisitionNumber, ds.FrameOfReferenceUID = 2, first[0].FrameOfReferenceUID
    write_series(tmp_path / "in", [*first, *second])
    records = ingest(tmp_path / "in", tmp_path)
    assert [type(record) for record in records] == [SeriesRecord, SeriesRecord]
    hus = [read_nifti(tmp_path / record.volume_path).hu for record in records]  # type: ignore[union-attr]
    assert any(np.array_equal(hu, below.hu) for hu in hus)
    assert any(np.array_equal(hu, above.hu) for hu in hus)


def test_copies_within_one_of_two_acquisitions_make_no_hole_in_the_other(tmp_path: Path) -> None:
    truth, again = truth_of(), truth_of(body_hu(seed=9))
    # the ends of both show the same air
    again.hu[0], again.hu[23] = truth.hu[0], truth.hu[23]
    first = slices_of(truth, "P")
    second = slices_of(again, "P", study=first[0].StudyInstanceUID, series=first[0].SeriesInstanceUID)
    for ds in second:
        ds.ConvolutionKernel, ds.FrameOfReferenceUID = "SHARP", first[0].FrameOfReferenceUID
    write_series(tmp_path / "in", [*first, *second])
    records = ingest(tmp_path / "in", tmp_path)
    assert [record.n_slices for record in records if isinstance(record, SeriesRecord)] == [24, 24]


def test_the_same_uid_in_two_series_and_two_patients_mixes_nothing(tmp_path: Path) -> None:
    for number, patient in enumerate(("A", "A", "B")):
        datasets = slices_of(truth_of(body_hu(seed=number)), patient)
        for n, ds in enumerate(datasets):
            ds.SOPInstanceUID = f"1.2.3.{n + 1}"
        write_series(tmp_path / "in" / str(number), datasets)
    records = ingest(tmp_path / "in", tmp_path)
    assert len({record.series_key for record in records if isinstance(record, SeriesRecord)}) == 3


def test_a_copy_with_the_values_shifted_between_pixels_and_rescale_is_no_copy(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "P")
    (other,) = [ds for n, ds in enumerate(slices_of(truth_of(), "P")) if n == 3]
    for word in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(other, word, getattr(datasets[0], word))
    other.RescaleIntercept = -1000
    set_stored(other, stored_of(other))
    write_series(tmp_path / "in", [*datasets, other])
    (refused,) = ingest(tmp_path / "in", tmp_path)
    assert refused.reason is ReasonCode.CONFLICTING_DUPLICATES  # type: ignore[union-attr]
