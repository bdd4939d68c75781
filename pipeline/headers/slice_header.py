"""The facts that intake needs out of one DICOM header, each checked on its own: a bad value is a missing value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.headers.multiframe import FrameFacts, read_frames
from pipeline.headers.values import (
    Values,
    Vector,
    integer_of,
    number_of,
    numbers_of,
    padding_of,
    text_of,
    texts_of,
)

# fmt: off
#: every element that a SliceHeader is made of
KEYWORDS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime",
    "Modality", "Manufacturer", "ManufacturerModelName", "PatientName", "PatientID", "IssuerOfPatientID",
    "OtherPatientIDs", "OtherPatientNames", "PatientSex", "PatientAge", "AccessionNumber", "ContrastBolusAgent",
    "SliceThickness", "KVP", "Exposure", "ConvolutionKernel", "StudyInstanceUID", "SeriesInstanceUID",
    "AcquisitionNumber", "TemporalPositionIdentifier", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "BurnedInAnnotation", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "InstanceNumber",
    "SeriesNumber",
    "ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]
# fmt: on


@dataclass(frozen=True)
class SliceHeader:
    """One image plane: where its pixels lie, its geometry and what turns them into HU.

    path, sop_instance_uid, series_instance_uid, study_instance_uid, frame_of_reference_uid, patient_id, issuer,
    study_date, identifiers: identity, for keys only. `identifiers` are strings no kept label may contain.
    relative: path below the source, POSIX. frame: index in a multi-frame object, else 0.
    position, orientation, pixel_spacing: ImagePositionPatient (LPS mm), ImageOrientationPatient, (row, column) mm.
    pixel_offset, pixel_length: where the value of native pixel data starts in the file and its length in bytes; offset
    is -1 where the file must be parsed again (deflated) and None where there are no pixels.
    transfer_syntax: what the bytes of the file are; "" where the pixels are in items of no known code stream.
    declared_syntax: what its meta information says, where that is something else; "" where it is right or absent.
    inflated_offset: where the pixels start in the inflated dataset.
    file_bytes, modified_ns: size and time of change of the file as its header was read.
    broken: the header is damaged behind what is told here, so that there are no pixels.
    acquisition_time, content_time, instance_number: tell acquisitions under one UID apart; nothing is sorted by them.
    concatenation: UID of the concatenation that a multi-frame object is a part of, its number and how many there are.
    """

    path: Path = field(repr=False)
    relative: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    study_date: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False)
    sop_class_uid: str
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    position: Vector | None
    orientation: Vector | None
    pixel_spacing: Vector | None
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    padding_value: int | None
    padding_limit: int | None
    lossy: bool
    burned_in: bool
    acquisition: tuple[str, ...]
    manufacturer: str = field(repr=False)
    model_name: str = field(repr=False)
    kernel: str = field(repr=False)
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    exposure_mas: float | None = None
    contrast: bool | None = None
    patient_sex: str = field(default="", repr=False)
    patient_age: str = field(default="", repr=False)
    n_frames: int = 1
    frame: int = 0
    pixel_offset: int | None = None
    pixel_length: int = 0
    frames: tuple[FrameFacts, ...] = ()
    acquisition_time: str = field(default="", repr=False)
    content_time: str = field(default="", repr=False)
    instance_number: int | None = None
    series_number: int | None = None
    lossy_method: str = ""
    lossy_ratio: float | None = None
    concatenation: tuple[str, str, str] = field(default=("", "", ""), repr=False)
    declared_syntax: str = ""
    inflated_offset: int = 0
    file_bytes: int = 0
    modified_ns: int = 0
    broken: bool = False


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file besides the values of its elements; the fields are those of SliceHeader."""

    path: Path
    relative: str
    transfer_syntax: str
    declared_syntax: str = ""
    pixel_offset: int | None = None
    pixel_length: int = 0
    inflated_offset: int = 0
    file_bytes: int = 0
    modified_ns: int = 0
    broken: bool = False


