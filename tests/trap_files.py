"""Planes as DICOM files: transfer syntaxes, quirks of headers that change nothing, and how files lie in folders."""

from __future__ import annotations

import copy
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from dicom_factory import ENHANCED
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from trap_series import Plane, Truth, new_uid

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (JPEGLSLossless, JPEG2000Lossless, RLELossless, JPEGLosslessSV1, JPEGLossless, HTJ2KLossless)
LAYOUTS = ("flat", "nested", "renamed", "scattered", "shuffled", "odd_names")
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def _unsigned(plane: Plane) -> np.ndarray:
    stored_bits = int(plane.ds.BitsStored)
    width = 8 if plane.ds.BitsAllocated == 8 else 16
    return (plane.stored & ((1 << stored_bits) - 1)).astype(f"u{width // 8}")


def _compressed(plane: Plane) -> bytes:
    values = np.ascontiguousarray(_unsigned(plane))
    signed = bool(plane.ds.get("PixelRepresentation", 0))
    if plane.syntax in (JPEG2000Lossless, JPEG2000) and signed and plane.options.get("signed_stream"):
        values = plane.stored.astype(np.int16)
    lossy = plane.syntax in (JPEG2000, JPEGLSNearLossless)
    if plane.syntax in (JPEG2000Lossless, JPEG2000):
        level = 90 if lossy else 0
        return bytes(imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=not lossy, level=level))
    if plane.syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(values, reversible=True))
    if plane.syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(values, level=2 if lossy else 0))
    if plane.syntax in (JPEGLosslessSV1, JPEGLossless):
        return bytes(imagecodecs.ljpeg_encode(values, bitspersample=16))
    ds = plane.ds
    encoder = RLELosslessEncoder.encode
    return encoder(
        values,
        encoding_plugin="pydicom",
        rows=int(ds.Rows), columns=int(ds.Columns), samples_per_pixel=1, number_of_frames=1,
        bits_allocated=int(ds.BitsAllocated), bits_stored=int(ds.BitsAllocated),
        pixel_representation=0, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def native_bytes(plane: Plane, order: str) -> bytes:
    """Stored values as they lie in native pixel data; bits above the stored ones as the sign or `high_bits` says."""
    ds = plane.ds
    allocated, stored, high = int(ds.BitsAllocated), int(ds.BitsStored), int(ds.HighBit)
    values = plane.stored.astype(np.int64)
    shift = high + 1 - stored
    if shift or "high_bits" in plane.options:
        values = (values & ((1 << stored) - 1)) << shift
        values |= int(plane.options.get("high_bits", 0))  # type: ignore[call-overload]
    values &= (1 << allocated) - 1
    data = values.astype(f"{order}u{allocated // 8}").tobytes()
    return data + bytes(len(data) % 2)


def file_bytes(plane: Plane) -> bytes:
    """The whole file."""
    ds = copy.deepcopy(plane.ds)
    if plane.syntax in NATIVE:
        order = ">" if plane.syntax == ExplicitVRBigEndian else "<"
        data = native_bytes(plane, order) if "pixels" not in plane.options else plane.options["pixels"]
        wide = int(ds.BitsAllocated) > 8 or plane.syntax == ImplicitVRLittleEndian
        ds.add_new(0x7FE00010, "OW" if wide else "OB", data)
    else:
        whole = _compressed(plane)
        pieces = int(plane.options.get("fragments", 1))  # type: ignore[call-overload]
        ds.PixelData = encapsulate([whole], fragments_per_frame=pieces, has_bot=bool(plane.options.get("table", True)))
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    data = dataset_bytes(ds, plane.syntax, plane.preamble, str(plane.options.get("declared", "")))
    return plane.alter(data) if plane.alter else data


def dataset_bytes(ds: Dataset, syntax: str, preamble: bool = True, declared: str = "") -> bytes:
    """A dataset as a file; `declared`: the transfer syntax that the header names in place of the true one."""
    out = io.BytesIO()
    if not preamble:
        ds.file_meta = FileMetaDataset()
        ds.save_as(out, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=False)
        return out.getvalue()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    ds.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    if declared:
        # as long as the true one, or the lengths of the meta information would tell
        old, new = syntax.encode() + bytes(len(syntax) % 2), declared.encode() + bytes(len(declared) % 2)
        start = data.index(b"\x02\x00\x10\x00UI")
        value = struct.pack("<H", len(new)) + new
        data = data[: start + 6] + value + data[start + 8 + len(old) :]
        total = struct.unpack_from("<I", data, 140)[0] + len(new) - len(old)
        data = data[:140] + struct.pack("<I", total) + data[144:]
    return data


def enhanced_plane(
    planes: list[Plane], truth: Truth, sop_class: str = ENHANCED, *, shared_rescale: bool = False
) -> Plane:
    """Single planes as one multi-frame object: positions, rescale and what else differs in per-frame groups."""
    ds = copy.deepcopy(planes[0].ds)
    for word in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "ConvolutionKernel",
    ):
        delattr(ds, word)
    for word in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if word in ds:
            delattr(ds, word)
    ds.SOPClassUID, ds.NumberOfFrames = sop_class, len(planes)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = planes[0].ds.PixelSpacing, planes[0].ds.SliceThickness
    orientation.ImageOrientationPatient = planes[0].ds.ImageOrientationPatient
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    frames = []
    for plane in planes:
        frame, place, rescale, content = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = plane.ds.ImagePositionPatient
        rescale.RescaleSlope, rescale.RescaleIntercept = plane.ds.RescaleSlope, plane.ds.RescaleIntercept
        rescale.RescaleType = plane.options.get("rescale_type", "HU")
        content.FrameAcquisitionNumber = plane.ds.AcquisitionNumber
        frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([place])
        if shared_rescale:
            shared.PixelValueTransformationSequence = Sequence([rescale])
        else:
            frame.PixelValueTransformationSequence = Sequence([rescale])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    return Plane(ds, np.concatenate([plane.stored for plane in planes]), planes[0].syntax, options={"frames": planes})


