"""Proportions with intervals: of nodules that are patients of their own, and of nodules that share patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from data_contracts.evaluation import Figure
from pipeline.scoring.quantiles import student_95

Floats = NDArray[np.float64]


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


def clustered_proportion_figure(
    hits: NDArray[np.bool_], patients: NDArray[Any], *, n_positive: int, what: str
) -> Figure:
    """The share of `hits` (n,) with Wilson's 95 % interval for nodules that share patients.

    Wilson's formula for n / design effect nodules and Student's t for the number of patients (Saha, Miller & Wang,
    Int J Biostat 2016;12). The design effect is the variance of the share between patients over that of independent
    nodules, at least 1; where all nodules agree, it is half way to that of patients whose nodules always agree. Where
    each patient has one nodule this is Wilson's own interval.
    """
    n, successes = int(hits.size), int(hits.sum())
    codes, names = pd.factorize(patients)
    if len(names) == n:
        return proportion_figure(successes, n, n_positive=n_positive, what=what)
    method = f"Wilson, patients as clusters, of {what}"
    share = successes / n
    if len(names) < 2:
        note = f"no interval: all {what} are of one patient"
        return Figure(value=share, n=n, n_positive=n_positive, method=method, note=note)
    sizes = np.bincount(codes).astype(np.float64)
    if 0 < successes < n:
        residuals = np.bincount(codes, hits - share)
        between = float((residuals**2).sum()) * len(names) / (len(names) - 1) / n
        effect = max(between / (share * (1 - share)), 1.0)
    else:
        effect = (1 + float((sizes**2).sum()) / n) / 2
    low, high = _wilson(share, n / effect, student_95(len(names) - 1))
    return Figure(value=share, low=min(low, share), high=max(high, share), n=n, n_positive=n_positive, method=method)


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Ends of Wilson's score interval, within 0..1."""
    spread = quantile**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = float(np.sqrt(share * (1 - share) * spread + spread**2 / 4)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def no_threshold(labels: NDArray[np.int64]) -> tuple[Figure, Figure]:
    """Sensitivity and specificity without a value, where no threshold was frozen."""
    n_malignant = int((labels == 1).sum())
    note = "no threshold was frozen on validation"
    return (
        Figure(value=None, n=n_malignant, n_positive=n_malignant, note=note),
        Figure(value=None, n=int(labels.size) - n_malignant, n_positive=0, note=note),
    )
