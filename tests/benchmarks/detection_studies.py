"""Studies with known nodules for the search: phantom patients, real chests, and real chests with nodules put in.

The shapes are those of LIDC's readers. LIDC patients that are reserved give none. Of the others a quarter, chosen by a
hash of their names, gives shapes to the studies that judge and the rest to those that teach; patients whose scan is
among the real studies give none at all.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from data_contracts.params import IngestParams, LabelParams, PhantomParams  # noqa: E402
from data_contracts.series import SeriesRecord  # noqa: E402
from data_contracts.volume import CTVolume  # noqa: E402
from pipeline.annotations.formats import read_annotations  # noqa: E402
from pipeline.annotations.match import match_annotations  # noqa: E402
from pipeline.cohort.consensus import nodules_by_consensus  # noqa: E402
from pipeline.cohort.lidc_database import LidcDatabase, LidcNodule  # noqa: E402
from pipeline.cohort.phantom_patient import PhantomPatient  # noqa: E402
from pipeline.cohort.phantom_plan import builtin_reserved_patients, plan_cohort  # noqa: E402
from pipeline.cohort.phantom_shape import NoduleShape, consensus_shape, edge_width_mm, nodule_hu  # noqa: E402
from pipeline.deidentify.pseudonyms import Pseudonymizer  # noqa: E402
from pipeline.imaging.lungs import LungMask, segment_lungs  # noqa: E402
from pipeline.imaging.nifti import read_nifti  # noqa: E402
from pipeline.intake.discover import discover  # noqa: E402
from pipeline.intake.ingest_series import ingest_series  # noqa: E402

Purpose = Literal["teach", "judge"]
#: their chests are among the real studies
_SCANNED = ("LIDC-IDRI-0001",)
_SMALLEST_MM, _LARGEST_MM = 3.0, 40.0
_TRIALS = 400
#: draws from nodules that the readers called ground glass or part-solid; LIDC itself has 1 in 12
_SUBSOLID_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Study:
    """One series and its nodules.

    places_mm: (n, 3) LPS. diameters_mm: (n,). ignored_mm: (m, 4), balls (x, y, z, diameter) in which a candidate counts
    neither for nor against: lesions outside the range that is searched. is_read: readers looked at all of it.
    group: what must not be divided between teaching and judging. texture: (n,), readers' rating, 1 ground glass, 5
    solid, or NaN.
    """

    name: str
    group: str
    volume: CTVolume
    places_mm: np.ndarray
    diameters_mm: np.ndarray
    texture: np.ndarray
    ignored_mm: np.ndarray
    is_read: bool = True


def is_for(patient: str, purpose: Purpose) -> bool:
    """Whether the shapes of a LIDC patient serve this purpose."""
    if patient in _SCANNED or patient in builtin_reserved_patients():
        return False
    quarter = int(hashlib.sha256(f"detection {patient}".encode()).hexdigest(), 16) % 4 == 0
    return quarter == (purpose == "judge")


@lru_cache(maxsize=2)
def shape_pool(purpose: Purpose) -> tuple[LidcNodule, ...]:
    """The nodules of 3 to 40 mm that at least two readers marked, of the patients of this purpose."""
    database = LidcDatabase()
    patients = [patient for patient in database.patients() if is_for(patient, purpose)]
    nodules = [nodule for patient in patients for nodule in database.nodules(patient)]
    return tuple(n for n in nodules if _SMALLEST_MM <= n.diameter_mm <= _LARGEST_MM and len(n.marks) >= 2)


def phantom_studies(purpose: Purpose, seed: int, n_patients: int, per_patient: int = 6) -> Iterator[Study]:
    """Phantom patients of two scanners: 1.25 mm soft and 3 mm sharp."""
    excluded = tuple(patient for patient in LidcDatabase().patients() if not is_for(patient, purpose))
    params = PhantomParams(
        seed=seed,
        n_patients=n_patients,
        nodules_per_patient=per_patient,
        length_mm=220.0,
        min_diameter_mm=_SMALLEST_MM,
        max_diameter_mm=35.0,
        reserved_patients=excluded,
    )
    for plan in plan_cohort(params):
        patient = PhantomPatient(params, plan)
        hu = np.clip(np.rint(np.stack(list(patient.scan()))), -1024, 3071).astype(np.int16)
        pixel, step = patient.grid.pixel_mm, patient.scanner.spacing_mm
        affine = np.array([[0, 0, pixel, 0], [0, pixel, 0, 0], [step, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
        corner = float(patient.grid.axis_mm[0])
        affine[:3, 3] = np.array(patient.origin_mm) + np.array([corner, corner, step / 2])
        truth = patient.truth().groupby("nodule", sort=True).mean(numeric_only=True)
        yield Study(
            name=f"phantom {purpose} {seed}-{plan.index} scanner {plan.site}",
            group=f"phantom-{seed}-{plan.index}",
            volume=CTVolume(hu, affine),
            places_mm=truth[["x_mm", "y_mm", "z_mm"]].to_numpy(),
            diameters_mm=truth["diameter_mm"].to_numpy(),
            texture=truth["texture"].to_numpy(),
            ignored_mm=np.zeros((0, 4)),
        )


def real_studies(unpacked: Path, shared: Path) -> list[Study]:
    """LIDC-IDRI-0001, both kernels of Lung_Dx-A0002, and an NLST chest that nobody read for this."""
    pseudonyms = Pseudonymizer(b"detection", keep_identity=True)
    sources = (
        ("LIDC-IDRI-0001", "LIDC-IDRI-0001", "lidc-xml", sorted((unpacked / "LIDC-IDRI-0001").rglob("069.xml"))),
        (
            "Lung_Dx-A0002",
            "Lung_Dx-A0002",
            "voc-xml",
            sorted((shared / "dicom" / "annotations" / "Lung_Dx-A0002").glob("*.xml")),
        ),
        ("NLST chest", "shared_candidate/chest_nlst_143_jpegls", "", []),
    )
    studies = []
    for name, folder, form, files in sources:
        records = _ingested(unpacked / folder, unpacked / "ingested" / name.replace(" ", "-"), pseudonyms)
        marks = [mark for file in files for mark in read_annotations(file, form)]
        table = match_annotations(marks, records, pseudonyms)[0] if marks else None
        for record in records:
            path = unpacked / "ingested" / name.replace(" ", "-") / record.volume_path
            places, diameters, ignored = np.zeros((0, 3)), np.zeros(0), np.zeros((0, 4))
            if table is not None:
                rows = nodules_by_consensus(table[table["series_key"] == record.series_key], LabelParams())
                balls = rows[["x_mm", "y_mm", "z_mm", "diameter_mm"]].to_numpy(dtype=np.float64)
                is_in_range = (balls[:, 3] >= _SMALLEST_MM) & (balls[:, 3] <= _LARGEST_MM)
                places, diameters, ignored = balls[is_in_range, :3], balls[is_in_range, 3], balls[~is_in_range]
            studies.append(
                Study(
                    name=f"{name} {record.kernel}",
                    group=name,
                    volume=read_nifti(path),
                    places_mm=places,
                    diameters_mm=diameters,
                    texture=np.full(len(places), np.nan),
                    ignored_mm=ignored,
                    is_read=bool(form),
                )
            )
    return studies


def _ingested(source: Path, workspace: Path, pseudonyms: Pseudonymizer) -> list[SeriesRecord]:
    params = IngestParams()
    discovery = discover(source, pseudonyms, params, workspace / "scratch")
    outcomes = [
        item for raw in discovery.series for item in ingest_series(raw, pseudonyms, params, workspace / "series", "a")
    ]
    records = [item for item in outcomes if isinstance(item, SeriesRecord)]
    return sorted(records, key=lambda record: record.kernel)


def with_nodules(study: Study, purpose: Purpose, seed: int, count: int = 12) -> Study:
    """A copy of a real study with nodules of LIDC's shapes put in: inside, at the pleura and on vessels.

    What is denser already stays, the noise of the scan stays, and the nodule is averaged over the slice as the rest is.
    Its own nodules stay part of the truth.
    """
    rng = np.random.default_rng([seed, int(hashlib.sha256(study.name.encode()).hexdigest()[:8], 16)])
    volume = CTVolume(study.volume.hu.copy(), study.volume.affine)
    lungs = segment_lungs(study.volume)
    # never into what the lungs hold already
    balls = [
        *((place, diameter / 2) for place, diameter in zip(study.places_mm, study.diameters_mm, strict=True)),
        *((ball[:3], ball[3] / 2) for ball in study.ignored_mm),
    ]
    depth_mm = ndimage.distance_transform_edt(lungs.sides > 0) * float(np.linalg.norm(lungs.affine[:3, 0]))
    put: list[tuple[np.ndarray, LidcNodule, float]] = []
    for nodule, scale in _drawn(purpose, rng, count):
        shape = _scaled(consensus_shape(nodule), scale)
        place = _place(volume, lungs, depth_mm, shape, balls, rng)
        if place is None:
            continue
        _insert(volume, place, nodule, shape, rng)
        balls.append((place, shape.radius_mm))
        put.append((place, nodule, nodule.diameter_mm * scale))
    return replace(
        study,
        name=f"{study.name} + {len(put)} nodules ({purpose} {seed})",
        volume=volume,
        places_mm=np.concatenate([study.places_mm, np.array([place for place, _, _ in put]).reshape(-1, 3)]),
        diameters_mm=np.append(study.diameters_mm, [diameter for _, _, diameter in put]),
        texture=np.append(study.texture, [nodule.mean_ratings["texture"] for _, nodule, _ in put]),
    )


def _drawn(purpose: Purpose, rng: np.random.Generator, count: int) -> list[tuple[LidcNodule, float]]:
    """Nodules and how many times larger they are drawn, the largest first; half are scaled to 3 to 12 mm."""
    pool = shape_pool(purpose)
    subsolid = [nodule for nodule in pool if nodule.mean_ratings["texture"] < 4]
    drawn = []
    for _ in range(count):
        group = subsolid if rng.random() < _SUBSOLID_SHARE else pool
        nodule = group[int(rng.integers(len(group)))]
        wanted_mm = float(np.exp(rng.uniform(np.log(_SMALLEST_MM), np.log(12.0))))
        drawn.append((nodule, min(1.0, wanted_mm / nodule.diameter_mm) if rng.random() < 0.5 else 1.0))
    return sorted(drawn, key=lambda item: -item[0].diameter_mm * item[1])


def _scaled(shape: NoduleShape, scale: float) -> NoduleShape:
    z, y, x = (step * scale for step in shape.spacing_kji_mm)
    field = (shape.distance_mm * scale).astype(np.float32)
    return NoduleShape(field, (z, y, x), shape.center_kji, shape.radius_mm * scale)


def _place(
    volume: CTVolume,
    lungs: LungMask,
    depth_mm: np.ndarray,
    shape: NoduleShape,
    balls: list[tuple[np.ndarray, float]],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """LPS mm of a free place: 45 % inside, 30 % at the pleura, 25 % on something bright."""
    manner = rng.choice(["inside", "pleura", "vessel"], p=[0.45, 0.30, 0.25])
    step = float(np.linalg.norm(lungs.affine[:3, 0]))
    radius = shape.radius_mm
    if manner == "pleura":
        wanted = (depth_mm > 0.1 * radius) & (depth_mm < 0.7 * radius + step)
    else:
        wanted = depth_mm > radius + 2.0
    at = np.argwhere(wanted)
    if not len(at):
        return None
    for _ in range(_TRIALS):
        kji = at[rng.integers(len(at))] + rng.uniform(-0.5, 0.5, 3)
        place = lungs.affine[:3, :3] @ kji + lungs.affine[:3, 3]
        if manner == "vessel":
            place = place + rng.normal(0, 0.3 * radius, 3)
        if any(np.linalg.norm(place - other) < radius + reach + 5.0 for other, reach in balls):
            continue
        box = _hu_around(volume, place, max(radius, 3.0))
        if box.size == 0:
            continue
        aerated = float((box < -600).mean())
        is_on_vessel = bool((_hu_around(volume, place, 2.0) > -400).any())
        if manner == "vessel" and not is_on_vessel:
            continue
        if aerated < (0.25 if manner == "pleura" else 0.6):
            continue
        if manner == "inside" and is_on_vessel:
            continue
        return np.asarray(place)
    return None


def _hu_around(volume: CTVolume, place: np.ndarray, radius_mm: float) -> np.ndarray:
    middle, reach = volume.to_kji(place), radius_mm / np.array(volume.spacing_kji_mm)
    low = np.maximum(np.floor(middle - reach).astype(int), 0)
    high = np.minimum(np.ceil(middle + reach).astype(int) + 1, volume.shape_kji)
    return volume.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]


def _insert(
    volume: CTVolume, place: np.ndarray, nodule: LidcNodule, shape: NoduleShape, rng: np.random.Generator
) -> None:
    """Put a nodule into an axial volume, mirrored at random."""
    spacing = np.array(volume.spacing_kji_mm)
    edge = max(min(edge_width_mm(nodule.mean_ratings), 0.5 * shape.radius_mm), float(spacing[1]))
    middle = volume.to_kji(place)
    reach = (shape.radius_mm + edge + 1.0) / spacing + 1
    low = np.maximum(np.floor(middle - reach).astype(int), 0)
    high = np.minimum(np.ceil(middle + reach).astype(int) + 1, volume.shape_kji)
    z, y, x = (
        (np.arange(a, b) - c) * s * sign
        for a, b, c, s, sign in zip(low, high, middle, spacing, rng.choice([-1, 1], 3), strict=True)
    )
    planes = max(1, round(spacing[0] / 1.0))
    part = (np.arange(planes) - (planes - 1) / 2) / planes * spacing[0]
    distance = shape.at((z[:, None] + part[None, :]).ravel(), y, x)
    share = np.clip(distance / edge + 0.5, 0, 1)
    box = volume.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    # the grain of the scan is kept: what is added is the difference to the smoothed tissue
    behind = ndimage.gaussian_filter(box.astype(np.float32), (0.0, 1.5, 1.5))
    hu = nodule_hu(nodule, distance, rng)
    added = share * np.maximum(hu - np.repeat(behind, planes, axis=0), 0)
    added = added.reshape(len(z), planes, len(y), len(x)).mean(axis=1)
    added = ndimage.gaussian_filter(added, (0.0, 0.5 / spacing[1], 0.5 / spacing[2]))
    box += np.rint(added).astype(np.int16)
