"""Scenarios of an adaptation: the phantom's nodules seen by a scanner at home and by another one abroad.

Patches are drawn straight from the phantom's own shapes, textures and vessels, without DICOM files in between: a cube
of 32 mm about the nodule, slices of the scanner's thickness through it, its kernel and its noise, and from these an
axial, a coronal and a sagittal plane of 1 mm pixels. The cubes are drawn once and kept in bench/cache.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.records import atomic_path
from pipeline.cohort.lidc_database import LidcDatabase, LidcNodule
from pipeline.cohort.phantom_anatomy import AxialGrid
from pipeline.cohort.phantom_plan import builtin_reserved_patients
from pipeline.cohort.phantom_shape import consensus_shape, edge_width_mm, nodule_hu
from pipeline.cohort.phantom_vessels import VesselTree, draw_vessels

PIXELS, PIXEL_MM = 32, 1.0
PATCH_SHAPE = (3, PIXELS, PIXELS)
SIZE_MM = PIXELS * PIXEL_MM
_LUNG_HU, _VESSEL_HU = -850.0, 42.0
#: part of the name of the file of cubes: a change of how they are drawn makes new ones
_VERSION = 1
#: share of patients in: source training, source validation, target without labels, target test
_SHARES = (0.34, 0.14, 0.20, 0.32)
#: how often each test nodule is scanned, turned about z each time: less of what is measured is luck of one scan
_TEST_SCANS = 4
#: (sharpening, its width in mm, blur in mm, blur of the noise in mm) of a reconstruction kernel
KERNELS = {
    "soft": (0.0, 1.1, 0.65, 0.9),
    "medium": (0.35, 1.1, 0.3, 0.55),
    "sharp": (0.9, 1.1, 0.0, 0.0),
}
PREVALENCES = {"same": (1.0, 1.0), "few malignant": (0.15, 1.0), "few benign": (1.0, 0.3)}


@dataclass(frozen=True)
class Scanner:
    """Kernel by name, noise in HU (standard deviation; more is less dose), slice thickness in mm."""

    kernel: str
    noise_hu: float
    thickness_mm: float

    def __str__(self) -> str:
        return f"{self.kernel}, {self.noise_hu:g} HU, {self.thickness_mm:g} mm"


HOME = Scanner("soft", 18.0, 1.25)


@dataclass(frozen=True)
class Scenario:
    """A target site: its scanner, and the shares of malignant and benign nodules that are left in its unlabelled set.

    The test set of the target keeps all its nodules: AUC and balanced accuracy do not depend on their mix.
    """

    number: int
    scanner: Scanner
    prevalence: str

    def __str__(self) -> str:
        return f"{self.scanner}; {self.prevalence}"


def scenarios() -> tuple[Scenario, ...]:
    """The thirty: (kernel, dose) x thickness x prevalence; the first is no shift at all."""
    looks = (("soft", 18.0), ("soft", 120.0), ("medium", 60.0), ("sharp", 40.0), ("sharp", 140.0))
    made = itertools.product(looks, (1.25, 4.0), PREVALENCES)
    return tuple(
        Scenario(number, Scanner(kernel, noise_hu, thickness_mm), prevalence)
        for number, ((kernel, noise_hu), thickness_mm, prevalence) in enumerate(made)
    )


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches int16 HU (n, 3, 32, 32) and labels (n,)."""

    patches: NDArray[np.int16]
    labels: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cohort:
    """What one scenario gives: four groups of patients."""

    train: Patches
    validation: Patches
    target: Patches
    test: Patches


def cohort_of(scenario: Scenario, seed: int, objects: Objects) -> Cohort:
    """Draw a scenario; the seed decides which patient is in which group and everything that is random.

    The test holds each of its nodules four times, in four poses and with other noise.
    """
    rng = np.random.default_rng([seed, scenario.number])
    patients = np.unique(objects.patients)
    part_of = dict(zip(patients.tolist(), rng.choice(len(_SHARES), len(patients), p=_SHARES).tolist(), strict=True))
    part = np.array([part_of[patient] for patient in objects.patients.tolist()])
    kept = np.where(objects.labels > 0, *PREVALENCES[scenario.prevalence])
    part[(part == 2) & (rng.random(len(part)) >= kept)] = -1
    scanners = (HOME, HOME, scenario.scanner, scenario.scanner)
    scans = (1, 1, 1, _TEST_SCANS)
    return Cohort(
        *(_scan(objects, np.flatnonzero(part == n), scanners[n], rng, scans[n]) for n in range(len(scanners)))
    )


def _scan(
    objects: Objects, members: NDArray[np.int64], scanner: Scanner, rng: np.random.Generator, times: int
) -> Patches:
    turned = [np.rot90(objects.hu[number], turns, axes=(1, 2)) for turns in range(times) for number in members]
    return Patches(np.stack([scan(hu, scanner, rng) for hu in turned]), np.tile(objects.labels[members], times))


def scan(hu: NDArray[np.int16], scanner: Scanner, rng: np.random.Generator) -> NDArray[np.int16]:
    """One patch, int16 HU (3, 32, 32), of a cube: axial, coronal and sagittal plane through the middle."""
    axis = (np.arange(PIXELS) - (PIXELS - 1) / 2) * PIXEL_MM
    # the lattice of slices lies anywhere about the nodule; a slice is the mean of what lies within its thickness
    count = int(np.ceil(SIZE_MM / scanner.thickness_mm)) + 1
    middles = (np.arange(count) - (count - 1) / 2 + rng.uniform(-0.5, 0.5)) * scanner.thickness_mm
    within = np.clip(0.5 + (scanner.thickness_mm / 2 - np.abs(axis[None] - middles[:, None])) / PIXEL_MM, 0, 1)
    within /= np.maximum(within.sum(axis=1, keepdims=True), 1e-6)
    inside = within.sum(axis=1) > 0.5
    slices = np.tensordot(within[inside].astype(np.float32), hu.astype(np.float32), axes=1)
    slices = _reconstruct(slices, scanner, rng)
    rows = (axis - middles[inside][0]) / scanner.thickness_mm
    half = PIXELS // 2
    central = int(np.abs(middles[inside]).argmin())
    planes = np.stack([slices[central], _along_z(slices[:, half], rows), _along_z(slices[:, :, half], rows)])
    return np.clip(np.rint(planes), -1024, 3071).astype(np.int16)


