"""Whether labels contradict each other: swapped between training and validation, or everywhere.

A network that learns, and the diameter by itself, rank malignant above benign on both or on neither. An AUC far below
0.5 is therefore a sign about the labels. "Far" is three standard deviations of the AUC of a score that says nothing,
sqrt((n1 + n0 + 1) / (12 n1 n0)) (the rank-sum statistic's), so that few nodules raise no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.scoring.delong import delong

_FAR = 3.0


def label_warnings(
    train_labels: ArrayLike,
    train_diameters_mm: ArrayLike,
    validation_labels: ArrayLike,
    validation_diameters_mm: ArrayLike,
    validation_aucs: Iterable[float | None],
) -> tuple[str, ...]:
    """What a reader of the figures must know about the labels; empty where nothing looks wrong.

    Parameters
    ----------
    train_labels, validation_labels: (n,), 0 or 1, NaN where unknown. Diameters beside them, NaN where unknown.
    validation_aucs: AUC of the network on validation after each epoch, and of the kept one; None where not computed.
    """
    found = []
    spread = _spread(np.asarray(validation_labels, dtype=np.float64))
    lowest = min((auc for auc in validation_aucs if auc is not None), default=0.5)
    if lowest < 0.5 - _FAR * spread:
        found.append(
            f"AUC on validation was as low as {lowest:.2f}: the labels of validation contradict those of training, as "
            "if one of the two had benign and malignant swapped. No figure of this run can be trusted."
        )
    train, validation = (
        _size_side(labels, sizes)
        for labels, sizes in ((train_labels, train_diameters_mm), (validation_labels, validation_diameters_mm))
    )
    if train[0] * validation[0] < 0:
        found.append(
            f"Diameter alone has AUC {train[1]:.2f} in training and {validation[1]:.2f} in validation: labels or "
            "diameters of one of the two look swapped."
        )
    elif train[0] < 0:
        found.append(
            f"Malignant nodules of the training patients are the smaller ones (AUC of the diameter {train[1]:.2f}): "
            "benign and malignant look swapped."
        )
    return tuple(found)


def judged_label_warnings(labels: ArrayLike, diameters_mm: ArrayLike, scores: ArrayLike) -> tuple[str, ...]:
    """What a reader must know about the labels that a finished network is judged by; empty where nothing looks wrong.

    labels: (n,), 0 or 1, NaN where unknown. diameters_mm, scores: (n,), higher scores for malignant.
    """
    found = []
    ranked, larger = _size_side(labels, scores), _size_side(labels, diameters_mm)
    if ranked[0] < 0:
        found.append(
            f"The version ranks benign above malignant (AUC {ranked[1]:.2f}): benign and malignant look swapped in "
            "this dataset. No figure of this evaluation can be trusted."
        )
    if larger[0] < 0:
        found.append(
            f"Malignant nodules of this dataset are the smaller ones (AUC of the diameter {larger[1]:.2f}): benign and "
            "malignant, or the diameters, look swapped."
        )
    return tuple(found)


def contradictions(labels: NDArray[np.int64], soft: NDArray[np.float64]) -> int:
    """Labels on the wrong side of their readers' mean, for the threshold that leaves the fewest."""
    known = np.isfinite(soft)
    value, label = soft[known], labels[known]
    if not known.any():
        return 0
    order = np.argsort(value, kind="stable")
    value, label = value[order], label[order]
    ends = np.append(np.flatnonzero(np.diff(value) > 0) + 1, [0, len(value)])
    above = np.concatenate([[0], np.cumsum(label)])
    # with a threshold after `end` rows: malignant ones below it and benign ones above it are wrong
    return int(min(above[end] + (len(label) - end) - (above[-1] - above[end]) for end in ends))


def _size_side(labels: ArrayLike, diameters_mm: ArrayLike) -> tuple[int, float]:
    """(1 where malignant nodules are clearly larger, -1 clearly smaller, else 0; AUC of the diameter)."""
    label, size = np.asarray(labels, dtype=np.float64), np.asarray(diameters_mm, dtype=np.float64)
    known = np.isfinite(label) & np.isfinite(size)
    spread = _spread(label[known])
    if not math.isfinite(spread):
        return 0, 0.5
    auc = float(delong(label[known], size[known])[0][0])
    return (0 if abs(auc - 0.5) <= _FAR * spread else int(math.copysign(1, auc - 0.5))), auc


def _spread(labels: np.ndarray) -> float:
    """Standard deviation of the AUC of a score that says nothing; infinite where a class is missing."""
    n_positive, n_negative = int((labels == 1).sum()), int((labels == 0).sum())
    if n_positive == 0 or n_negative == 0:
        return math.inf
    return math.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))
