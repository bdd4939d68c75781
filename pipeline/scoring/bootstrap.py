"""95 % intervals by resampling patients with all their nodules (or any other clusters)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from pipeline.scoring.quantiles import student_95

Floats = NDArray[np.float64]

#: draws are made in blocks, so that memory stays small on large tables
_BLOCK_CELLS = 4_000_000


def cluster_draws(
    clusters: NDArray[Any],
    statistic: Callable[[Floats], Floats],
    *,
    draws: int,
    seed: int,
) -> Floats:
    """A statistic under `draws` resamplings of whole clusters with replacement.

    Parameters
    ----------
    clusters: (n,) name of each case's cluster, e.g. the patient key.
    statistic: takes case weights (b, n) and returns (b,) or (b, m); NaN where a draw has no figure.

    Returns
    -------
    (draws,) or (draws, m), in the order of drawing; the same seed gives the same numbers.
    """
    codes, names = pd.factorize(clusters)
    rng = np.random.default_rng(seed)
    share = np.full(len(names), 1.0 / len(names))
    block = max(1, _BLOCK_CELLS // max(len(codes), 1))
    parts = []
    for start in range(0, draws, block):
        counts = rng.multinomial(len(names), share, size=min(block, draws - start))
        parts.append(statistic(counts[:, codes].astype(np.float64)))
    return np.concatenate(parts)


def percentile_interval(values: Floats, value: float) -> tuple[float, float] | None:
    """2.5 and 97.5 percentile of the draws that gave a figure, widened where needed so that it holds `value`.

    Widening matters for figures with a bias upwards under resampling, such as ECE. None where fewer than
    half of the draws gave a figure.
    """
    usable = values[np.isfinite(values)]
    if usable.size * 2 < values.size or usable.size == 0:
        return None
    low, high = np.percentile(usable, [2.5, 97.5])
    return min(float(low), value), max(float(high), value)


def spread_interval(
    values: Floats, value: float, *, patients: int, logit_scale: bool = True
) -> tuple[float, float] | None:
    """95 % interval from the standard deviation of the draws and Student's t for the number of patients.

    On the logit scale for figures within 0..1, which keeps it there and lets it lean to the side where there is room;
    its coverage is nearer to 95 % than that of the percentiles. None where fewer than half of the draws gave a figure,
    or with less than two patients. A figure that is 0 or 1, or no draw apart from another, leaves the value alone.
    """
    usable = values[np.isfinite(values)]
    if usable.size * 2 < values.size or usable.size == 0:
        return None
    if np.ptp(usable) == 0 or (logit_scale and not 0 < value < 1):
        return percentile_interval(values, value)
    if patients < 2:
        return None
    quantile = student_95(patients - 1)
    if not logit_scale:
        half = quantile * float(usable.std(ddof=1))
        return value - half, value + half
    # A draw of 0 or 1 lies half a step of the draws' own grid beyond the others.
    inner = usable[(usable > 0) & (usable < 1)]
    edge = min(float(inner.min()), 1 - float(inner.max())) / 2 if inner.size else 0.25
    half = quantile * float(logit(np.clip(usable, edge, 1 - edge)).std(ddof=1))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
