"""AUC within pairs of a malignant and a benign nodule of the same size.

On LIDC the label is mostly size (diameter alone: AUC 0.905), so what a network adds shows only
where size cannot help. Size alone scores about 0.5 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.evaluation import Figure
from pipeline.scoring.clustered_auc import auc_bounds, clustered_auc

METHOD = "size-matched pairs, pairs and patients as clusters"


def match_by_size(
    labels: NDArray[np.int64], diameters_mm: NDArray[np.float64], *, tolerance: float, seed: int
) -> NDArray[np.int64]:
    """Pairs (p, 2) of row numbers (malignant, benign); each nodule is in one pair at most.

    In an order drawn from `seed` each malignant nodule takes the free benign one nearest in
    diameter, if that differs by less than `tolerance` of the malignant diameter. Unknown diameters
    (NaN, or not above zero) match nothing.
    """
    diameters_mm = np.where(diameters_mm > 0, diameters_mm, np.nan)
    free = np.flatnonzero(labels == 0)
    pairs: list[tuple[int, int]] = []
    for row in np.random.default_rng(seed).permutation(np.flatnonzero(labels == 1)):
        if free.size == 0:
            break
        distance = np.abs(diameters_mm[free] - diameters_mm[row])
        near = distance / diameters_mm[row] < tolerance
        if near.any():
            chosen = int(np.argmin(np.where(near, distance, np.inf)))
            pairs.append((int(row), int(free[chosen])))
            free = np.delete(free, chosen)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def size_matched_auc(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    diameters_mm: NDArray[np.float64],
    *,
    tolerance: float,
    seed: int,
    patients: NDArray[Any] | None = None,
) -> Figure:
    """AUC over the nodules of all size-matched pairs with a 95 % interval; n counts pairs.

    The interval takes together what shares a pair and what shares a patient (`patients` (n,); two-way clustering of the
    placement values, Cameron, Gelbach & Miller 2011).
    """
    pairs = match_by_size(labels, diameters_mm, tolerance=tolerance, seed=seed)
    n_pairs = len(pairs)
    if n_pairs == 0:
        note = f"no malignant and benign nodule within {tolerance:.0%} of diameter"
        return Figure(value=None, n=0, n_positive=0, method=METHOD, note=note)
    rows = pairs.ravel()
    pair = np.repeat(np.arange(n_pairs), 2)
    whose = pair if patients is None else patients[rows]
    by_patient = clustered_auc(labels[rows], scores[rows], whose)
    value = float(by_patient.aucs[0])
    by_pair = clustered_auc(labels[rows], scores[rows], pair)
    by_nodule = clustered_auc(labels[rows], scores[rows], np.arange(rows.size))
    parts = [float(found.covariance[0, 0]) for found in (by_patient, by_pair, by_nodule)]
    variance = parts[0] + parts[1] - parts[2]
    if variance <= 0:  # few pairs, in which nodules that share a pair or a patient happen to pull apart
        variance = max(parts)
    low, high = auc_bounds(value, variance, min(by_patient.patients, n_pairs)) or (None, None)
    note = "few pairs" if n_pairs < 30 else ""
    return Figure(value=value, low=low, high=high, n=n_pairs, n_positive=n_pairs, method=METHOD, note=note)
