"""AUC with an interval that holds where a patient has several nodules: of one score, of two, of two groups of patients.

Obuchowski, Biometrics 1997;53:567: DeLong's placement values are summed within each patient, so nodules that resemble
each other count for what they are worth. Where each patient has one nodule the variance is DeLong's, number by number.
The interval of an AUC is symmetric on the logit scale, where it holds for AUCs near one and for small groups; that of a
difference takes Student's t for the number of patients with a nodule of the rarer class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from data_contracts.evaluation import Figure
from pipeline.scoring.delong import Z_95, class_problem, placements
from pipeline.scoring.quantiles import student_95, student_p_value

Floats = NDArray[np.float64]

METHOD = "DeLong, patients as clusters (Obuchowski 1997)"
_ONE_PATIENT = "no interval: every nodule of a class is of one patient"


@dataclass(frozen=True)
class ClusteredAuc:
    """AUCs (m,), their covariance (m, m), and how many patients have a nodule of each class.

    influence: (m, patients) what each patient's nodules move the AUCs by; names: (patients,) theirs.
    """

    aucs: Floats
    covariance: Floats
    influence: Floats
    names: NDArray[Any]
    n_malignant_patients: int
    n_benign_patients: int

    @property
    def patients(self) -> int:
        """Patients with a nodule of the class that fewer have."""
        return min(self.n_malignant_patients, self.n_benign_patients)


def clustered_auc(labels: ArrayLike, scores: ArrayLike, clusters: ArrayLike) -> ClusteredAuc:
    """AUCs and their covariance.

    Parameters
    ----------
    labels: 0 or 1, shape (n,), both present.
    scores: (n,), or (m, n) for m scores of the same nodules; higher means malignant.
    clusters: (n,) names of the patients.

    A class that only one patient has counts as without variance.
    """
    positive = np.asarray(labels, dtype=bool)
    above, below = placements(positive, scores)
    aucs = above.mean(axis=1)
    codes, names = pd.factorize(np.asarray(clusters))
    n_clusters = len(names)
    malignant = _sums(above - aucs[:, None], codes[positive], n_clusters) / above.shape[1]
    benign = _sums(below - aucs[:, None], codes[~positive], n_clusters) / below.shape[1]
    n_malignant, n_benign = (int(np.unique(codes[rows]).size) for rows in (positive, ~positive))
    both = _spread(malignant, benign, n_clusters)
    covariance = _spread(malignant, malignant, n_malignant) + _spread(benign, benign, n_benign) + both + both.T
    return ClusteredAuc(aucs, covariance, malignant + benign, np.asarray(names), n_malignant, n_benign)


def _sums(values: Floats, codes: NDArray[np.intp], n_clusters: int) -> Floats:
    """(m, n) values summed within each cluster: (m, n_clusters)."""
    return np.stack([np.bincount(codes, row, minlength=n_clusters) for row in values])


def _spread(a: Floats, b: Floats, n_clusters: int) -> Floats:
    """Sum over clusters of the products of a and b (m, clusters), unbiased for `n_clusters` of them."""
    if n_clusters < 2:
        return np.zeros((len(a), len(a)))
    return np.asarray(a @ b.T * n_clusters / (n_clusters - 1))


def clustered_auc_figure(labels: NDArray[np.int64], scores: Floats, patients: NDArray[Any]) -> Figure:
    """AUC with a 95 % interval; `value` is None where a class is missing, the interval where one patient has all of it.

    Separated classes have no variance: their interval ends where Wilson's of as many patients without an error does.
    """
    n, n_positive = int(labels.size), int((labels == 1).sum())
    problem = class_problem(labels)
    if problem:
        return Figure(value=None, n=n, n_positive=n_positive, method=METHOD, note=problem)
    found = clustered_auc(labels, scores, patients)
    value = float(found.aucs[0])
    bounds = auc_bounds(value, float(found.covariance[0, 0]), found.patients)
    low, high = bounds or (None, None)
    note = "" if bounds else _ONE_PATIENT
    return Figure(value=value, low=low, high=high, n=n, n_positive=n_positive, method=METHOD, note=note)


def auc_bounds(auc: float, variance: float, patients: int) -> tuple[float, float] | None:
    """95 % interval of an AUC on the logit scale; None where fewer than two `patients` have the rarer class."""
    if patients < 2:
        return None
    if variance <= 1e-15 or not 0 < auc < 1:
        reach = Z_95**2 / (patients + Z_95**2)
        return (max(auc - reach, 0.0), min(auc + reach, 1.0))
    # With a handful of patients the variance is itself uncertain: simulation asks for this many degrees of freedom.
    half = student_95(2 * patients) * np.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))


@dataclass(frozen=True)
class ClusteredDifference:
    """AUC of a minus AUC of b with its 95 % interval and two-sided p; low and high are None where there is none."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None


