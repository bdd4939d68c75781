"""AUC with DeLong's variance, for one score and for two scores of the same nodules.

DeLong, DeLong & Clarke-Pearson, Biometrics 1988;44:837, in the midrank form of Sun & Xu,
IEEE Signal Process Lett 2014;21:1389, which needs a sort instead of all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from data_contracts.evaluation import Figure

#: two-sided 95 % quantile of the normal distribution
Z_95 = float(norm.ppf(0.975))

METHOD = "DeLong"


@dataclass(frozen=True)
class PairedAuc:
    """Two AUCs on the same nodules; `variance` is that of the difference a - b, `p_value` two-sided."""

    auc_a: float
    auc_b: float
    variance: float
    p_value: float

    @property
    def difference(self) -> float:
        """AUC of a minus AUC of b."""
        return self.auc_a - self.auc_b


def delong(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUCs and their covariance.

    Parameters
    ----------
    labels: 0 or 1, shape (n,), both present.
    scores: shape (n,) or (m, n) for m scores of the same nodules; higher means malignant.

    Returns
    -------
    AUCs (m,) and their covariance matrix (m, m). A class with one member has no variance of its own: it counts as 0.
    """
    above, below = placements(labels, scores)
    return above.mean(axis=1), _covariance(above) / above.shape[1] + _covariance(below) / below.shape[1]


def placements(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Placement values of the malignant nodules (m, n_positive) and of the benign ones (m, n_negative).

    Of a malignant nodule: the share of benign ones with a lower score; of a benign one: the share of malignant ones
    with a higher score; ties count half. Parameters as for `delong`.
    """
    positive = np.asarray(labels, dtype=bool)
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    rank_all = rankdata(rows, axis=1)
    rank_positive = rankdata(rows[:, positive], axis=1)
    rank_negative = rankdata(rows[:, ~positive], axis=1)
    above = (rank_all[:, positive] - rank_positive) / n_negative
    below = 1.0 - (rank_all[:, ~positive] - rank_negative) / n_positive
    return above, below


def _covariance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.shape[1] < 2:
        return np.zeros((values.shape[0], values.shape[0]))
    return np.atleast_2d(np.cov(values))


def delong_paired(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> PairedAuc:
    """Difference of two AUCs on the same nodules, labels (n,) with both classes present."""
    aucs, covariance = delong(labels, np.stack([np.asarray(scores_a, float), np.asarray(scores_b, float)]))
    # Exactly equal rankings leave a rounding error of either sign.
    variance = max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0)
    difference = float(aucs[0] - aucs[1])
    if variance < 1e-15:
        p_value = 1.0 if abs(difference) < 1e-12 else 0.0
    else:
        p_value = float(2 * norm.sf(abs(difference) / np.sqrt(variance)))
    return PairedAuc(float(aucs[0]), float(aucs[1]), variance, p_value)


def class_problem(labels: NDArray[Any]) -> str:
    """Why no AUC can be computed from these labels, or an empty string."""
    if labels.size == 0:
        return "no nodule with a label and a score"
    if not (labels == 1).any():
        return "no malignant nodule"
    if not (labels == 0).any():
        return "no benign nodule"
    return ""


def auc_figure(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Figure:
    """AUC with DeLong's 95 % interval, clipped to 0..1; `value` is None where one class is missing."""
    n, n_positive = int(labels.size), int((labels == 1).sum())
    problem = class_problem(labels)
    if problem:
        return Figure(value=None, n=n, n_positive=n_positive, method=METHOD, note=problem)
    aucs, covariance = delong(labels, scores)
    value, half = float(aucs[0]), Z_95 * float(np.sqrt(max(covariance[0, 0], 0.0)))
    # AUC 0 or 1 has variance 0 by this formula, which says nothing about the next sample.
    note = "the interval is degenerate: the classes are separated" if half == 0 else ""
    return Figure(
        value=value,
        low=max(value - half, 0.0),
        high=min(value + half, 1.0),
        n=n,
        n_positive=n_positive,
        method=METHOD,
        note=note,
    )


def difference_figure(
    labels: NDArray[np.int64], scores_a: NDArray[np.float64], scores_b: NDArray[np.float64]
) -> Figure:
    """AUC of a minus AUC of b with the paired DeLong 95 % interval, clipped to -1..1."""
    n, n_positive = int(labels.size), int((labels == 1).sum())
    method = "paired DeLong"
    problem = class_problem(labels)
    if problem:
        return Figure(value=None, n=n, n_positive=n_positive, method=method, note=problem)
    paired = delong_paired(labels, scores_a, scores_b)
    half = Z_95 * float(np.sqrt(paired.variance))
    return Figure(
        value=paired.difference,
        low=max(paired.difference - half, -1.0),
        high=min(paired.difference + half, 1.0),
        n=n,
        n_positive=n_positive,
        method=method,
        note=f"p = {paired.p_value:.3g}",
    )
