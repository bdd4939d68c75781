"""How many malignant nodules an unlabelled site has, and whether another mix of classes explains its logits.

Under label shift a site differs from the source by its mix of classes alone, p(x | y) is the same: its logits then are
a mixture of the source's malignant and benign ones. What no such mixture explains is a shift of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def bbse_prevalence(labels: ArrayLike, source_called: ArrayLike, target_called: ArrayLike) -> float:
    """Share of malignant in the target by black box shift estimation, clipped to 0..1; NaN where it is undefined.

    labels: (n,) 0 or 1. source_called (n,), target_called (m,): booleans, or probabilities (the soft estimator). With
    two classes C w = mu has the solution (mean called - false positives) / (true positives - false positives). It is
    undefined where both classes are called alike (Lipton, Wang and Smola, Detecting and correcting for label shift with
    black box predictors, ICML 2018).
    """
    truth = np.asarray(labels, dtype=np.float64) == 1
    called = np.asarray(source_called, dtype=np.float64)
    true_positive, false_positive = float(called[truth].mean()), float(called[~truth].mean())
    if abs(true_positive - false_positive) < 1e-9:
        return float("nan")
    found = (float(np.asarray(target_called, dtype=np.float64).mean()) - false_positive) / (
        true_positive - false_positive
    )
    return float(np.clip(found, 0.0, 1.0))


@dataclass(frozen=True)
class MixtureFit:
    """The mixture of the source's classes nearest to the target's logits.

    Attributes
    ----------
    prevalence: share of malignant in it.
    distance: Kolmogorov-Smirnov distance to the target's logits, 0..1.
    allowance: what sampling alone gives at most in 19 of 20 cases.
    """

    prevalence: float
    distance: float
    allowance: float

    @property
    def excess(self) -> float:
        """distance / allowance: above 1 the images, not only the mix of classes, are others."""
        return self.distance / self.allowance


def fit_mixture(labels: ArrayLike, source_logits: ArrayLike, target_logits: ArrayLike, steps: int = 100) -> MixtureFit:
    """The best mixture of the source's class-conditional logits, the one fitted parameter being its prevalence.

    labels, source_logits: (n,), both classes present; target_logits: (m,). Quantification by matching distributions
    (Forman, Quantifying counts and costs via classification, Data Mining and Knowledge Discovery 2008; Gonzalez-Castro
    et al., Information Sciences 2013) with the Kolmogorov-Smirnov distance. The allowance is Smirnov's 5 % point
    1.358 sqrt(1/n' + 1/m), n' the size of a sample of the source that is as sure as the weighted one; a fitted
    prevalence makes it a little too wide, on the side of seeing no shift.
    """
    truth = np.asarray(labels, dtype=np.float64) == 1
    source = np.asarray(source_logits, dtype=np.float64)
    target = np.sort(np.asarray(target_logits, dtype=np.float64))
    points = np.unique(np.concatenate([source, target]))
    malignant, benign = (_cumulative(np.sort(part), points) for part in (source[truth], source[~truth]))
    observed = _cumulative(target, points)
    shares = np.linspace(0, 1, steps + 1)[:, None]
    distances = np.abs(shares * malignant + (1 - shares) * benign - observed).max(axis=1)
    best = int(distances.argmin())
    share = float(shares[best, 0])
    spread = share**2 / truth.sum() + (1 - share) ** 2 / (~truth).sum()
    return MixtureFit(share, float(distances[best]), float(1.358 * np.sqrt(spread + 1 / target.size)))


def _cumulative(ordered: Floats, points: Floats) -> Floats:
    return np.searchsorted(ordered, points, side="right") / ordered.size
