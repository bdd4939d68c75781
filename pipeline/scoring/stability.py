"""Population stability index of a feature, without what a small sample adds to it.

PSI = sum over bins of (q - p) ln(q / p), Jeffreys' divergence of the two histograms. Of two samples of one population
it is not 0 but about (bins - 1) (1 / n + 1 / m) (Yurdakul and Naranjo 2020, J Risk Model Validation 14(4)): with 30
values and ten bins that is more than the usual alarm at 0.2. So its mean under exchanged patients is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.scoring.patient_exchange import PatientExchange

Floats = NDArray[np.float64]

#: bins of a number with many values; of a name or a number with few, each value is a bin
_BINS, _FEW_VALUES, _MOST_NAMES = 5, 8, 12
#: added to every count, so that an empty bin has a logarithm
_PRIOR = 0.5


@dataclass(frozen=True)
class Stability:
    """value: PSI less its mean under permutations, at least 0; raw: PSI; p: of the permutations."""

    value: float
    raw: float
    p: float


def bins_of(column: pd.Series) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Bin of each row and the names of the bins; what is not known is a bin of its own.

    Edges are quantiles of both samples together: which sample a value came from does not move them.
    """
    known = column.notna() & (column != "")
    if pd.api.types.is_numeric_dtype(column) and column[known].nunique() > _FEW_VALUES:
        edges = np.unique(np.quantile(column[known], np.linspace(0, 1, _BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, column.to_numpy(dtype=np.float64), side="right")
        names = [f"below {edges[0]:.4g}", *(f"from {edge:.4g}" for edge in edges)]
    else:
        counts = column[known].astype(str).value_counts()
        kept = list(counts.index[:_MOST_NAMES])
        names = [*kept, "other"]
        place = {name: number for number, name in enumerate(kept)}
        bins = column.astype(str).map(lambda value: place.get(value, len(kept))).to_numpy(dtype=np.int64)
    return np.where(known.to_numpy(), bins, len(names)).astype(np.int64), (*names, "unknown")


def psi(reference: Floats, sample: Floats) -> Floats:
    """PSI of counts (..., bins); bins that are empty in both do not count."""
    used = (reference + sample) > 0
    p, q = (np.where(used, counts + _PRIOR, 0.0) for counts in (reference, sample))
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (p, q))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (q - p) * np.log(q / p)
    return np.asarray(np.where(used, terms, 0.0).sum(axis=-1), dtype=np.float64)


def stability_test(bins: NDArray[np.int64], n_bins: int, exchange: PatientExchange) -> Stability:
    """PSI of rows (n + m,) in their bins, as `exchange` parts them, corrected, and its p-value."""
    one_hot = np.zeros((len(bins), n_bins))
    one_hot[np.arange(len(bins)), bins] = 1.0
    grouped = exchange.by_patient(one_hot)
    sample = exchange.observed @ grouped
    raw = float(psi(grouped.sum(axis=0) - sample, sample))
    inside, outside = exchange.sums(one_hot)
    permuted = psi(outside, inside)
    return Stability(max(0.0, raw - float(permuted.mean())), raw, exchange.p_of(raw, permuted))
