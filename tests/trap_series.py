"""A CT series before anything is done to it: voxels, pose, numbers as they are written, and its truth.

Everything is drawn from one `random.Random`, so that a seed or a hypothesis strategy makes the same series again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from dicom_factory import BIRTH_DATE, CT, INSTITUTION, NAME, PHYSICIAN, STUDY_DATE, body_hu
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

#: (row, column) directions of common poses and reformats
POSES: dict[str, tuple[float, ...]] = {
    "supine": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet_first": (-1, 0, 0, 0, 1, 0),
    "decubitus_right": (0, 1, 0, -1, 0, 0),
    "decubitus_left": (0, -1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


@dataclass
class Truth:
    """A series as it lies in the patient. mask: what counts of each plane, (rows, columns) bool, or None for all."""

    hu: np.ndarray
    ipp: np.ndarray
    iop: np.ndarray
    ps: np.ndarray
    mask: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """In the form that judges read: hu (slices, rows, columns), ipp (slices, 3), iop (slices, 6), ps (2,)."""
        arrays = {"hu": self.hu.astype(np.float32), "ipp": self.ipp, "iop": self.iop, "ps": self.ps}
        if self.mask is not None:
            arrays["mask"] = self.mask
        np.savez_compressed(path, **arrays)


@dataclass
class Plan:
    """What is drawn before a series is made; kinds of trap change it. Sizes in px, lengths in mm.

    low, high: HU the voxels are clipped to. step_mm: slice step along the normal, negative for a table that travels
    the other way. shear: lateral step as a fraction of the step, (along columns, along rows). decimals: of positions
    as written. jitter_mm: largest noise of positions along the normal. slope, intercept: rescale of each slice.
    """

    n: int
    rows: int
    columns: int
    pose: str
    step_mm: float
    ps: tuple[float, float]
    voxels: str = "synthetic"
    iop: tuple[float, ...] | None = None
    origin: tuple[float, float, float] = (-120.5, -98.25, 33.0)
    shear: tuple[float, float] = (0.0, 0.0)
    jitter_mm: float = 0.0
    decimals: int = 6
    iop_decimals: int = 9
    slope: float = 1.0
    intercept: float = -1024.0
    bits: tuple[int, int, int] = (16, 16, 15)
    signed: bool = True
    syntax: str = ExplicitVRLittleEndian
    preamble: bool = True
    low: int = -1024
    high: int = 3071
    layout: str = "flat"
    quirks: tuple[str, ...] = ()
    rescale_of: Callable[[int], tuple[float, float]] | None = None


@dataclass
class Plane:
    """One slice as a dataset without pixels, and its stored values; `alter` changes the bytes of the file."""

    ds: Dataset
    stored: np.ndarray
    syntax: str
    preamble: bool = True
    alter: Callable[[bytes], bytes] | None = None
    name: str = ""
    options: dict[str, object] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        return str(self.ds.SOPInstanceUID)


def new_uid(rng: random.Random) -> str:
    """A UID out of the drawn numbers, so that the same draw makes the same bytes."""
    return f"1.2.826.0.1.3680043.8.498.{rng.getrandbits(96) + 2**97}"


def draw_plan(rng: random.Random, sources: Sequence[str] = (), *, small: bool = True) -> Plan:
    """A sound series of any pose, size and numbers."""
    top = 44 if small else 160
    plan = Plan(
        n=rng.randint(8, 26),
        rows=rng.randint(16, top),
        columns=rng.randint(16, top),
        pose=rng.choice([*POSES, "oblique", "supine", "supine"]),
        step_mm=rng.choice([0.4, 0.625, 0.7, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0, 8.0]) * rng.choice([1, 1, 1, -1]),
        ps=(0.0, 0.0),
        origin=tuple(round(rng.uniform(-500, 500), rng.choice([1, 3, 6])) for _ in range(3)),  # type: ignore[arg-type]
        decimals=rng.choice([3, 4, 6, 6, 9]),
        iop_decimals=rng.choice([6, 7, 9]),
        slope=rng.choice([1.0, 1.0, 1.0, 1.0, 2.0, 0.5, 1.00048828, 0.3]),
        intercept=rng.choice([-1024.0, -1024.0, -1000.0, 0.0, -2048.0, -8192.0, -1024.5]),
        signed=rng.random() < 0.6,
    )
    spacing = rng.choice([0.488281, 0.54, 0.7, 0.703125, 0.9765625, 1.171875, round(rng.uniform(0.3, 1.5), 6)])
    plan.ps = (spacing, rng.choice([spacing, spacing, spacing, 0.8]))
    if plan.pose == "oblique":
        plan.iop = oblique(rng)
    if sources and rng.random() < 0.5:
        plan.voxels = rng.choice(list(sources))
    if not plan.signed and plan.slope * 65535 + plan.intercept < plan.high:
        plan.high = int(plan.slope * 65535 + plan.intercept)
    if not plan.signed and plan.intercept > -1024:
        plan.intercept = -1024.0
    if plan.slope < 0.5 or abs(plan.intercept) > 4000:
        plan.intercept, plan.slope = -1024.0, max(plan.slope, 0.3)
    return plan


def oblique(rng: random.Random) -> tuple[float, ...]:
    """Orthonormal row and column directions at no angle in particular."""
    turn = np.linalg.qr(np.random.default_rng(rng.getrandbits(32)).normal(size=(3, 3)))[0]
    return (*turn[0], *turn[1])


def voxels_of(plan: Plan, rng: random.Random) -> np.ndarray:
    """int16 HU (n, rows, columns): the synthetic chest, or a window of a real CT where there is lung and wall."""
    seed = rng.getrandbits(32)
    if plan.voxels == "synthetic":
        return body_hu(plan.n, plan.rows, plan.columns, seed)
    whole, draw = real_volume(plan.voxels), np.random.default_rng(seed)
    n, rows, columns = plan.n, min(plan.rows, whole.shape[1]), min(plan.columns, whole.shape[2])
    reach = whole.shape[0] - 1
    for _ in range(60):
        start, top, left = (
            int(draw.integers(0, max(size, 1))) for size in (reach, whole.shape[1] - rows, whole.shape[2] - columns)
        )
        # a stack longer than what is left turns round at the end, as a swing does: neighbours stay alike
        turn = np.abs((start + np.arange(n) + reach) % (2 * reach) - reach)
        window = whole[turn, top : top + rows, left : left + columns]
        dense = float(np.mean(window > -500))
        if 0.05 < dense < 0.95 and window.min() > -1500:
            return window.copy()
    return body_hu(n, rows, columns, seed)


@lru_cache(maxsize=4)
def real_volume(folder: str) -> np.ndarray:
    """int16 HU (slices, rows, columns) of a folder of plain CT slices, by pydicom and imagecodecs alone."""
    planes = []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix not in ("", ".dcm") or not path.is_file():
            continue
        ds = pydicom.dcmread(path, force=True)
        if ds.get("Modality") != "CT" or "ImagePositionPatient" not in ds:
            continue
        if ds.file_meta.TransferSyntaxUID.is_compressed:
            stored = imagecodecs.jpegls_decode(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
            stored = stored.view(np.int16) if ds.PixelRepresentation else stored
        else:
            stored = np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(
                ds.Rows, ds.Columns
            )
        hu = stored.astype(np.int32) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        planes.append((float(ds.ImagePositionPatient[2]), hu.clip(-3024, 3071).astype(np.int16)))
    return np.stack([plane for _, plane in sorted(planes, key=lambda item: item[0])])


def real_sources(data: Path) -> list[str]:
    """Folders of real CTs below an unpacked data folder; none where there is none."""
    found = [data / "shared_candidate" / "chest_nlst_143_jpegls", data / "LIDC-IDRI-0001"]
    found += sorted(path for path in (data / "Lung_Dx-A0002").glob("*/*") if "B40f" in path.name or "B70f" in path.name)
    return [str(path) for path in found if path.is_dir()]


def text_of_number(value: float, decimals: int) -> str:
    """A decimal string of at most 16 characters; tiny negatives keep their sign, as some writers do."""
    text = f"{value:.{decimals}f}"
    while len(text) > 16:
        decimals -= 1
        text = f"{value:.{decimals}f}"
    return text


def truth_and_planes(plan: Plan, rng: random.Random, patient: str, **uids: str) -> tuple[Truth, list[Plane]]:
    """The series of a plan: its truth as the headers say it, and one plane a slice in order along the step."""
    hu = voxels_of(plan, rng).clip(plan.low, plan.high)
    iop = np.array(plan.iop or POSES[plan.pose], float)
    row, column = iop[:3], iop[3:]
    step = plan.step_mm * (np.cross(row, column) + plan.shear[0] * column + plan.shear[1] * row)
    noise = np.random.default_rng(rng.getrandbits(32)).uniform(-plan.jitter_mm, plan.jitter_mm, len(hu))
    ideal = np.array(plan.origin) + np.arange(len(hu))[:, None] * step + noise[:, None] * np.cross(row, column)
    ipp_texts = [[text_of_number(value, plan.decimals) for value in place] for place in ideal]
    iop_texts = [text_of_number(value, plan.iop_decimals) for value in iop]
    study, series = uids.get("study") or new_uid(rng), uids.get("series") or new_uid(rng)
    frame = uids.get("frame") or new_uid(rng)
    planes, seen = [], np.empty(hu.shape, np.float64)
    for number in range(len(hu)):
        slope, intercept = plan.rescale_of(number) if plan.rescale_of else (plan.slope, plan.intercept)
        bounds = stored_bounds(plan)
        stored = np.rint((hu[number] - intercept) / slope).clip(*bounds).astype(np.int64)
        seen[number] = stored * slope + intercept
        ds = _header(plan, patient, number, rng)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.ImagePositionPatient, ds.ImageOrientationPatient = ipp_texts[number], iop_texts
        ds.PixelSpacing = [text_of_number(value, 9) for value in plan.ps]
        ds.RescaleSlope, ds.RescaleIntercept = text_of_number(slope, 8), text_of_number(intercept, 4)
        ds.Rows, ds.Columns = stored.shape
        planes.append(Plane(ds, stored, plan.syntax, plan.preamble))
    truth = Truth(
        seen,
        np.array(ipp_texts, float),
        np.tile(np.array(iop_texts, float), (len(hu), 1)),
        np.array([float(text_of_number(value, 9)) for value in plan.ps]),
    )
    return truth, planes


def stored_bounds(plan: Plan) -> tuple[int, int]:
    """Least and greatest stored value."""
    stored = plan.bits[1]
    return (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if plan.signed else (0, 2**stored - 1)


def _header(plan: Plan, patient: str, number: int, rng: random.Random) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, new_uid(rng)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = NAME, patient, BIRTH_DATE, "F"
    ds.PatientAge, ds.InstitutionName, ds.ReferringPhysicianName = "071Y", INSTITUTION, PHYSICIAN
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = STUDY_DATE
    ds.StudyTime, ds.AccessionNumber, ds.StudyID = "101500", "ACC4711", "4711"
    ds.AcquisitionTime = f"1016{math.floor(number / 7) % 60:02d}.{number:06d}"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "FACTORY", "Factory One"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ConvolutionKernel, ds.KVP, ds.Exposure = "SOFT", 120, 90
    ds.SliceThickness = text_of_number(abs(plan.step_mm), 4)
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 3, 1, number + 1
    ds.PatientPosition = "HFS"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = plan.bits
    ds.PixelRepresentation = int(plan.signed)
    ds.RescaleType = "HU"
    return ds


def with_voxels(truth: Truth, hu: np.ndarray) -> Truth:
    """The same place with other voxels."""
    return replace(truth, hu=hu)
