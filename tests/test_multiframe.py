"""Enhanced multi-frame CT: each frame has its own place and rescale; what is not whole is refused with its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import ENHANCED, N, Truth, body_hu, enhanced, save, set_stored, slices_of, truth_of
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

PSEUDONYMS = Pseudonymizer(b"secret", keep_identity=True)


def ingest(workspace: Path, objects: Sequence[Dataset]) -> list[SeriesRecord | Rejection]:
    for number, ds in enumerate(objects):
        save(ds, workspace / "in" / f"{number}.dcm")
    params = IngestParams()
    discovery = discover(workspace / "in", PSEUDONYMS, params, workspace / "scratch")
    return [
        *discovery.rejections,
        *(
            item
            for raw in discovery.series
            for item in ingest_series(raw, PSEUDONYMS, params, workspace / "series", "a")
        ),
    ]


def whole(truth: Truth | None = None, rescale_type: str = "HU") -> tuple[Truth, Dataset]:
    truth = truth_of() if truth is None else truth
    n = len(truth.hu)
    return truth, enhanced(truth, "P", np.ones(n), np.full(n, -1024.0), rescale_type)


def frames_of(ds: Dataset) -> list[Dataset]:
    return list(ds.PerFrameFunctionalGroupsSequence)


def reordered(ds: Dataset, order: Sequence[int]) -> Dataset:
    """The same object with its frames stored in another order."""
    size = ds.Rows * ds.Columns * 2
    stored = [ds.PixelData[index * size : (index + 1) * size] for index in order]
    ds.PixelData = b"".join(stored)
    ds.PerFrameFunctionalGroupsSequence = Items([frames_of(ds)[index] for index in order])
    ds.NumberOfFrames = len(order)
    return ds


def content(frame: Dataset) -> Dataset:
    if "FrameContentSequence" not in frame:
        frame.FrameContentSequence = Items([Dataset()])
    return frame.FrameContentSequence[0]  # type: ignore[no-any-return]


def joined(one: Dataset, other: Dataset) -> Dataset:
    """One object that holds the frames of both, taking turns."""
    size = one.Rows * one.Columns * 2
    pixels, groups = [], []
    for index in range(one.NumberOfFrames):
        for ds in (one, other):
            pixels.append(ds.PixelData[index * size : (index + 1) * size])
            groups.append(frames_of(ds)[index])
    one.PixelData, one.NumberOfFrames = b"".join(pixels), len(groups)
    one.PerFrameFunctionalGroupsSequence = Items(groups)
    return one


def volumes(workspace: Path, outcomes: Sequence[SeriesRecord | Rejection]) -> list[np.ndarray]:
    assert all(isinstance(item, SeriesRecord) for item in outcomes), [getattr(item, "detail", "") for item in outcomes]
    return [read_nifti(workspace / item.volume_path).hu for item in outcomes if isinstance(item, SeriesRecord)]


def refusal(outcomes: Sequence[SeriesRecord | Rejection]) -> Rejection:
    (outcome,) = outcomes
    assert isinstance(outcome, Rejection)
    return outcome


def test_frames_lie_where_their_groups_say_in_whatever_order_they_are_stored(tmp_path: Path) -> None:
    truth, ds = whole()
    order = np.random.default_rng(3).permutation(N).tolist()
    (record,) = ingest(tmp_path, [reordered(ds, order)])
    assert isinstance(record, SeriesRecord)
    volume = read_nifti(tmp_path / record.volume_path)
    assert np.array_equal(volume.hu, truth.hu)
    assert np.abs(volume.to_lps_mm(np.array([N - 1, 0, 0])) - truth.ipp[-1]).max() < 1e-6


def test_position_orientation_and_rescale_of_each_frame_override_the_shared_ones(tmp_path: Path) -> None:
    truth, ds = whole()
    shared = ds.SharedFunctionalGroupsSequence[0]
    for frame in frames_of(ds):
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
    wrong = Dataset()
    wrong.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    shared.PlaneOrientationSequence = Items([wrong])
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 3, 7, "HU"
    shared.PixelValueTransformationSequence = Items([rescale])
    (hu,) = volumes(tmp_path, ingest(tmp_path, [ds]))
    assert np.array_equal(hu, truth.hu)


def test_a_rescale_that_is_shared_counts_for_every_frame(tmp_path: Path) -> None:
    truth, ds = whole()
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = frames_of(ds)[
        0
    ].PixelValueTransformationSequence
    for frame in frames_of(ds):
        del frame.PixelValueTransformationSequence
    (hu,) = volumes(tmp_path, ingest(tmp_path, [ds]))
    assert np.array_equal(hu, truth.hu)


def _stack(frame: Dataset, number: int) -> None:
    content(frame).StackID = str(number + 1)


def _temporal(frame: Dataset, number: int) -> None:
    content(frame).TemporalPositionIndex = number + 1


def _acquisition(frame: Dataset, number: int) -> None:
    content(frame).FrameAcquisitionNumber = number + 1


def _energy(frame: Dataset, number: int) -> None:
    details = Dataset()
    details.KVP = (80, 140)[number]
    frame.CTXRayDetailsSequence = Items([details])


def _frame_type(frame: Dataset, number: int) -> None:
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", ("NONE", "ENERGY_PROP_WT")[number]]
    frame.CTImageFrameTypeSequence = Items([kind])


def _time(frame: Dataset, number: int) -> None:
    content(frame).FrameAcquisitionDateTime = ("20190731101500.00", "20190731101541.50")[number]


@pytest.mark.parametrize("tell", [_stack, _temporal, _acquisition, _energy, _frame_type, _time])
@pytest.mark.parametrize("offset_mm", [0.0, 1.0])
def test_two_volumes_in_one_object_are_told_apart(
    tmp_path: Path, tell: Callable[[Dataset, int], None], offset_mm: float
) -> None:
    one, first = whole()
    other, second = whole(truth_of(body_hu(seed=9), origin=(-120.5, -98.25, 33.0 + offset_mm)))
    for number, ds in enumerate((first, second)):
        for frame in frames_of(ds):
            tell(frame, number)
    found = volumes(tmp_path, ingest(tmp_path, [joined(first, second)]))
    assert len(found) == 2
    assert {hu.tobytes() for hu in found} == {one.hu.tobytes(), other.hu.tobytes()}


def test_two_volumes_at_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    _, first = whole()
    _, second = whole(truth_of(body_hu(seed=9)))
    assert refusal(ingest(tmp_path, [joined(first, second)])).reason is ReasonCode.CONFLICTING_DUPLICATES


def _half(ds: Dataset, frames: range, like: Dataset | None = None) -> Dataset:
    part = reordered(ds, list(frames))
    part.SOPInstanceUID = generate_uid()
    if like is not None:
        for word in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(part, word, getattr(like, word))
    return part


def test_the_parts_of_a_concatenation_are_one_volume(tmp_path: Path) -> None:
    truth, first = whole()
    parts = [first, whole()[1], whole()[1]]
    ranges = (range(16, 24), range(8), range(8, 16))
    uid = generate_uid()
    for number, (part, frames) in enumerate(zip(parts, ranges, strict=True)):
        _half(part, frames, first)
        part.ConcatenationUID, part.InConcatenationNumber = uid, (3, 1, 2)[number]
        part.InConcatenationTotalNumber = 3
    (hu,) = volumes(tmp_path, ingest(tmp_path, parts))
    assert np.array_equal(hu, truth.hu)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_concatenation_that_lacks_a_part_is_refused_with_its_number(tmp_path: Path, lost: int) -> None:
    _, first = whole()
    parts = [first, whole()[1], whole()[1]]
    uid = generate_uid()
    for number, part in enumerate(parts, start=1):
        _half(part, range(8 * number - 8, 8 * number), first)
        part.ConcatenationUID, part.InConcatenationNumber, part.InConcatenationTotalNumber = uid, number, 3
    outcome = refusal(ingest(tmp_path, [part for n, part in enumerate(parts, start=1) if n != lost]))
    assert outcome.reason is ReasonCode.MISSING_SLICES
    assert f"the first is part {lost}" in outcome.detail
    assert len(outcome.sop_instance_uids) == 2


def test_enhanced_objects_of_one_frame_each_make_a_volume(tmp_path: Path) -> None:
    truth, first = whole()
    objects = []
    for index in range(N):
        _, ds = whole()
        objects.append(_half(ds, range(index, index + 1), first))
    (hu,) = volumes(tmp_path, ingest(tmp_path, objects))
    assert np.array_equal(hu, truth.hu)


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("PlanePositionSequence", ReasonCode.MISSING_GEOMETRY),
        ("PixelValueTransformationSequence", ReasonCode.NO_RESCALE),
    ],
)
def test_a_frame_without_a_group_refuses_the_object_and_is_named(
    tmp_path: Path, group: str, reason: ReasonCode
) -> None:
    _, ds = whole()
    for index in (4, 17):
        delattr(frames_of(ds)[index], group)
    outcome = refusal(ingest(tmp_path, [ds]))
    assert outcome.reason is reason
    assert "frame 5, 18" in outcome.detail
    assert outcome.sop_instance_uids == (ds.SOPInstanceUID,)


@pytest.mark.parametrize(("frames", "words"), [(20, "for frame 21 to 24 of 24"), (0, "without functional groups")])
def test_fewer_groups_than_frames_are_refused(tmp_path: Path, frames: int, words: str) -> None:
    _, ds = whole()
    ds.PerFrameFunctionalGroupsSequence = Items(frames_of(ds)[:frames])
    if not frames:
        del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence
    outcome = refusal(ingest(tmp_path, [ds]))
    assert outcome.reason is ReasonCode.UNSUPPORTED_MULTIFRAME
    assert words in outcome.detail


def test_more_groups_than_frames_are_refused(tmp_path: Path) -> None:
    _, ds = whole()
    ds.NumberOfFrames = N - 1
    assert refusal(ingest(tmp_path, [ds])).reason is ReasonCode.UNSUPPORTED_MULTIFRAME


def test_plain_ct_with_several_frames_says_not_where_they_lie(tmp_path: Path) -> None:
    ds = slices_of(truth_of(), "P")[0]
    set_stored(ds, np.tile(np.arange(48 * 40).reshape(48, 40), (3, 1)))
    ds.Rows, ds.NumberOfFrames = 48, 3
    outcome = refusal(ingest(tmp_path, [ds]))
    assert outcome.reason is ReasonCode.UNSUPPORTED_MULTIFRAME
    assert "3 frames without functional groups" in outcome.detail


def test_localizer_frames_are_listed_and_the_others_make_the_volume(tmp_path: Path) -> None:
    truth, ds = whole()
    _, scout = whole()
    for frame in frames_of(ds):
        _frame_type(frame, 0)
    for frame in frames_of(scout):
        _frame_type(frame, 0)
        frame.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    size = ds.Rows * ds.Columns * 2
    ds.PixelData = scout.PixelData[: 2 * size] + ds.PixelData
    ds.PerFrameFunctionalGroupsSequence = Items([*frames_of(scout)[:2], *frames_of(ds)])
    ds.NumberOfFrames = N + 2
    outcomes = ingest(tmp_path, [ds])
    (record,) = [item for item in outcomes if isinstance(item, SeriesRecord)]
    (listed,) = [item for item in outcomes if isinstance(item, Rejection)]
    assert np.array_equal(read_nifti(tmp_path / record.volume_path).hu, truth.hu)
    assert listed.reason is ReasonCode.LOCALIZER
    assert "frame 1, 2" in listed.detail
    assert listed.series_key == record.series_key


@pytest.mark.parametrize(("said", "is_taken"), [("US", True), ("HU", True), ("", True), ("MGML", False)])
def test_a_rescale_type_that_conversion_left_open_is_a_finding(tmp_path: Path, said: str, is_taken: bool) -> None:
    (outcome,) = ingest(tmp_path, [whole(rescale_type=said)[1]])
    assert isinstance(outcome, SeriesRecord) == is_taken
    if isinstance(outcome, SeriesRecord):
        codes = [finding.code for finding in outcome.findings]
        assert codes == ([ReasonCode.RESCALE_TYPE_NOT_HU] if said == "US" else [])
    else:
        assert outcome.reason is ReasonCode.RESCALE_TYPE_NOT_HU


def test_the_class_of_legacy_conversion_is_read_like_the_enhanced_one(tmp_path: Path) -> None:
    truth, ds = whole(rescale_type="US")
    assert ds.SOPClassUID == ENHANCED
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.2"
    (hu,) = volumes(tmp_path, ingest(tmp_path, [ds]))
    assert np.array_equal(hu, truth.hu)
