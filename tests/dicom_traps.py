"""51 kinds of broken or unusual CT series, made small, and more of them.

`CASES` maps each to what is wanted of it ("convert", "split", "flag", "drop_or_flag", "dedupe_or_flag") and its maker.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from dicom_factory import (
    COLUMNS,
    ROWS,
    N,
    Truth,
    body_hu,
    compress,
    enhanced,
    save,
    set_stored,
    slices_of,
    stored_of,
    truth_of,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Maker = Callable[[Path, str], Truth]
CASES: dict[str, tuple[str, Maker]] = {}


def case(name: str, expect: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        CASES[name] = (expect, maker)
        return maker

    return register


def _edited(name: str, expect: str, edit: Callable[[list[Dataset]], list[Dataset] | None]) -> None:
    """A case that is the sound series after one change."""

    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of()
        datasets = slices_of(truth, patient)
        write_series(folder, edit(datasets) or datasets)
        return truth

    CASES[name] = (expect, make)


def _each(change: Callable[[int, Dataset], None]) -> Callable[[list[Dataset]], None]:
    def edit(datasets: list[Dataset]) -> None:
        for number, ds in enumerate(datasets):
            change(number, ds)

    return edit


def _one(change: Callable[[Dataset], None], number: int = 11) -> Callable[[list[Dataset]], None]:
    return lambda datasets: change(datasets[number])


def _copy(ds: Dataset, **values: object) -> Dataset:
    other = copy.deepcopy(ds)
    for word, value in values.items():
        setattr(other, word, value)
    return other


def _move(ds: Dataset, offset: tuple[float, float, float]) -> None:
    ds.ImagePositionPatient = [f"{float(a) + b:.6f}" for a, b in zip(ds.ImagePositionPatient, offset, strict=True)]


def _without(*numbers: int) -> Callable[[list[Dataset]], list[Dataset]]:
    return lambda datasets: [ds for number, ds in enumerate(datasets) if number not in numbers]


def _localizer(like: Dataset, series: str) -> Dataset:
    ds = _copy(like, SOPInstanceUID=generate_uid(), SeriesInstanceUID=series)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return ds


def _compressed(name: str, syntax: str) -> None:
    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of()
        datasets = slices_of(truth, patient)
        for ds in datasets:
            compress(ds, syntax)
        write_series(folder, datasets, syntax)
        return truth

    CASES[name] = ("convert", make)


def _posed(name: str, **pose: object) -> None:
    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of(**pose)  # type: ignore[arg-type]
        write_series(folder, slices_of(truth, patient))
        return truth

    CASES[name] = ("convert_sheared_or_flag" if "step" in pose else "convert", make)


def _stored_as(name: str, syntax: str, preamble: bool = True) -> None:
    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of()
        write_series(folder, slices_of(truth, patient), syntax, preamble=preamble)
        return truth

    CASES[name] = ("convert", make)


def _padded(name: str, signed: bool) -> None:
    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of()
        corner = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) < 20
        datasets = slices_of(truth, patient)
        for ds in datasets:
            stored = stored_of(ds)
            stored[corner] = -2000 if signed else 63536
            ds.PixelRepresentation = int(signed)
            ds.add_new(0x00280120, "SS" if signed else "US", -2000 if signed else 63536)
            set_stored(ds, stored if signed else stored.astype(np.uint16))
        truth.hu[:, corner] = -1024
        write_series(folder, datasets)
        return truth

    CASES[name] = ("convert", make)


def _rescale_slice(number: int, ds: Dataset) -> None:
    ds.RescaleIntercept = -1024 + number
    set_stored(ds, stored_of(ds) - number)


def _overlay_bits(_: int, ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    set_stored(ds, stored_of(ds).clip(0, 4095) | 0x4000)


def _clear(ds: Dataset, *words: str) -> None:
    for word in words:
        setattr(ds, word, None)


def _set(**values: object) -> Callable[[Dataset], None]:
    return lambda ds: [setattr(ds, word, value) for word, value in values.items()] and None


def _tilted(ds: Dataset) -> None:
    angle = np.radians(3)
    ds.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]


_TILT = tuple(2.0 * np.array([0, np.tan(np.radians(15)), 1]))
_OBLIQUE = (0.9702957263, 0.1736481777, -0.1684721689, -0.1710100717, 0.9848077530, 0.0301536896)


def _orthonormal(iop: tuple[float, ...]) -> tuple[float, ...]:
    row = np.array(iop[:3]) / np.linalg.norm(iop[:3])
    column = np.array(iop[3:]) - (np.array(iop[3:]) @ row) * row
    return (*row, *(column / np.linalg.norm(column)))


_edited("01_baseline", "convert", lambda datasets: None)
_edited("02_missing_slice", "flag", _without(11))
_edited("03_missing_2_of_24_adjacent", "flag", _without(11, 12))
_edited("04_dup_position_same_pixels", "dedupe_or_flag", lambda d: [*d, _copy(d[7], SOPInstanceUID=generate_uid())])
_edited("05_dup_file_same_sop_uid", "dedupe_or_flag", lambda d: [*d, _copy(d[7])])
_posed("07_gantry_tilt_15deg", step=_TILT)
_posed("08_gantry_tilt_header_says_0", step=_TILT)
_edited("09_variable_spacing_2mm_then_4mm", "flag", _each(lambda n, ds: _move(ds, (0, 0, 2.0 * max(n - 12, 0)))))
_compressed("15_jpegls_lossless", JPEGLSLossless)
_compressed("16_j2k_lossless", JPEG2000Lossless)
_compressed("17_rle", RLELossless)
_compressed("18_jpeg_lossless_sv1", JPEGLosslessSV1)
_stored_as("19_deflated", DeflatedExplicitVRLittleEndian)
_stored_as("20_big_endian", ExplicitVRBigEndian)
_stored_as("21_no_preamble_implicit", ImplicitVRLittleEndian, preamble=False)
_edited("22_rescale_per_slice", "convert", _each(_rescale_slice))
_padded("23_signed_padding_-2000", signed=True)
_padded("24_unsigned_padding_63536", signed=False)
_edited(
    "25_missing_rescale", "flag", _each(lambda _, ds: [delattr(ds, w) for w in ("RescaleSlope", "RescaleIntercept")])
)
_posed("28_prone_HFP", iop=(-1, 0, 0, 0, -1, 0))
_posed("29_feet_first_FFS", iop=(-1, 0, 0, 0, 1, 0))
_posed("30_decubitus_HFDR", iop=(0, 1, 0, -1, 0, 0))
_posed("31_double_oblique", iop=_orthonormal(_OBLIQUE))
_posed("32_sagittal_reformat", iop=(0, 1, 0, 0, 0, -1))
_EMPTY = ("PatientName", "PatientAge", "SliceThickness", "KVP", "AcquisitionNumber", "InstanceNumber", "RescaleType")
_edited("33_zero_length_tags", "convert", _each(lambda _, ds: _clear(ds, *_EMPTY)))
_ORDER = np.random.default_rng(3).permutation(N)
_edited("34_shuffled_instance_numbers", "convert", _each(lambda n, ds: _set(InstanceNumber=int(_ORDER[n]))(ds)))
_edited("35_descending_instance_numbers", "convert", _each(lambda n, ds: _set(InstanceNumber=N - n)(ds)))
_edited("36_monochrome1", "convert", _each(lambda _, ds: _set(PhotometricInterpretation="MONOCHROME1")(ds)))
_JITTER = np.random.default_rng(4).uniform(-0.004, 0.004, N)
_edited("37_position_jitter_4um", "convert", _each(lambda n, ds: _move(ds, (0, 0, float(_JITTER[n])))))
_edited("38_one_slice_iop_3deg", "flag", _one(_tilted))
_edited("39_one_slice_pixel_spacing", "flag", _one(_set(PixelSpacing=[0.9, 0.9])))
_edited("40_one_slice_96x96", "flag", _one(lambda ds: set_stored(ds, stored_of(ds)[:32, :32])))
_SPACING = _set(SliceThickness=4, SpacingBetweenSlices=5)
_edited("41_thickness4_spacingtag5_real2", "convert", _each(lambda _, ds: _SPACING(ds)))
_edited("42_overlay_bits_above_12bit", "convert", _each(_overlay_bits))
_edited("43_one_slice_without_IPP", "flag", _one(lambda ds: delattr(ds, "ImagePositionPatient")))
_edited("45_one_slice_other_frame_of_reference", "flag", _one(_set(FrameOfReferenceUID=generate_uid())))
_edited("46_single_slice", "flag", lambda datasets: datasets[:1])
_edited("47_rescaletype_US_not_HU", "flag", _each(lambda _, ds: _set(RescaleType="US")(ds)))
_edited(
    "49_dup_position_plus_missing_slice",
    "flag",
    lambda d: [*_without(15)(d), _copy(d[7], SOPInstanceUID=generate_uid())],
)
_posed("50_anisotropic_pixel_spacing", ps=(0.5, 0.9))
_edited("51_one_slice_intercept_off_by_1024", "flag", _one(_set(RescaleIntercept=0)))


@case("06_two_acquisitions_one_series", "split_or_flag")
def _two_acquisitions(folder: Path, patient: str) -> Truth:
    truth, again = truth_of(), truth_of(body_hu(seed=9))
    first = slices_of(truth, patient)
    second = slices_of(again, patient, study=first[0].StudyInstanceUID, series=first[0].SeriesInstanceUID)
    for ds in second:
        ds.AcquisitionNumber, ds.FrameOfReferenceUID = 2, first[0].FrameOfReferenceUID
    write_series(folder, [*first, *second])
    return truth


@case("10_localizer_other_series_same_folder", "convert")
def _localizer_beside(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    datasets = slices_of(truth, patient)
    write_series(folder, [*datasets, _localizer(datasets[0], generate_uid())])
    return truth


@case("11_localizer_same_series_uid", "drop_or_flag")
def _localizer_inside(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    datasets = slices_of(truth, patient)
    write_series(folder, [*datasets, _localizer(datasets[0], datasets[0].SeriesInstanceUID)])
    return truth


@case("12_two_series_one_folder", "split")
def _two_series(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    first = slices_of(truth, patient)
    write_series(folder, [*first, *slices_of(truth, patient, study=first[0].StudyInstanceUID)])
    return truth


@case("13_enhanced_multiframe_legacy_converted", "convert")
def _enhanced(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    save(enhanced(truth, patient, np.ones(N), np.full(N, -1024.0), "US"), folder / "one.dcm")
    return truth


@case("14_enhanced_perframe_rescale", "convert")
def _enhanced_rescale(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    slopes, intercepts = 1.0 + np.arange(N) % 3, -1024.0 + 10 * np.arange(N)
    save(enhanced(truth, patient, slopes, intercepts, "HU"), folder / "one.dcm")
    return truth


@case("26_truncated_last_slice", "flag")
def _truncated(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    write_series(folder, slices_of(truth, patient))
    last = folder / f"{N - 1:03d}.dcm"
    last.write_bytes(last.read_bytes()[:-900])
    return truth


@case("27_junk_in_folder", "convert")
def _junk(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    write_series(folder, slices_of(truth, patient))
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(200))
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "liesmich.txt").write_text(f"Befund von {patient}\n")
    (folder / "noise.dcm").write_bytes(np.random.default_rng(1).bytes(3000))
    (folder / "head.dcm").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(2).bytes(500))
    return truth


@case("44_mixed_transfer_syntaxes", "convert")
def _mixed_syntaxes(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless)
    for number, ds in enumerate(slices_of(truth, patient)):
        syntax = syntaxes[number % 4]
        if number % 4 > 1:
            compress(ds, syntax)
        save(ds, folder / f"{number}.dcm", syntax)
    return truth


@case("48_nested_no_extension", "convert")
def _nested(folder: Path, patient: str) -> Truth:
    truth = truth_of()
    for number, ds in enumerate(slices_of(truth, patient)):
        save(ds, folder / f"A{number % 3}" / f"B{number % 5}" / f"IM{number * 7919 % 97:05d}")
    return truth


def _together(
    name: str,
    expect: str,
    change: Callable[[int, Dataset], None],
    *,
    offset_mm: float = 0.0,
    keep: tuple[int, ...] = tuple(range(N)),
) -> None:
    """A case of two stacks under one series UID; the second is changed slice by slice."""

    def make(folder: Path, patient: str) -> Truth:
        truth = truth_of()
        again = truth_of(body_hu(seed=9), origin=(-120.5, -98.25, 33.0 + offset_mm))
        first = slices_of(truth, patient)
        second = slices_of(again, patient, study=first[0].StudyInstanceUID, series=first[0].SeriesInstanceUID)
        for number, ds in enumerate(second):
            ds.FrameOfReferenceUID, ds.InstanceNumber = first[0].FrameOfReferenceUID, 500 - number
            change(number, ds)
        for number, ds in enumerate(first):
            ds.AcquisitionTime, ds.ContentTime = f"1015{number:02d}", f"1016{number:02d}"
        write_series(folder, [*first, *(second[n] for n in keep)])
        return truth

    CASES[name] = (expect, make)


def _later(number: int, ds: Dataset) -> None:
    ds.AcquisitionTime, ds.ContentTime = f"1019{number:02d}", f"1020{number:02d}"


_MATRIX = lambda _, ds: set_stored(ds, stored_of(ds)[:32, :32])  # noqa: E731
_together("52_two_kernels_at_the_same_places", "split", lambda _, ds: _set(ConvolutionKernel="B70f")(ds))
_together("53_two_kernels_half_a_step_apart", "split", lambda _, ds: _set(ConvolutionKernel="B70f")(ds), offset_mm=1)
_together("54_two_phases_told_by_their_times", "split", _later)
_together("55_two_thicknesses_at_the_same_places", "split", lambda _, ds: _set(SliceThickness=5)(ds))
_together("56_a_second_scan_far_above", "split", lambda _, ds: _set(AcquisitionNumber=2)(ds), offset_mm=133)
_together("57_a_second_scan_that_overlaps", "split", lambda _, ds: _set(AcquisitionNumber=2)(ds), offset_mm=30.7)
_together("58_a_second_matrix_at_the_same_places", "split", _MATRIX)
_together("59_a_second_frame_of_reference", "split", lambda _, ds: _set(FrameOfReferenceUID="1.2.9")(ds), offset_mm=5)
_together(
    "60_a_second_acquisition_that_is_torn",
    "flag",
    lambda _, ds: _set(AcquisitionNumber=2)(ds),
    keep=(0, 1, 2, 3, 7, 8, 9, 15, 16, 23),
)
_together("61_one_slice_again_with_other_pixels", "flag", lambda _, ds: None, keep=(9,))
_edited(
    "62_a_hole_while_the_clock_runs",
    "flag",
    lambda d: [_set(AcquisitionTime=f"1015{n // 7:02d}")(ds) or ds for n, ds in enumerate(d) if n not in (9, 10)],
)
_edited("63_rotations_numbered_by_four", "convert", _each(lambda n, ds: _set(AcquisitionNumber=1 + n // 4)(ds)))
_posed("64_gantry_tilt_minus_27deg_prone", iop=(-1, 0, 0, 0, -1, 0), step=(0, float(2 * np.tan(np.radians(27))), 2.0))
_edited("65_two_slices_share_a_uid", "flag", lambda d: _set(SOPInstanceUID=d[3].SOPInstanceUID)(d[4]) or d)
_edited(
    "66_last_slices_of_another_frame", "flag", _each(lambda n, ds: n > 20 and _set(FrameOfReferenceUID="1.2.9")(ds))
)


def write_traps(folder: Path) -> None:
    """All cases below `folder`, with truth and cases.json, as judge_traps.py wants them."""
    for name, (_, maker) in CASES.items():
        maker(folder / name, name).save(folder / f"{name}.truth.npz")
    (folder / "cases.json").write_text(json.dumps({name: {"expect": expect} for name, (expect, _) in CASES.items()}))
