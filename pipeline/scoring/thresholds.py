"""Operating points: thresholds frozen on validation, and what they give on held-out nodules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from data_contracts.evaluation import Figure

#: specificities of Venkadesh 2021 and DeepPNP, at which sensitivity is reported
SPECIFICITIES = (0.80, 0.85, 0.90)


def threshold_name(specificity: float) -> str:
    """Key of an operating point in a model card, e.g. `specificity_0.90`."""
    return f"specificity_{specificity:.2f}"


def freeze_thresholds(
    validation_scores: ArrayLike, labels: ArrayLike, *, specificities: Iterable[float] = SPECIFICITIES
) -> dict[str, float]:
    """The lowest thresholds that reach each specificity on validation; a score >= threshold is called malignant.

    A threshold lies half way between the last benign score it excludes and the next score above.
    Rows without a score or label are left out. Without a benign nodule there is no threshold: an empty dict.
    """
    scores = np.asarray(validation_scores, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.float64)
    known = np.isfinite(scores) & np.isfinite(truth)
    scores, truth = scores[known], truth[known]
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


def proportion_figure(successes: int, n: int, *, n_positive: int, what: str) -> Figure:
    """A proportion with Wilson's 95 % interval; `value` is None where n is 0."""
    method = f"Wilson, of {what}"
    if n == 0:
        return Figure(value=None, n=0, n_positive=0, method=method, note=f"no {what}")
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    # The formula is exact at 0 and 1; rounding may leave 1e-17.
    return Figure(
        value=successes / n,
        low=min(max(float(interval.low), 0.0), successes / n),
        high=max(min(float(interval.high), 1.0), successes / n),
        n=n,
        n_positive=n_positive,
        method=method,
    )


def operating_point(labels: NDArray[np.int64], scores: NDArray[np.float64], threshold: float) -> tuple[Figure, Figure]:
    """Sensitivity (n: malignant nodules) and specificity (n: benign nodules) where score >= threshold is malignant."""
    called = scores >= threshold
    malignant = labels == 1
    n_malignant, n_benign = int(malignant.sum()), int((~malignant).sum())
    sensitivity = proportion_figure(
        int(called[malignant].sum()), n_malignant, n_positive=n_malignant, what="malignant nodules"
    )
    specificity = proportion_figure(int((~called[~malignant]).sum()), n_benign, n_positive=0, what="benign nodules")
    return sensitivity, specificity
