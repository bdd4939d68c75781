"""Kinds of trap that must be flagged, split or cleaned: damage to one slice, several, or all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLSNearLossless,
)
from trap_files import dataset_bytes, file_bytes
from trap_kinds import Draft, both, damaged
from trap_series import Plan, Plane, Truth, new_uid, text_of_number, truth_and_planes, with_voxels

from data_contracts.reasons import ReasonCode as Code

_HOLE = (Code.MISSING_SLICES, Code.IRREGULAR_SPACING)


def twin(draft: Draft, plane: Plane, *, same_uid: bool = False) -> Plane:
    """A copy of a plane, by default under an instance UID of its own."""
    other = copy.deepcopy(plane)
    if not same_uid:
        other.ds.SOPInstanceUID = new_uid(draft.rng)
    return other


def move(plane: Plane, offset: np.ndarray) -> None:
    """Move a plane by millimetres."""
    place = np.array([float(value) for value in plane.ds.ImagePositionPatient]) + offset
    plane.ds.ImagePositionPatient = [text_of_number(value, 6) for value in place]


def normal(draft: Draft) -> np.ndarray:
    iop = draft.truth.iop[0]
    return np.cross(iop[:3], iop[3:])


def _without(draft: Draft, gone: set[int], *codes: Code) -> None:
    n = len(draft.planes)
    beside = {number for lost in gone for number in (lost - 1, lost + 1)} - gone
    near = [draft.planes[number] for number in sorted(beside) if 0 <= number < n]
    draft.flag("flag", *codes, must=near, may=near)
    draft.planes = [plane for number, plane in enumerate(draft.planes) if number not in gone]


@damaged("missing_slice", "02")
def _missing_slice(draft: Draft) -> None:
    n = len(draft.planes)
    _without(draft, {draft.rng.choice([1, n - 2, n // 2, draft.rng.randrange(1, n - 1)])}, *_HOLE)


@damaged("missing_adjacent_slices", "03")
def _missing_adjacent(draft: Draft) -> None:
    start, count = draft.rng.randrange(1, len(draft.planes) - 3), draft.rng.choice([2, 2, 3])
    _without(draft, set(range(start, min(start + count, len(draft.planes) - 1))), *_HOLE)


@damaged("missing_slices_in_several_places")
def _missing_several(draft: Draft) -> None:
    n = len(draft.planes)
    gone = set(draft.rng.sample(range(1, n - 1), draft.rng.randint(2, max(2, n // 5))))
    _without(draft, gone, *_HOLE)
    draft.must = set()  # where many are gone the usual step itself is in doubt
    draft.may = None if len(gone) > n // 6 else draft.may


@damaged("duplicate_same_pixels", "04")
def _duplicate(draft: Draft) -> None:
    number = draft.anywhere()
    copies = [twin(draft, draft.planes[number]) for _ in range(draft.rng.choice([1, 1, 2]))]
    draft.flag(
        "dedupe_or_flag", Code.DUPLICATE_SLICES, Code.CONFLICTING_DUPLICATES, may=[draft.planes[number], *copies]
    )
    draft.planes += copies


@damaged("duplicate_file_same_uid", "05")
def _duplicate_file(draft: Draft) -> None:
    number = draft.anywhere()
    draft.flag("dedupe_or_flag", Code.DUPLICATE_SLICES, Code.CONFLICTING_DUPLICATES, may=[draft.planes[number]])
    draft.planes.append(twin(draft, draft.planes[number], same_uid=True))


@damaged("whole_copy_in_another_folder", fixed="layout")
def _whole_copy(draft: Draft) -> None:
    again = [twin(draft, plane, same_uid=True) for plane in draft.planes]
    for number, (one, other) in enumerate(zip(draft.planes, again, strict=True)):
        one.name, other.name = f"first/{number:03d}.dcm", f"second/{number:03d}.dcm"
    draft.flag("dedupe_or_flag", Code.DUPLICATE_SLICES, Code.CONFLICTING_DUPLICATES)
    draft.planes += again


@damaged("copy_with_a_torn_file", fixed="layout syntax")
def _torn_copy(draft: Draft) -> None:
    number = draft.anywhere()
    again = [twin(draft, plane, same_uid=True) for plane in draft.planes]
    for index, (one, other) in enumerate(zip(draft.planes, again, strict=True)):
        one.name, other.name = f"first/{index:03d}.dcm", f"second/{index:03d}.dcm"
    draft.rng.choice([draft.planes, again])[number].alter = lambda data: data[:-300]
    draft.flag("dedupe_or_flag", Code.DUPLICATE_SLICES, Code.CONFLICTING_DUPLICATES, Code.PIXEL_DECODE_FAILED)
    draft.planes += again


@damaged("corrected_slice_sent_again")
def _corrected(draft: Draft) -> None:
    number = draft.anywhere()
    other = twin(draft, draft.planes[number], same_uid=draft.rng.random() < 0.5)
    other.stored = other.stored.copy()
    rows, columns = other.stored.shape
    other.stored[rows // 4 : rows // 2, columns // 4 : columns // 2] -= 37 + int(other.stored.min() < 37) * 0
    other.stored = other.stored.clip(draft.planes[number].stored.min(), None)
    if np.array_equal(other.stored, draft.planes[number].stored):
        other.stored[rows // 2, columns // 2] += 5
    draft.flag("flag", Code.CONFLICTING_DUPLICATES, must=[draft.planes[number]], may=[other])
    draft.planes.append(other)


@damaged("duplicate_and_missing", "49")
def _duplicate_and_missing(draft: Draft) -> None:
    n = len(draft.planes)
    lost = draft.rng.randrange(1, n - 1)
    number = draft.rng.choice([index for index in range(n) if index != lost])
    copied = twin(draft, draft.planes[number])
    both_of = [draft.planes[number], copied]
    _without(draft, {lost}, *_HOLE)
    draft.must, draft.may = set(), (draft.may or set()) | {plane.uid for plane in both_of}
    draft.planes.append(copied)


def _again(draft: Draft, **changes: object) -> tuple[Truth, list[Plane]]:
    """The same place scanned again in the same series: other noise, other instances."""
    first = draft.planes[0].ds
    plan = copy.copy(draft.plan)
    plan.voxels = "synthetic"
    hu = np.random.default_rng(draft.rng.getrandbits(32)).normal(0, 9, draft.truth.hu.shape)
    uids = {"study": first.StudyInstanceUID, "series": first.SeriesInstanceUID, "frame": first.FrameOfReferenceUID}
    truth, planes = truth_and_planes(plan, draft.rng, draft.patient, **{key: str(uid) for key, uid in uids.items()})
    low, high = int(draft.truth.hu.min()), int(draft.truth.hu.max())
    for number, plane in enumerate(planes):
        slope, intercept = float(plane.ds.RescaleSlope), float(plane.ds.RescaleIntercept)
        wanted = (draft.truth.hu[number] + hu[number]).clip(low, high)
        plane.stored = np.rint((wanted - intercept) / slope).astype(np.int64)
        plane.ds.Rows, plane.ds.Columns = plane.stored.shape
        truth.hu[number] = plane.stored * slope + intercept
        for word, value in changes.items():
            setattr(plane.ds, word, value)
    truth.mask = draft.truth.mask
    return truth, planes


@damaged("two_acquisitions", "06", fixed="rescale")
def _two_acquisitions(draft: Draft) -> None:
    for number in range(2, draft.rng.choice([3, 3, 4])):
        truth, planes = _again(draft, AcquisitionNumber=number)
        draft.others.append(truth)
        draft.planes += planes
    draft.flag("split_or_flag", Code.MULTIPLE_ACQUISITIONS, Code.CONFLICTING_DUPLICATES)


@damaged("two_kernels_in_one_series", fixed="rescale")
def _two_kernels(draft: Draft) -> None:
    truth, planes = _again(draft, ConvolutionKernel="LUNG")
    draft.others.append(truth)
    draft.planes += planes
    draft.flag("split_or_flag", Code.MULTIPLE_ACQUISITIONS, Code.CONFLICTING_DUPLICATES)


@damaged("two_scans_told_by_nothing", fixed="rescale")
def _two_untold(draft: Draft) -> None:
    truth, planes = _again(draft)
    for first, second in zip(draft.planes, planes, strict=True):
        second.ds.AcquisitionTime = first.ds.AcquisitionTime
    draft.others.append(truth)
    draft.planes += planes
    draft.flag("split_or_flag", Code.MULTIPLE_ACQUISITIONS, Code.CONFLICTING_DUPLICATES)


@damaged("two_scans_half_a_step_apart", fixed="rescale")
def _half_step(draft: Draft) -> None:
    truth, planes = _again(draft, AcquisitionNumber=2)
    half = draft.plan.step_mm / 2 * normal(draft)
    for plane in planes:
        move(plane, half)
    truth.ipp = np.array([[float(value) for value in plane.ds.ImagePositionPatient] for plane in planes])
    draft.others.append(truth)
    draft.planes += planes
    draft.flag("split_or_flag", Code.MULTIPLE_ACQUISITIONS, Code.CONFLICTING_DUPLICATES)


def _other_series(draft: Draft, series: str = "", study: str = "", patient: str = "") -> tuple[Truth, list[Plane]]:
    plan = copy.copy(draft.plan)
    plan.voxels, plan.n = "synthetic", max(draft.plan.n - 3, 5)
    return truth_and_planes(plan, draft.rng, patient or draft.patient, study=study, series=series)


@damaged("two_series_one_folder", "12")
def _two_series(draft: Draft) -> None:
    truth, planes = _other_series(draft, study=str(draft.planes[0].ds.StudyInstanceUID))
    draft.others.append(truth)
    draft.planes += planes
    draft.expect = "split"


@damaged("two_patients_with_one_id")
def _two_patients(draft: Draft) -> None:
    same_uid = draft.rng.random() < 0.3
    truth, planes = _other_series(draft, series=str(draft.planes[0].ds.SeriesInstanceUID) if same_uid else "")
    for plane in planes:
        plane.ds.PatientName, plane.ds.PatientBirthDate = "Someone^Else", "19990101"
    draft.others.append(truth)
    draft.planes += planes
    draft.expect = "split"


@damaged("another_patient_in_the_folder")
def _stranger(draft: Draft) -> None:
    series = draft.rng.choice([str(draft.planes[0].ds.SeriesInstanceUID), ""])
    _, planes = _other_series(draft, series=series, patient=f"{draft.patient}-stranger")
    draft.planes += planes


def _localizer(draft: Draft, *, says_so: bool, same_series: bool) -> Plane:
    other = twin(draft, draft.rng.choice(draft.planes))
    row, column = draft.truth.iop[0][:3], draft.truth.iop[0][3:]
    across = np.cross(row, column)
    other.ds.ImageOrientationPatient = [text_of_number(value, 9) for value in (*row, *across)]
    other.ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if says_so else "AXIAL"]
    if not same_series:
        other.ds.SeriesInstanceUID = new_uid(draft.rng)
    if draft.rng.random() < 0.5:
        other.stored = np.repeat(other.stored, 2, axis=0)
        other.ds.Rows, other.ds.Columns = other.stored.shape
    return other


@damaged("localizer_in_another_series", "10")
def _localizer_beside(draft: Draft) -> None:
    draft.planes.append(_localizer(draft, says_so=True, same_series=False))


@damaged("localizer_in_the_series", "11")
def _localizer_inside(draft: Draft) -> None:
    scout = _localizer(draft, says_so=draft.rng.random() < 0.6, same_series=True)
    draft.planes.append(scout)
    draft.flag("drop_or_flag", Code.LOCALIZER, Code.MIXED_ORIENTATION, Code.MIXED_MATRIX, must=[scout], may=[])


@damaged("projections_in_the_series")
def _projections(draft: Draft) -> None:
    other = twin(draft, draft.rng.choice(draft.planes))
    other.ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]
    draft.planes.append(other)
    draft.flag("drop_or_flag", Code.DERIVED_IMAGE, must=[other], may=[])


@damaged("variable_spacing", "09")
def _variable_spacing(draft: Draft) -> None:
    n, half = len(draft.planes), draft.rng.randrange(2, len(draft.planes) - 2)
    kind = draft.rng.choice(["double", "grow", "half"])
    step = draft.plan.step_mm * normal(draft)
    for number in range(n):
        extra = {"double": max(number - half, 0), "grow": number**2 / n, "half": -max(number - half, 0) / 2}[kind]
        move(draft.planes[number], extra * step)
    draft.truth.ipp = np.array([[float(value) for value in plane.ds.ImagePositionPatient] for plane in draft.planes])
    draft.flag("flag", *_HOLE)


@damaged("one_slice_out_of_line")
def _out_of_line(draft: Draft) -> None:
    number = draft.rng.randrange(1, len(draft.planes) - 1)
    draft.flag(
        "flag", Code.IRREGULAR_SPACING, Code.MISSING_SLICES, must=[draft.planes[number]], may=draft.around(number)
    )
    step = abs(draft.plan.step_mm)
    if draft.rng.random() < 0.5:
        move(draft.planes[number], draft.rng.choice([-0.35, 0.35]) * step * normal(draft))
    else:
        side = draft.rng.choice([-1, 1]) * draft.rng.uniform(3, 30)
        move(draft.planes[number], side * draft.truth.iop[0][:3])
    draft.truth.ipp[number] = [float(value) for value in draft.planes[number].ds.ImagePositionPatient]


def tilted(plan: Plan, rng: random.Random) -> None:
    """A gantry tilt of either sign: the step has a part along the columns."""
    plan.shear = (float(np.tan(np.radians(rng.choice([-30, -18.5, -8, 5, 15, 16.5, 25])))), 0.0)
    plan.decimals = max(plan.decimals, 6)


def _tilt(header: Callable[[Draft], object]) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        for plane in draft.planes:
            plane.ds.GantryDetectorTilt = header(draft)
        draft.flag("convert_sheared_or_flag", Code.GANTRY_TILT)

    return damage


both("gantry_tilt", tilted, _tilt(lambda draft: round(float(np.degrees(np.arctan(draft.plan.shear[0]))), 1)), "07")
both("gantry_tilt_header_says_0", tilted, _tilt(lambda draft: 0), "08")


def _tilt_and_hole(draft: Draft) -> None:
    _tilt(lambda _: 0)(draft)
    _without(draft, {draft.rng.randrange(1, len(draft.planes) - 1)}, *_HOLE)


both("gantry_tilt_and_missing_slice", tilted, _tilt_and_hole)


def one_slice(
    name: str, reference: str, codes: tuple[Code, ...], change: Callable[[Draft, Plane], None], fixed: str = ""
) -> None:
    """Register a kind in which one slice differs; it must be named, and no slice but its neighbours beside it."""

    def damage(draft: Draft) -> None:
        number = draft.anywhere()
        plane = draft.planes[number]
        draft.flag("flag", *codes, must=[plane], may=draft.around(number))
        change(draft, plane)

    damaged(name, reference, fixed)(damage)


def _turned(draft: Draft, plane: Plane) -> None:
    row, column = draft.truth.iop[0][:3], draft.truth.iop[0][3:]
    angle = np.radians(draft.rng.choice([-3, 0.3, 3, 10, 180]))
    turned = (*row, *(np.cos(angle) * column + np.sin(angle) * np.cross(row, column)))
    plane.ds.ImageOrientationPatient = [text_of_number(value, 9) for value in turned]


def _respaced(draft: Draft, plane: Plane) -> None:
    factor = draft.rng.choice([1.01, 1.2, 0.7])
    plane.ds.PixelSpacing = [text_of_number(float(value) * factor, 6) for value in plane.ds.PixelSpacing]


def _cropped(draft: Draft, plane: Plane) -> None:
    rows, columns = plane.stored.shape
    plane.stored = plane.stored[: rows - 4, : columns - draft.rng.choice([0, 4])].copy()
    plane.ds.Rows, plane.ds.Columns = plane.stored.shape


def _jumped(draft: Draft, plane: Plane) -> None:
    amount = draft.rng.choice([-1024, -1000, 1000, 1024])
    plane.ds.RescaleIntercept = text_of_number(float(plane.ds.RescaleIntercept) + amount, 4)


def _delete(*words: str) -> Callable[[Draft, Plane], None]:
    def change(draft: Draft, plane: Plane) -> None:
        word = draft.rng.choice(words)
        if draft.rng.random() < 0.7:
            delattr(plane.ds, word)
        else:
            setattr(plane.ds, word, None)

    return change


one_slice("one_slice_turned", "38", (Code.MIXED_ORIENTATION, Code.LOCALIZER), _turned)
one_slice("one_slice_pixel_spacing", "39", (Code.MIXED_SPACING,), _respaced)
one_slice("one_slice_other_matrix", "40", (Code.MIXED_MATRIX,), _cropped)
one_slice("one_slice_without_geometry", "43", (Code.MISSING_GEOMETRY,),
          _delete("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))  # fmt: skip
one_slice("one_slice_other_frame", "45", (Code.MIXED_FRAME_OF_REFERENCE,),
          lambda draft, plane: setattr(plane.ds, "FrameOfReferenceUID", new_uid(draft.rng)))  # fmt: skip
one_slice("one_slice_off_by_1024", "51", (Code.IMPLAUSIBLE_HU,), _jumped)
one_slice("one_slice_without_rescale", "", (Code.NO_RESCALE,), _delete("RescaleSlope", "RescaleIntercept"))
one_slice("one_slice_burned_in", "", (Code.BURNED_IN_ANNOTATION,),
          lambda draft, plane: setattr(plane.ds, "BurnedInAnnotation", "YES"))  # fmt: skip


def _shifted(draft: Draft, plane: Plane) -> None:
    plane.stored = plane.stored + draft.rng.choice([1000, 1024])


one_slice("one_slice_shifted_values", "", (Code.IMPLAUSIBLE_HU,), _shifted, fixed="rescale bits")


@damaged("a_block_off_by_1024", fixed="rescale bits")
def _block_off(draft: Draft) -> None:
    n = len(draft.planes)
    start = draft.rng.choice([0, draft.rng.randrange(1, n - 3)])
    stop = draft.rng.choice([n, draft.rng.randrange(start + 2, n)]) if start else draft.rng.randrange(2, n - 1)
    draft.flag("flag", Code.IMPLAUSIBLE_HU)  # which side of a step is the right one is not always to be told
    amount = draft.rng.choice([-1024, -1000, 1000, 1024])
    for plane in draft.planes[start:stop]:
        plane.ds.RescaleIntercept = text_of_number(float(plane.ds.RescaleIntercept) + amount, 4)


def _every(name: str, reference: str, codes: tuple[Code, ...], change: Callable[[Draft, Plane], None], fixed: str = "",
           expect: str = "flag") -> None:  # fmt: skip
    def damage(draft: Draft) -> None:
        seed = draft.rng.getrandbits(32)
        draft.flag(expect, *codes)
        for plane in draft.planes:
            draft.rng.seed(seed)
            change(draft, plane)

    damaged(name, reference, fixed)(damage)


def _choose(word: str, values: list[object]) -> Callable[[Draft, Plane], None]:
    return lambda draft, plane: setattr(plane.ds, word, draft.rng.choice(values))


_every("no_rescale", "25", (Code.NO_RESCALE,), _delete("RescaleSlope", "RescaleIntercept"))
_every("rescale_type_us", "47", (Code.RESCALE_TYPE_NOT_HU,), _choose("RescaleType", ["US", "OD", "MGML", "Z_EFF"]))
_every(
    "no_positions",
    "",
    (Code.MISSING_GEOMETRY,),
    _delete("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
_every(
    "burned_in", "", (Code.BURNED_IN_ANNOTATION,), lambda draft, plane: setattr(plane.ds, "BurnedInAnnotation", "YES")
)
_every("zero_spacing", "", (Code.MISSING_GEOMETRY,), _choose("PixelSpacing", [["0", "0"], ["-0.7", "0.7"], ["0.7"]]))
_every("rgb", "", (Code.DERIVED_IMAGE, Code.PIXEL_DECODE_FAILED),
       lambda draft, plane: setattr(plane.ds, "SamplesPerPixel", 3), fixed="syntax bits")  # fmt: skip


def unsigned(plan: Plan, rng: random.Random) -> None:
    """Stored values of no sign: a lossy coder must not meet the jump from -1 to 65535."""
    plan.signed, plan.slope, plan.intercept = False, 1.0, -1024.0


def _lossy(draft: Draft, plane: Plane) -> None:
    plane.syntax = draft.rng.choice([JPEG2000, JPEGLSNearLossless])
    plane.ds.LossyImageCompression = "01"
    plane.ds.LossyImageCompressionRatio = 7


def _lossy_of_all(draft: Draft) -> None:
    seed = draft.rng.getrandbits(32)
    draft.flag("flag", Code.LOSSY_COMPRESSION)
    for plane in draft.planes:
        draft.rng.seed(seed)
        _lossy(draft, plane)


both("lossy_compression", unsigned, _lossy_of_all, fixed="syntax rescale bits")


@damaged("wrong_columns", fixed="syntax bits")
def _wrong_columns(draft: Draft) -> None:
    word, change = draft.rng.choice([("Columns", 1), ("Columns", -1), ("Rows", 1), ("Rows", -1)])
    draft.flag("flag", Code.PIXEL_DECODE_FAILED, Code.MIXED_MATRIX)
    for plane in draft.planes:
        data = file_bytes_of_pixels(plane)
        setattr(plane.ds, word, int(getattr(plane.ds, word)) + change)
        plane.options["pixels"] = data


def file_bytes_of_pixels(plane: Plane) -> bytes:
    """Native little-endian pixels, padded to an even length."""
    width = int(plane.ds.BitsAllocated) // 8
    data = (plane.stored.astype(np.int64) & ((1 << 8 * width) - 1)).astype(f"<u{width}").tobytes()
    return data + bytes(len(data) % 2)


@damaged("single_slice", "46")
def _single(draft: Draft) -> None:
    draft.planes = draft.planes[: draft.rng.choice([1, 1, 2])]
    draft.flag("flag", Code.TOO_FEW_SLICES, must=draft.planes, may=[])


@damaged("truncated_file", "26")
def _truncated(draft: Draft) -> None:
    number = draft.anywhere()
    plane = draft.planes[number]
    if 0xFFFCFFFC in plane.ds:
        del plane.ds[0xFFFCFFFC]  # a cut behind the pixels takes nothing away
    whole = len(file_bytes(plane))
    pixels = whole - (
        len(plane.stored.tobytes()) // 4 if plane.syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian) else 40
    )
    cut = draft.rng.choice([whole - 1, whole - 2, whole - 9, pixels])
    plane.alter = lambda data: data[:cut]
    # a torn deflated file does not tell its UID
    named = [] if plane.syntax == DeflatedExplicitVRLittleEndian else [plane]
    draft.flag("flag", Code.PIXEL_DECODE_FAILED, Code.UNREADABLE, *_HOLE, must=named, may=draft.around(number))


@damaged("truncated_in_the_header", fixed="syntax")
def _truncated_header(draft: Draft) -> None:
    number = draft.anywhere()
    plane = draft.planes[number]

    def cut(data: bytes) -> bytes:
        place = data.index(str(plane.ds.SeriesInstanceUID).encode())
        return data[: place + draft.rng.randint(70, 160)]

    whole = file_bytes(plane)
    short = cut(whole)
    plane.alter = lambda data: short
    draft.flag("flag", Code.PIXEL_DECODE_FAILED, Code.UNREADABLE, *_HOLE, Code.MISSING_GEOMETRY, Code.NOT_AN_IMAGE)


@damaged("wrong_transfer_syntax", fixed="syntax")
def _wrong_syntax(draft: Draft) -> None:
    true, declared = draft.rng.choice([
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian), (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, "1.2.840.10008.1.2.2"), (ExplicitVRLittleEndian, JPEGLSLossless),
        (JPEGLSLossless, ExplicitVRLittleEndian), (JPEGLSLossless, "1.2.840.10008.1.2.4.90"),
        (JPEGLSLossless, "1.2.840.10008.1.2.5"), (ExplicitVRLittleEndian, "1.2.840.10008.1.2.1.99"),
        (ExplicitVRLittleEndian, "1.2.3.4.5"),
    ])  # fmt: skip
    for plane in draft.planes:
        plane.syntax, plane.options["declared"] = true, declared
    draft.flag("flag")


@damaged("junk_in_the_folder", "27")
def _junk(draft: Draft) -> None:
    rng = draft.rng
    draft.junk += [
        (".DS_Store", b"\0\0\0\1Bud1" + bytes(200)), ("empty.dcm", b""), ("Thumbs.db", rng.randbytes(700)),
        ("report.txt", f"Befund von {draft.patient}\n".encode()), ("noise.dcm", rng.randbytes(3000)),
        ("head.dcm", bytes(128) + b"DICM" + rng.randbytes(500)), ("only_head.dcm", bytes(128) + b"DICM"),
        ("sub/a.jpg", b"\xff\xd8\xff\xe0" + rng.randbytes(900)), ("short.dcm", bytes(131)),
    ]  # fmt: skip


@damaged("other_objects_in_the_study")
def _other_objects(draft: Draft) -> None:
    classes = {
        "1.2.840.10008.5.1.4.1.1.128": "PT",
        "1.2.840.10008.5.1.4.1.1.7": "OT",
        "1.2.840.10008.5.1.4.1.1.88.67": "SR",
        "1.2.840.10008.5.1.4.1.1.88.22": "SR",
        "1.2.840.10008.5.1.4.1.1.11.1": "PR",
        "1.2.840.10008.5.1.4.1.1.66": "REG",
        "1.2.840.10008.5.1.4.1.1.7.4": "CT",
    }
    for sop_class, modality in classes.items():
        other = twin(draft, draft.planes[0])
        other.ds.SOPClassUID, other.ds.Modality = sop_class, modality
        other.ds.SeriesInstanceUID = new_uid(draft.rng)
        if modality in ("SR", "PR", "REG"):
            for word in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "ImagePositionPatient"):
                delattr(other.ds, word)
            draft.junk.append((f"object-{len(draft.junk)}", dataset_bytes(other.ds, ExplicitVRLittleEndian)))
        else:
            draft.planes.append(other)


@damaged("broken_sequences", fixed="syntax")
def _broken_sequences(draft: Draft) -> None:
    """A sequence of undefined length whose end is missing swallows what follows: refused, never guessed."""
    number = draft.anywhere()
    plane = draft.planes[number]
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    plane.ds.SourceImageSequence = [item]
    plane.ds["SourceImageSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    plane.alter = lambda data: data.replace(b"\xfe\xff\xdd\xe0\0\0\0\0", b"", 1)
    draft.flag("flag", Code.PIXEL_DECODE_FAILED, Code.UNREADABLE, *_HOLE, Code.MISSING_GEOMETRY, Code.NOT_AN_IMAGE,
               Code.NO_RESCALE, Code.NOT_DICOM)  # fmt: skip


@damaged("extra_series_of_two_slices")
def _tiny_beside(draft: Draft) -> None:
    _, planes = _other_series(draft, study=str(draft.planes[0].ds.StudyInstanceUID))
    draft.planes += planes[:2]


def split_copy(truth: Truth) -> Truth:
    """The same place and voxels, as a truth of its own."""
    return with_voxels(truth, truth.hu.copy())
