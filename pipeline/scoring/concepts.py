"""Predicted concepts against the readers' mean ratings: rank correlation, agreement of whole steps, mean error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.concepts import CONCEPT_TABLE, LOG_DIAMETER
from data_contracts.evaluation import ConceptFigures, Figure
from data_contracts.nodules import RATINGS
from data_contracts.params import EvaluateParams
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval

Floats = NDArray[np.float64]
_Statistic = Callable[[Floats], Floats]
#: fewer nodules than this give no figure
_LEAST_NODULES = 5


def concept_figures(table: pd.DataFrame, params: EvaluateParams) -> tuple[ConceptFigures, ...]:
    """The figures of every concept of a CONCEPT_TABLE, in the table's order; rows without readers are left out.

    Raises
    ------
    ContractError: the table breaks its contract.
    """
    valid = CONCEPT_TABLE.validate(table, where="concepts")
    return tuple(_figures(str(name), rows, params) for name, rows in valid.groupby("concept", sort=False))


def _figures(concept: str, rows: pd.DataFrame, params: EvaluateParams) -> ConceptFigures:
    rows = rows[rows["readers"].notna()]
    predicted = rows["predicted"].to_numpy(dtype=np.float64)
    readers = rows["readers"].to_numpy(dtype=np.float64)
    patients = rows["patient_key"].to_numpy(dtype=object)
    error = np.abs(predicted - readers)

    def figure(statistic: _Statistic) -> Figure:
        return _figure(statistic, patients, params)

    if concept == LOG_DIAMETER:
        kappa = Figure(value=None, n=len(rows), note="not a rating")
    else:
        kappa = figure(lambda weights: weighted_kappa(predicted, readers, weights, top=RATINGS[concept]))
    return ConceptFigures(
        concept=concept,
        unit="mm" if concept == LOG_DIAMETER else f"1-{RATINGS[concept]}",
        spearman=figure(lambda weights: weighted_spearman(predicted, readers, weights)),
        kappa=kappa,
        mean_absolute_error=figure(lambda weights: weights @ error / weights.sum(axis=1)),
    )


def weighted_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """(b,) Spearman's rho of x and y (n,) with each case counted weights (b, n) times; NaN where one is constant."""
    a, b = _ranks(x, weights), _ranks(y, weights)
    total = weights.sum(axis=1, keepdims=True)
    a -= (weights * a).sum(axis=1, keepdims=True) / total
    b -= (weights * b).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    covariance = (weights * a * b).sum(axis=1)
    return np.asarray(np.divide(covariance, spread, out=np.full(len(spread), np.nan), where=spread > 1e-12))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(b, n) ranks, ties at their middle, as if case i stood weights[:, i] times in the list."""
    _, codes = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), int(codes.max()) + 1))
    np.add.at(counts.T, codes, weights.T)
    middle = np.cumsum(counts, axis=1) - counts + (counts + 1) / 2
    return np.asarray(middle[:, codes], dtype=np.float64)


def weighted_kappa(predicted: Floats, readers: Floats, weights: Floats, *, top: int) -> Floats:
    """(b,) Cohen's kappa with quadratic weights (Cohen 1968) of both values rounded to whole steps 1..top."""
    steps = [np.clip(np.floor(values + 0.5), 1, top).astype(np.int64) - 1 for values in (predicted, readers)]
    cells = np.zeros((len(predicted), top * top))
    cells[np.arange(len(predicted)), steps[0] * top + steps[1]] = 1.0
    observed = (weights @ cells).reshape(-1, top, top)
    observed /= observed.sum(axis=(1, 2), keepdims=True)
    expected = observed.sum(axis=2)[:, :, None] * observed.sum(axis=1)[:, None, :]
    distance = (np.arange(top)[:, None] - np.arange(top)[None]) ** 2.0
    chance = (expected * distance).sum(axis=(1, 2))
    found = (observed * distance).sum(axis=(1, 2))
    return np.asarray(1 - np.divide(found, chance, out=np.full(len(chance), np.nan), where=chance > 1e-12))


def _figure(statistic: _Statistic, patients: NDArray[Any], params: EvaluateParams) -> Figure:
    n = len(patients)
    method = f"patient bootstrap, {params.bootstrap} draws"
    if n < _LEAST_NODULES:
        return Figure(value=None, n=n, method=method, note=f"only {n} rated nodules")
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return Figure(value=None, n=n, method=method, note="predicted or rated the same everywhere")
    interval = percentile_interval(cluster_draws(patients, statistic, draws=params.bootstrap, seed=params.seed), value)
    if interval is None:
        return Figure(value=value, n=n, method=method, note="no interval: most draws of patients have no figure")
    return Figure(value=value, low=interval[0], high=interval[1], n=n, method=method)