def slice_header(dataset: Values, file: FileFacts) -> SliceHeader | None:
    """The facts of one file; None where it is DICOM without being an instance (no SOP Class and no Modality)."""
    sop_class, modality = text_of(dataset, "SOPClassUID"), text_of(dataset, "Modality").upper()
    if not sop_class and not modality:
        return None
    allocated = integer_of(dataset, "BitsAllocated", 16)
    stored = integer_of(dataset, "BitsStored", allocated)
    signed = integer_of(dataset, "PixelRepresentation", 0) == 1
    identifiers = [text_of(dataset, word) for word in ("PatientName", "PatientID", "AccessionNumber")]
    identifiers += [*texts_of(dataset, "OtherPatientIDs"), *texts_of(dataset, "OtherPatientNames")]
    contrast = text_of(dataset, "ContrastBolusAgent")
    n_frames = max(integer_of(dataset, "NumberOfFrames", 1), 1)
    return SliceHeader(
        sop_instance_uid=text_of(dataset, "SOPInstanceUID"),
        series_instance_uid=text_of(dataset, "SeriesInstanceUID"),
        study_instance_uid=text_of(dataset, "StudyInstanceUID"),
        patient_id=text_of(dataset, "PatientID"),
        issuer=text_of(dataset, "IssuerOfPatientID"),
        study_date=text_of(dataset, "StudyDate"),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
        identifiers=tuple(item for item in identifiers if item),
        sop_class_uid=sop_class,
        modality=modality,
        image_type=tuple(item.upper() for item in texts_of(dataset, "ImageType")),
        rows=integer_of(dataset, "Rows", 0),
        columns=integer_of(dataset, "Columns", 0),
        samples_per_pixel=integer_of(dataset, "SamplesPerPixel", 1),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=integer_of(dataset, "HighBit", stored - 1),
        signed=signed,
        position=numbers_of(dataset, "ImagePositionPatient", 3),
        orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=numbers_of(dataset, "PixelSpacing", 2),
        rescale_slope=number_of(dataset, "RescaleSlope"),
        rescale_intercept=number_of(dataset, "RescaleIntercept"),
        rescale_type=text_of(dataset, "RescaleType").upper(),
        padding_value=padding_of(dataset, "PixelPaddingValue", signed, allocated),
        padding_limit=padding_of(dataset, "PixelPaddingRangeLimit", signed, allocated),
        lossy=text_of(dataset, "LossyImageCompression") == "01",
        burned_in=text_of(dataset, "BurnedInAnnotation").upper() == "YES",
        acquisition=(text_of(dataset, "AcquisitionNumber"), text_of(dataset, "TemporalPositionIdentifier")),
        manufacturer=text_of(dataset, "Manufacturer"),
        model_name=text_of(dataset, "ManufacturerModelName"),
        kernel=" ".join(texts_of(dataset, "ConvolutionKernel")),
        slice_thickness_mm=number_of(dataset, "SliceThickness"),
        kvp=number_of(dataset, "KVP"),
        exposure_mas=number_of(dataset, "Exposure"),
        contrast=contrast.upper() not in ("", "NO", "NONE") if "ContrastBolusAgent" in dataset else None,
        patient_sex=text_of(dataset, "PatientSex").upper(),
        patient_age=text_of(dataset, "PatientAge").upper(),
        n_frames=n_frames,
        frames=read_frames(dataset, n_frames),
        acquisition_time=text_of(dataset, "AcquisitionDateTime") or text_of(dataset, "AcquisitionTime"),
        content_time=text_of(dataset, "ContentTime"),
        instance_number=int(number) if (number := number_of(dataset, "InstanceNumber")) is not None else None,
        series_number=int(number) if (number := number_of(dataset, "SeriesNumber")) is not None else None,
        lossy_method="/".join(texts_of(dataset, "LossyImageCompressionMethod")),
        lossy_ratio=max(_ratios(dataset), default=None),
        concatenation=(
            text_of(dataset, "ConcatenationUID"),
            text_of(dataset, "InConcatenationNumber"),
            text_of(dataset, "InConcatenationTotalNumber"),
        ),
        **file.__dict__,
    )


def _ratios(dataset: Values) -> list[float]:
    """LossyImageCompressionRatio of each compression that the pixels went through, as far as they are numbers."""
    try:
        return [float(text) for text in texts_of(dataset, "LossyImageCompressionRatio")]
    except ValueError:
        return []