def _reconstruct(slices: NDArray[np.float32], scanner: Scanner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Slices as the kernel shows them, with noise of the kernel's texture: the formulas of the phantom's scanners."""
    sharpening, width_mm, blur_mm, noise_blur_mm = KERNELS[scanner.kernel]
    # OpenCV blurs the last axis as channels: one call for all slices
    hu = np.ascontiguousarray(slices.transpose(1, 2, 0))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    if sharpening:
        hu = hu + np.float32(sharpening) * (hu - _blur(hu, width_mm))
        noise = noise - np.float32(0.65 * sharpening) * _blur(noise, PIXEL_MM)
    if blur_mm:
        hu = _blur(hu, blur_mm)
    if noise_blur_mm:
        noise = _blur(noise, noise_blur_mm)
    hu = hu + noise * np.float32(scanner.noise_hu / max(float(noise.std()), 1e-6))
    return np.ascontiguousarray(hu.transpose(2, 0, 1))


def _blur(planes: NDArray[np.float32], sigma_mm: float) -> NDArray[np.float32]:
    # separable, at most four standard deviations wide, however many channels
    sigma = sigma_mm / PIXEL_MM
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma).astype(np.float32)
    return np.asarray(cv2.sepFilter2D(planes, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)).reshape(planes.shape)


def _along_z(plane: NDArray[np.float32], rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """(slice, column) at fractional slices, linear."""
    low = np.clip(np.floor(rows).astype(int), 0, len(plane) - 2)
    part = np.clip(rows - low, 0, 1)[:, None]
    return np.asarray(plane[low] * (1 - part) + plane[low + 1] * part, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Objects:
    """What is scanned: cubes hu int16 (n, 32, 32, 32) = (z, y, x), labels (n,), and numbers of their patients (n,)."""

    hu: NDArray[np.int16]
    labels: NDArray[np.float64]
    patients: NDArray[np.int64]


def draw_objects(cache: Path | None = None, limit: int = 0) -> Objects:
    """Nodules of at least two readers with a label, without the patients that are set aside.

    Parameters
    ----------
    cache: folder in which the cubes are kept; nothing is kept where None.
    limit: no more nodules than this, 0 for all; those of the same patients for the same limit.
    """
    path = None if cache is None else cache / f"adaptation-objects-{_VERSION}-{limit}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            return Objects(stored["hu"], stored["labels"], stored["patients"])
    rng = np.random.default_rng(_VERSION)
    database, reserved = LidcDatabase(), set(builtin_reserved_patients())
    patients = [patient for patient in database.patients() if patient not in reserved]
    cubes, labels, owners = [], [], []
    for owner in rng.permutation(len(patients)).tolist():
        for nodule in database.nodules(patients[owner], min_readers=2):
            mean = nodule.mean_ratings["malignancy"]
            if mean != 3 and (not limit or len(cubes) < limit):
                cubes.append(_cube(nodule, rng))
                labels.append(float(mean > 3))
                owners.append(owner)
    made = Objects(np.stack(cubes), np.array(labels), np.array(owners))
    if path is not None:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, hu=made.hu, labels=made.labels, patients=made.patients)
    return made


def _cube(nodule: LidcNodule, rng: np.random.Generator) -> NDArray[np.int16]:
    """HU before any scanner (z, y, x) about a nodule, which lies somewhere near the middle."""
    grid = AxialGrid(PIXELS, SIZE_MM)
    axis = grid.axis_mm
    coarse = rng.standard_normal((PIXELS // 4,) * 3, dtype=np.float32)
    grain = ndimage.zoom(coarse, 4, order=1)
    hu = _LUNG_HU + 16 * rng.standard_normal() + grain * (20 / float(grain.std()))
    hu = hu + draw_vessels(_few_vessels(rng), grid, axis) * (_VESSEL_HU - hu)
    shape = consensus_shape(nodule)
    edge = max(edge_width_mm(nodule.mean_ratings), PIXEL_MM)
    offset = rng.uniform(-1.2, 1.2, 3)
    reach = shape.radius_mm + edge
    box = tuple(slice(*np.searchsorted(axis, (away - reach, away + reach))) for away in offset)
    distance = shape.at(*(axis[part] - away for part, away in zip(box, offset, strict=True)))
    share = np.clip(distance / edge + 0.5, 0, 1)
    # what is denser already (vessels) stays
    hu[box] += share * np.maximum(nodule_hu(nodule, distance, rng) - hu[box], 0)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _few_vessels(rng: np.random.Generator) -> VesselTree:
    number = int(rng.integers(3, 9))
    middle = rng.uniform(-SIZE_MM / 2, SIZE_MM / 2, (number, 3))
    way = rng.standard_normal((number, 3))
    way *= rng.uniform(5, 14, (number, 1)) / np.linalg.norm(way, axis=1, keepdims=True)
    return VesselTree(middle - way, middle + way, rng.uniform(0.5, 1.8, number))