def enhanced_bytes(plane: Plane) -> bytes:
    """A multi-frame object as a file, native or with one fragment a frame."""
    planes: list[Plane] = plane.options["frames"]  # type: ignore[assignment]
    ds = copy.deepcopy(plane.ds)
    if plane.syntax in NATIVE:
        order = ">" if plane.syntax == ExplicitVRBigEndian else "<"
        ds.add_new(0x7FE00010, "OW", b"".join(native_bytes(one, order) for one in planes))
    else:
        ds.PixelData = encapsulate([_compressed(one) for one in planes], has_bot=bool(plane.options.get("table", True)))
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    data = dataset_bytes(ds, plane.syntax)
    return plane.alter(data) if plane.alter else data


def write_planes(folder: Path, planes: list[Plane], layout: str, rng: random.Random) -> None:
    """Write every plane below `folder`; the layout says how files are called and where they lie."""
    order = list(range(len(planes)))
    if layout in ("shuffled", "renamed"):
        rng.shuffle(order)
    for position, number in enumerate(order):
        plane = planes[number]
        path = folder / (plane.name or _name(layout, position, rng))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(enhanced_bytes(plane) if "frames" in plane.options else file_bytes(plane))


def _name(layout: str, number: int, rng: random.Random) -> str:
    if layout == "nested":
        return f"PA{number % 2:06d}/ST{number % 3:06d}/IM{number * 7919 % 97:03d}{number:04d}"
    if layout == "renamed":
        return f"{rng.getrandbits(64):016x}"
    if layout == "scattered":
        return f"{rng.choice('abc')}/{rng.choice(['x', 'y/z', '.'])}/{number}.ima"
    if layout == "odd_names":
        return f"Größe  {number} [x] 'q' %s.DCM" if number % 2 else f"-{number:03d}..tmp"
    return f"{number:04d}.dcm"


QUIRKS: dict[str, Callable[[Plane, int, random.Random], None]] = {}