def _difference(difference: float, variance: float, patients: int) -> ClusteredDifference:
    if patients < 2:
        return ClusteredDifference(difference, None, None, None)
    if variance < 1e-15:  # the same order of nodules leaves a rounding error of either sign
        return ClusteredDifference(difference, difference, difference, 1.0 if abs(difference) < 1e-12 else 0.0)
    error = float(np.sqrt(variance))
    half = student_95(patients - 1) * error
    return ClusteredDifference(
        difference,
        max(difference - half, -1.0),
        min(difference + half, 1.0),
        student_p_value(difference / error, patients - 1),
    )


def paired_difference(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, clusters: ArrayLike
) -> ClusteredDifference:
    """AUC of a minus AUC of b on the same nodules (n,), both classes present."""
    found = clustered_auc(labels, np.stack([np.asarray(scores_a, float), np.asarray(scores_b, float)]), clusters)
    variance = found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1]
    return _difference(float(found.aucs[0] - found.aucs[1]), float(variance), found.patients)


def paired_difference_figure(
    labels: NDArray[np.int64], scores_a: Floats, scores_b: Floats, patients: NDArray[Any]
) -> Figure:
    """AUC of a minus AUC of b on the same nodules with the 95 % interval of `paired_difference`."""
    problem = class_problem(labels)
    found = None if problem else paired_difference(labels, scores_a, scores_b, patients)
    return _figure(found, labels, f"paired {METHOD}", problem)


def unpaired_difference_figure(
    labels_a: NDArray[np.int64],
    scores_a: Floats,
    patients_a: NDArray[Any],
    labels_b: NDArray[np.int64],
    scores_b: Floats,
    patients_b: NDArray[Any],
) -> Figure:
    """AUC in group a minus AUC in group b with its 95 % interval; n counts the nodules of both.

    Patients who are in both groups are taken for what they are: what they add to both AUCs cancels in the difference.
    """
    labels = np.concatenate([labels_a, labels_b])
    method = f"unpaired {METHOD}"
    problem = class_problem(labels_a) or class_problem(labels_b)
    if problem:
        return _figure(None, labels, method, problem)
    a, b = clustered_auc(labels_a, scores_a, patients_a), clustered_auc(labels_b, scores_b, patients_b)
    _, in_a, in_b = np.intersect1d(a.names, b.names, return_indices=True)
    shared = float(a.influence[0, in_a] @ b.influence[0, in_b])
    variance = float(a.covariance[0, 0] + b.covariance[0, 0]) - 2 * shared
    return _figure(_difference(float(a.aucs[0] - b.aucs[0]), variance, min(a.patients, b.patients)), labels, method, "")


def _figure(found: ClusteredDifference | None, labels: NDArray[np.int64], method: str, problem: str) -> Figure:
    n, n_positive = int(labels.size), int((labels == 1).sum())
    if found is None:
        return Figure(value=None, n=n, n_positive=n_positive, method=method, note=problem)
    note = _ONE_PATIENT if found.p_value is None else f"p = {found.p_value:.3g}"
    return Figure(
        value=found.difference, low=found.low, high=found.high, n=n, n_positive=n_positive, method=method, note=note
    )
