"""Drift: whether reviewed nodules still come from where a version was judged.

Every test exchanges whole patients between the reference and the window, because the nodules of a patient resemble each
other. A check raises its alarm where its figure passes a bound that matters and chance is ruled out, over all checks
together (Holm 1979, Scand J Stat 6:65).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.drift import NAMES, NUMBERS, DriftCheck, Verdict
from data_contracts.params import DriftParams
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval
from pipeline.scoring.kernel_test import mmd_test
from pipeline.scoring.patient_exchange import PatientExchange
from pipeline.scoring.stability import bins_of, stability_test

Floats = NDArray[np.float64]
_BOOTSTRAP_DRAWS = 1000


def drift_checks(reference: pd.DataFrame, current: pd.DataFrame, params: DriftParams) -> tuple[DriftCheck, ...]:
    """Every check of a window against a reference, with its own verdict.

    Parameters
    ----------
    reference, current: one row a nodule with `patient` (any name of the patient), `series`, `score`, `embedding` and
        the acquisition features; a patient of one table is another one than any patient of the other.

    Returns
    -------
    The embeddings, the predicted prevalence, and each acquisition feature that any row of either table knows.
    """
    found = [_embeddings(reference, current, params), _prevalence(reference, current, params)]
    ours, theirs = _by_series(reference), _by_series(current)
    exchange = _exchange(ours, theirs, params)
    for name in (*NUMBERS, *NAMES):
        if _known(ours[name]).any() or _known(theirs[name]).any():
            found.append(_acquisition(name, ours, theirs, exchange, params))
    return _judged(tuple(found), params)


def overall(checks: tuple[DriftCheck, ...]) -> tuple[Verdict, tuple[str, ...]]:
    """The worst verdict, and a sentence for each check that is not at ease, the worst first."""
    order: Mapping[Verdict, int] = {"alert": 2, "watch": 1, "ok": 0, "too few": 0}
    raised = sorted((one for one in checks if order[one.verdict]), key=lambda one: -order[one.verdict])
    return (raised[0].verdict if raised else "ok"), tuple(f"{one.verdict}: {one.detail}" for one in raised)


def _exchange(ours: pd.DataFrame, theirs: pd.DataFrame, params: DriftParams) -> PatientExchange:
    return PatientExchange(
        ours["patient"].to_numpy(), theirs["patient"].to_numpy(), draws=params.permutations, seed=params.seed
    )


def _embeddings(reference: pd.DataFrame, current: pd.DataFrame, params: DriftParams) -> DriftCheck:
    name, bounds = "embeddings", (params.mmd_watch, params.mmd_alert)
    ours, theirs = (np.array(table["embedding"].tolist(), dtype=np.float64) for table in (reference, current))
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        return _blank(name, *bounds, "The embeddings of the reference and of the window are not of one network.")
    result = mmd_test(ours, theirs, _exchange(reference, current, params))
    detail = (
        f"What the network sees differs from the reference: MMD^2 {result.value:.4f}, p {result.p:.4f} "
        f"({len(theirs)} nodules against {len(ours)})."
    )
    return _open(name, result.value, result.p, bounds, detail)


def _prevalence(reference: pd.DataFrame, current: pd.DataFrame, params: DriftParams) -> DriftCheck:
    """Mean predicted probability of the window less that of the reference; the interval resamples patients."""
    name, bounds = "predicted prevalence", (params.prevalence_watch, params.prevalence_alert)
    ours, theirs = (table[table["score"].notna()] for table in (reference, current))
    if ours.empty or theirs.empty:
        return _blank(name, *bounds, "No predicted probability on one of the two sides.")
    means = [float(table["score"].mean()) for table in (ours, theirs)]
    value = means[1] - means[0]
    draws = [_mean_draws(table, params.seed + side) for side, table in enumerate((ours, theirs))]
    interval = percentile_interval(draws[1] - draws[0], value)
    exchange = _exchange(ours, theirs, params)
    table = np.column_stack([np.concatenate([ours["score"], theirs["score"]]), np.ones(len(ours) + len(theirs))])
    in_window, outside = exchange.sums(table.astype(np.float64))
    with np.errstate(invalid="ignore"):
        permuted = in_window[:, 0] / in_window[:, 1] - outside[:, 0] / outside[:, 1]
    low, high = interval or (None, None)
    shown = "" if low is None or high is None else f" [{low:+.3f} to {high:+.3f}]"
    detail = (
        f"The mean predicted probability is {means[1]:.3f} and was {means[0]:.3f} on the reference: "
        f"{value:+.3f}{shown}."
    )
    check = _open(name, value, exchange.p_of(abs(value), np.abs(permuted)), bounds, detail)
    return check.model_copy(update={"low": low, "high": high})


def _mean_draws(table: pd.DataFrame, seed: int) -> Floats:
    scores = table["score"].to_numpy(dtype=np.float64)

    def mean(weights: Floats) -> Floats:
        return np.asarray(weights @ scores / weights.sum(axis=1), dtype=np.float64)

    return cluster_draws(table["patient"].to_numpy(), mean, draws=_BOOTSTRAP_DRAWS, seed=seed)


def _acquisition(
    name: str, ours: pd.DataFrame, theirs: pd.DataFrame, exchange: PatientExchange, params: DriftParams
) -> DriftCheck:
    bounds = (params.psi_watch, params.psi_alert)
    both = pd.concat([ours[name], theirs[name]], ignore_index=True)
    bins, labels = bins_of(both)
    result = stability_test(bins, len(labels), exchange)
    words = name.replace("_", " ")
    detail = f"{words}: PSI {result.value:.2f} (raw {result.raw:.2f}, p {result.p:.4f}); {_change(ours, theirs, name)}."
    return _open(name, result.value, result.p, bounds, detail).model_copy(update={"raw": result.raw})


def _change(ours: pd.DataFrame, theirs: pd.DataFrame, name: str) -> str:
    if name in NUMBERS:
        before, now = (table[name].median() for table in (ours, theirs))
        return f"median {_shown(before)} in the reference, {_shown(now)} now"
    counts = [_known_names(table[name]).value_counts(normalize=True) for table in (ours, theirs)]
    gained = (counts[1] - counts[0].reindex(counts[1].index).fillna(0)).sort_values(ascending=False)
    if gained.empty:
        return "unknown now"
    most = str(gained.index[0])
    return f"{most[:40]!r} {float(counts[0].get(most, 0)):.0%} in the reference, {float(counts[1][most]):.0%} now"


def _shown(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "unknown"


def _known(column: pd.Series) -> pd.Series:
    return column.notna() & (column != "")


def _known_names(column: pd.Series) -> pd.Series:
    return column.where(column != "", "unknown").astype(str)


def _by_series(table: pd.DataFrame) -> pd.DataFrame:
    """One row a series: medians over its nodules, and the names, which are the same for all of them."""
    groups = table.groupby(["patient", "series"], sort=False)
    medians = groups[list(NUMBERS)].median()
    return medians.join(groups[list(NAMES)].first()).reset_index()


def _open(name: str, value: float, p: float, bounds: tuple[float, float], detail: str) -> DriftCheck:
    return DriftCheck(name=name, value=value, p=p, watch_at=bounds[0], alert_at=bounds[1], verdict="ok", detail=detail)


def _blank(name: str, watch_at: float, alert_at: float, detail: str) -> DriftCheck:
    return DriftCheck(
        name=name, value=None, p=None, watch_at=watch_at, alert_at=alert_at, verdict="too few", detail=detail
    )


def _judged(checks: tuple[DriftCheck, ...], params: DriftParams) -> tuple[DriftCheck, ...]:
    """The checks with p-values after Holm and their verdicts."""
    tested = [number for number, one in enumerate(checks) if one.p is not None]
    order = sorted(tested, key=lambda number: checks[number].p or 0.0)
    adjusted, running = {}, 0.0
    for rank, number in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * (checks[number].p or 0.0)))
        adjusted[number] = running
    return tuple(
        one.model_copy(update={"p_adjusted": adjusted[number], "verdict": _verdict(one, adjusted[number], params)})
        if number in adjusted
        else one
        for number, one in enumerate(checks)
    )


def _verdict(check: DriftCheck, p: float, params: DriftParams) -> Verdict:
    size = abs(check.value or 0.0)
    if size >= check.alert_at and p <= params.level_alert:
        return "alert"
    return "watch" if size >= check.watch_at and p <= params.level_watch else "ok"
