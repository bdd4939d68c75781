"""95 % intervals by resampling patients with all their nodules (or any other clusters)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