def quirk(function: Callable[[Plane, int, random.Random], None]) -> Callable[[Plane, int, random.Random], None]:
    """Register something that headers hold and that changes neither place nor value."""
    QUIRKS[function.__name__] = function
    return function


@quirk
def zero_length_tags(plane: Plane, number: int, rng: random.Random) -> None:
    for word in ("PatientName", "PatientAge", "SliceThickness", "KVP", "AcquisitionNumber", "InstanceNumber",
                 "RescaleType", "StudyTime", "ConvolutionKernel", "Exposure", "PatientPosition"):  # fmt: skip
        setattr(plane.ds, word, None)


@quirk
def shuffled_numbers(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.InstanceNumber = (number * 7919 + 13) % 1000
    plane.ds.SliceLocation = f"{rng.uniform(-300, 300):.3f}"


@quirk
def descending_numbers(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.InstanceNumber = 1000 - number


@quirk
def huge_numbers(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.InstanceNumber = 2**31 - 1 - number


@quirk
def wrong_charset(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.SpecificCharacterSet = rng.choice(["ISO_IR 999", "ISO 2022 IR 87", "utf8", "ISO_IR 192"])
    plane.ds.add_new(0x00081030, "LO", b"Thor\xe4x \xff\xfe \x1b$B")
    plane.ds.add_new(0x00100010, "PN", b"M\xfcller^J\xf6rg=\x1b$B;3ED\x1b(B")


@quirk
def private_and_nested(plane: Plane, number: int, rng: random.Random) -> None:
    inner, outer = Dataset(), Dataset()
    inner.ImagePositionPatient, inner.RescaleIntercept, inner.Rows = [1, 2, 3], 77, 3
    inner.PixelSpacing = [9, 9]
    outer.ReferencedImageSequence = Sequence([inner])
    plane.ds.SourceImageSequence = Sequence([outer, inner])
    plane.ds.add_new(0x00090010, "LO", "SOMEBODY 1.0")
    plane.ds.add_new(0x00091001, "UN", rng.randbytes(21 * 2))
    plane.ds["SourceImageSequence"].is_undefined_length = True


@quirk
def icon_image(plane: Plane, number: int, rng: random.Random) -> None:
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.BitsStored, icon.HighBit = 4, 4, 8, 8, 7
    icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.PixelRepresentation = 1, "MONOCHROME2", 0
    icon.add_new(0x7FE00010, "OB", bytes(range(16)))
    plane.ds.IconImageSequence = Sequence([icon])


@quirk
def one_frame(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.NumberOfFrames = 1


@quirk
def untidy_numbers(plane: Plane, number: int, rng: random.Random) -> None:
    ds = plane.ds
    ds.add_new(0x00280030, "DS", "\\".join(f" {float(value):.9f}"[:15] + " " for value in ds.PixelSpacing).encode())
    ds.add_new(0x00281053, "DS", f"+{float(ds.RescaleSlope)} ".encode())
    ds.add_new(0x00281052, "DS", f"{float(ds.RescaleIntercept):.6e}".encode())


@quirk
def negative_zeros(plane: Plane, number: int, rng: random.Random) -> None:
    ds = plane.ds
    for word in ("ImagePositionPatient", "ImageOrientationPatient"):
        values = [float(value) for value in getattr(ds, word)]
        texts = [str(text) if value else "-0.0" for text, value in zip(getattr(ds, word), values, strict=True)]
        setattr(ds, word, texts)


@quirk
def misleading_spacing(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.SliceThickness, plane.ds.SpacingBetweenSlices, plane.ds.GantryDetectorTilt = 4, 5, 12


@quirk
def trailing_padding_element(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.add_new(0xFFFCFFFC, "OB", bytes(rng.randrange(2, 200, 2)))


@quirk
def new_private_uid(plane: Plane, number: int, rng: random.Random) -> None:
    plane.ds.add_new(0x00080014, "UI", new_uid(rng))
    plane.ds.add_new(0x00080016, "UI", str(plane.ds.SOPClassUID))
