"""Phantom nodules as crops like LIDC's: three axial slices of 64 pixels at native spacing, min-max scaled each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_contracts.nodules import RATINGS
from data_contracts.params import PhantomParams
from pipeline.cohort.phantom_patient import PhantomPatient
from pipeline.cohort.phantom_plan import plan_cohort

CROP_PX = 64
#: nodules of a phantom patient
PER_PATIENT = 8


def phantom_crops(
    seed: int, matrix: int, n_patients: int, excluded: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Each nodule of a cohort as the LIDC crops are: uint8 (3, 64, 64), three slices, min-max scaled; and its row."""
    params = PhantomParams(
        seed=seed, n_patients=n_patients, nodules_per_patient=PER_PATIENT, matrix=matrix, reserved_patients=excluded
    )
    for plan in plan_cohort(params):
        patient = PhantomPatient(params, plan)
        scanner, grid, half = patient.scanner, patient.grid, CROP_PX // 2
        volume, each = patient.object_hu(), scanner.planes_per_slice
        rng = np.random.default_rng([seed, plan.index, 200])
        for placed in patient.nodules:
            x, y, z = placed.center_mm
            middle = int(np.clip(z / scanner.spacing_mm, 1, patient.slices - 2))
            planes = [volume[k * each : (k + 1) * each] for k in range(middle - 1, middle + 2)]
            hu = np.stack([scanner.slice_hu(part, grid, rng) for part in planes])
            hu = np.pad(hu, ((0, 0), (half, half), (half, half)), mode="edge")
            row, column = (int(np.abs(grid.axis_mm - at).argmin()) for at in (y, x))
            crop = hu[:, row : row + CROP_PX, column : column + CROP_PX]
            low, high = float(crop.min()), float(crop.max())
            ratings = {
                name: ";".join(f"{mark.ratings[name]:g}" for mark in placed.nodule.marks) for name in sorted(RATINGS)
            }
            facts = {"patient_id": f"phantom-{seed}-{plan.index}", "diameter_mm": placed.nodule.diameter_mm, **ratings}
            facts |= {"n_readers": len(placed.nodule.marks), "pixel_spacing": grid.pixel_mm}
            yield np.rint((crop - low) / max(high - low, 1.0) * 255).astype(np.uint8), facts
