"""Small CT series as DICOM files with their truth, in the form that judge_traps.py reads.

hu (slices, rows, columns), ipp (slices, 3), iop (slices, 6), ps (2,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

N, ROWS, COLUMNS = 24, 48, 40
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
#: identifiers that must not be found anywhere behind the door
NAME, BIRTH_DATE, INSTITUTION, PHYSICIAN = (
    "Zwetschge^Ottilie",
    "19480229",
    "Klinikum Hinterposemuckel",
    "Quacksalber^Egon",
)
STUDY_DATE = "20190731"


@dataclass
class Truth:
    """A series as it lies in the patient."""

    hu: np.ndarray
    ipp: np.ndarray
    iop: np.ndarray
    ps: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, hu=self.hu, ipp=self.ipp, iop=self.iop, ps=self.ps)


def body_hu(n: int = N, rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> np.ndarray:
    """A chest in small: air around, a wall, lungs with vessels, bone; int16 HU (n, rows, columns)."""
    rng = np.random.default_rng(seed)
    k, j, i = np.mgrid[:n, :rows, :columns].astype(float)
    y, x = (j - rows / 2) / (rows / 2), (i - columns / 2) / (columns / 2)
    hu = np.full((n, rows, columns), -1000.0)
    hu[x**2 + y**2 < 0.9] = 40
    hu[(np.abs(x) - 0.45) ** 2 / 0.1 + y**2 / 0.4 < 1 - 0.004 * k] = -850
    hu[(np.abs(x) < 0.12) & (np.abs(y - 0.6) < 0.15)] = 500
    hu += 60 * np.sin(k / 3 + i / 4) * np.cos(j / 5 - k / 7)
    return np.rint(hu + rng.normal(0, 12, hu.shape)).clip(-1024, 3000).astype(np.int16)


def truth_of(
    hu: np.ndarray | None = None,
    *,
    iop: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    ps: tuple[float, float] = (0.7, 0.7),
    step: tuple[float, float, float] | None = None,
    origin: tuple[float, float, float] = (-120.5, -98.25, 33.0),
) -> Truth:
    """Slices 2 mm apart along the normal unless `step` says otherwise."""
    hu = body_hu() if hu is None else hu
    row, column = np.array(iop[:3], float), np.array(iop[3:], float)
    move = 2.0 * np.cross(row, column) if step is None else np.array(step)
    ipp = np.array(origin) + np.arange(len(hu))[:, None] * move
    return Truth(hu, ipp, np.tile(np.array(iop, float), (len(hu), 1)), np.array(ps, float))


def slices_of(truth: Truth, patient_id: str, *, study: str = "", series: str = "") -> list[Dataset]:
    """One dataset a slice, explicit little endian, signed 16 bit, slope 1, intercept -1024."""
    study, series, frame = study or generate_uid(), series or generate_uid(), generate_uid()
    datasets = []
    for number in range(len(truth.hu)):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CT, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = NAME, patient_id, BIRTH_DATE, "F"
        ds.PatientAge, ds.InstitutionName, ds.ReferringPhysicianName = "071Y", INSTITUTION, PHYSICIAN
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = STUDY_DATE
        ds.StudyTime, ds.AccessionNumber, ds.StudyID = "101500", "ACC4711", "4711"
        ds.StudyDescription = f"Thorax {NAME}"
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "FACTORY", "Factory One"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ConvolutionKernel, ds.KVP, ds.Exposure, ds.SliceThickness = "SOFT", 120, 90, 2
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 3, 1, number + 1
        ds.ImagePositionPatient = [f"{value:.6f}" for value in truth.ipp[number]]
        ds.ImageOrientationPatient = [f"{value:.9f}" for value in truth.iop[number]]
        ds.PixelSpacing = [f"{value:.6f}" for value in truth.ps]
        ds.PatientPosition = "HFS"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        set_stored(ds, truth.hu[number].astype(np.int32) + 1024)
        datasets.append(ds)
    return datasets


def set_stored(ds: Dataset, stored: np.ndarray) -> None:
    """Put stored values (rows, columns) into a dataset as native pixels."""
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.astype(np.uint16 if stored.min() >= 0 else np.int16).astype("<i2", casting="unsafe").tobytes()
    ds["PixelData"].VR = "OW"


def stored_of(ds: Dataset) -> np.ndarray:
    """Native stored values, int32 (rows, columns)."""
    kind = "<i2" if ds.PixelRepresentation else "<u2"
    return np.frombuffer(ds.PixelData, kind).reshape(ds.Rows, ds.Columns).astype(np.int32)


def compress(ds: Dataset, syntax: str) -> None:
    """Compress the pixels of a dataset without loss."""
    stored = stored_of(ds).astype(np.uint16)
    if syntax == RLELossless:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return
    encode: Callable[[np.ndarray], bytes] = {
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEG2000Lossless: lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0),
        JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    }[syntax]
    ds.PixelData = encapsulate([bytes(encode(stored))])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian, *, preamble: bool = True) -> None:
    """Write a dataset with its meta information, or bare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not preamble:
        ds.file_meta = FileMetaDataset()
        ds.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=False)
        return
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    if syntax == ExplicitVRBigEndian:
        swapped = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds.PixelData = swapped
    ds.save_as(path, enforce_file_format=True)


def enhanced(truth: Truth, patient_id: str, slopes: np.ndarray, intercepts: np.ndarray, rescale_type: str) -> Dataset:
    """One enhanced multi-frame object with positions and rescale in every frame."""
    ds = slices_of(truth, patient_id)[0]
    for word in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "ConvolutionKernel",
    ):
        delattr(ds, word)
    for word in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(ds, word)
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED, len(truth.hu)
    stored = np.rint((truth.hu - intercepts[:, None, None]) / slopes[:, None, None]).astype("<i2")
    truth.hu = np.rint(stored * slopes[:, None, None] + intercepts[:, None, None]).astype(np.int16)
    ds.PixelData = stored.tobytes()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [f"{value:.6f}" for value in truth.ps], 2
    orientation.ImageOrientationPatient = [f"{value:.9f}" for value in truth.iop[0]]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        frame, plane, rescale = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = [f"{value:.6f}" for value in truth.ipp[number]]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = (
            float(slope),
            float(intercept),
            rescale_type,
        )
        frame.PlanePositionSequence = Sequence([plane])
        frame.PixelValueTransformationSequence = Sequence([rescale])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds


def write_series(folder: Path, datasets: list[Dataset], syntax: Any = ExplicitVRLittleEndian, **options: Any) -> None:
    """Write slices as 000.dcm, 001.dcm, ... below `folder`."""
    for number, ds in enumerate(datasets):
        save(ds, folder / f"{number:03d}.dcm", syntax, **options)
