"""Operating points: thresholds frozen on validation, and what they give on held-out nodules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_contracts.evaluation import Figure, OperatingPoint
from pipeline.scoring.proportions import clustered_proportion_figure, proportion_figure

__all__ = [
    "SENSITIVITIES",
    "SPECIFICITIES",
    "freeze_operating_points",
    "freeze_sensitivity",
    "freeze_thresholds",
    "operating_point",
    "operating_points",
    "proportion_figure",
    "sensitivity_name",
    "threshold_name",
]

#: specificities of Venkadesh 2021 and DeepPNP, at which sensitivity is reported
SPECIFICITIES = (0.80, 0.85, 0.90)
#: sensitivity at which specificity is reported: what a rule-out may miss
SENSITIVITIES = (0.95,)


def threshold_name(specificity: float) -> str:
    """Key of an operating point in a model card, e.g. `specificity_0.90`."""
    return f"specificity_{specificity:.2f}"


def sensitivity_name(sensitivity: float) -> str:
    """Key of an operating point in a model card, e.g. `sensitivity_0.95`."""
    return f"sensitivity_{sensitivity:.2f}"


def freeze_thresholds(
    validation_scores: ArrayLike, labels: ArrayLike, *, specificities: Iterable[float] = SPECIFICITIES
) -> dict[str, float]:
    """The lowest thresholds that reach each specificity on validation; a score >= threshold is called malignant.

    A threshold lies half way between the last benign score it excludes and the next score above.
    Rows without a score or label are left out. Without a benign nodule there is no threshold: an empty dict.
    """
    scores, truth = _known(validation_scores, labels)
    benign = np.sort(scores[truth == 0])
    if benign.size == 0:
        return {}
    frozen = {}
    for specificity in specificities:
        # 0.55 * 100 must be 55 benign nodules, not 56 because of a rounding error.
        excluded = benign[max(math.ceil(specificity * benign.size - 1e-9), 1) - 1]
        above = scores[scores > excluded]
        next_above = float(above.min()) if above.size else max(1.0, float(np.nextafter(excluded, np.inf)))
        middle = (float(excluded) + next_above) / 2
        frozen[threshold_name(specificity)] = middle if middle > excluded else next_above
    return frozen


def freeze_sensitivity(
    validation_scores: ArrayLike, labels: ArrayLike, *, sensitivities: Iterable[float] = SENSITIVITIES
) -> dict[str, float]:
    """The highest thresholds that still reach each sensitivity on validation; score >= threshold is malignant.

    A threshold lies half way between the last malignant score it calls and the next score below.
    Rows without a score or label are left out. Without a malignant nodule there is no threshold: an empty dict.
    """
    scores, truth = _known(validation_scores, labels)
    malignant = np.sort(scores[truth == 1])[::-1]
    if malignant.size == 0:
        return {}
    frozen = {}
    for sensitivity in sensitivities:
        called = float(malignant[max(math.ceil(sensitivity * malignant.size - 1e-9), 1) - 1])
        below = scores[scores < called]
        middle = (called + (float(below.max()) if below.size else 0.0)) / 2
        frozen[sensitivity_name(sensitivity)] = middle if middle < called else called
    return frozen


def freeze_operating_points(validation_scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every threshold that a model card holds: of SPECIFICITIES and of SENSITIVITIES."""
    return {**freeze_thresholds(validation_scores, labels), **freeze_sensitivity(validation_scores, labels)}


def _known(validation_scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = np.asarray(validation_scores, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.float64)
    known = np.isfinite(scores) & np.isfinite(truth)
    return scores[known], truth[known]


def operating_point(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
    patients: NDArray[Any] | None = None,
) -> tuple[Figure, Figure]:
    """Sensitivity (n: malignant nodules) and specificity (n: benign nodules) where score >= threshold is malignant.

    patients: (n,) names; with them the intervals take a patient's nodules together.
    """
    called = scores >= threshold
    malignant = labels == 1
    whose = np.arange(labels.size) if patients is None else patients
    n_malignant = int(malignant.sum())
    sensitivity = clustered_proportion_figure(
        called[malignant], whose[malignant], n_positive=n_malignant, what="malignant nodules"
    )
    specificity = clustered_proportion_figure(
        ~called[~malignant], whose[~malignant], n_positive=0, what="benign nodules"
    )
    return sensitivity, specificity


def operating_points(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    thresholds: Mapping[str, float],
    patients: NDArray[Any] | None = None,
) -> tuple[OperatingPoint, ...]:
    """What each frozen threshold gives on held-out nodules, by its name; cards of before have fewer of them."""
    points = []
    for name, threshold in thresholds.items():
        sensitivity, specificity = operating_point(labels, scores, threshold, patients)
        points.append(OperatingPoint(name=name, threshold=threshold, sensitivity=sensitivity, specificity=specificity))
    return tuple(points)
