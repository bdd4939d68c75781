"""Figures of merit under many sets of case weights at once: what a bootstrap needs.

A draw of patients with replacement is a row of integer weights; a figure of all draws is then a
few array operations instead of a loop. Every function takes `weights` (b, n), `labels` (n,) in {0, 1}
and `scores` (n,), and returns (b,), NaN for draws in which the figure does not exist.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _by_score(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of malignant and benign cases summed over each distinct score, ascending: two (b, g) arrays."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    malignant = labels[order] == 1
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(np.where(malignant, sorted_weights, 0.0), starts, axis=1)
    negative = np.add.reduceat(np.where(malignant, 0.0, sorted_weights), starts, axis=1)
    return positive, negative


def weighted_auc_and_precision(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision of the same draws, at the cost of one sum over scores."""
    positive, negative = _by_score(labels, scores, weights)
    return _auc(positive, negative), _average_precision(positive, negative)


def weighted_auc(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve; ties count half."""
    return _auc(*_by_score(labels, scores, weights))


def _auc(positive: Floats, negative: Floats) -> Floats:
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return np.asarray(area, dtype=np.float64)


def weighted_average_precision(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Average precision, the step sum of precision over recall as scikit-learn defines it."""
    return _average_precision(*_by_score(labels, scores, weights))


def _average_precision(positive: Floats, negative: Floats) -> Floats:
    positive, negative = positive[:, ::-1], negative[:, ::-1]
    hits = np.cumsum(positive, axis=1)
    called = hits + np.cumsum(negative, axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (precision * positive).sum(axis=1) / positive.sum(axis=1)
    return np.asarray(area, dtype=np.float64)


def weighted_brier(labels: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Mean squared difference of probability and label."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = weights @ ((scores - labels) ** 2) / weights.sum(axis=1)
    return np.asarray(mean, dtype=np.float64)


def ece_bins(scores: Floats, bins: int) -> NDArray[np.int64]:
    """(n,) number of each score's bin of `bins` of equal width on 0..1; a lower edge belongs to its bin."""
    return np.asarray(np.clip((scores * bins).astype(np.int64), 0, bins - 1))


def weighted_ece(labels: NDArray[np.int64], scores: Floats, weights: Floats, *, bins: int) -> Floats:
    """Expected calibration error over `bins` bins of equal width on 0..1."""
    member = np.zeros((scores.size, bins))
    member[np.arange(scores.size), ece_bins(scores, bins)] = 1.0
    # Sum over bins of |sum of (p - y)|, because each bin's mean gap is weighted by the bin's share.
    gaps = np.abs(weights @ (member * (scores - labels)[:, None])).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = gaps / weights.sum(axis=1)
    return np.asarray(error, dtype=np.float64)
