"""Flipped labels: how many, in which batch, and which nodules, by a model that never saw the patient it judges.

A label y of a nodule with malignancy probability p(x) is taken to be flipped with probability e, so that
P(y = 1 | x) = e + (1 - 2e) p(x), p logistic: label-noise robust logistic regression (Bootkrajang & Kaban 2012, ECML).
A clean but difficult cohort is uncertain where nodules are in between; flips also contradict where they are clear,
which is what tells e from difficulty. Each patient is judged by a fit on others, as in confident learning (Northcutt
et al. 2021, JAIR 70:1373).

A batch is compared with the rest, by exchanging patients: it needs no expectation from outside. Flips spread over all
labels do: the share must be above `most`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from data_contracts.cohort_audit import BatchLabels, LabelAudit, Share, SuspiciousLabel
from data_contracts.drift import Verdict
from pipeline.scoring.bootstrap import cluster_draws
from pipeline.scoring.delong import delong
from pipeline.scoring.folds import patient_folds
from pipeline.scoring.label_check import contradictions

Floats = NDArray[np.float64]

_FOLDS, _RIDGE, _SEED = 5, 1.0, 0
_MIN_PATIENTS, _MIN_OF_A_CLASS = 40, 15
_MIN_BATCH, _MIN_BATCH_PATIENTS = 15, 8
#: smallest share of flips that a nodule's suspicion starts from
_PRIOR = 0.05
_DRAWS, _PERMUTATIONS = 500, 4999
_GRID = np.linspace(0.0, 1.0, 201)
#: verdict on a batch: level after Holm, and what the lower end of its share of flips must pass
_LEVELS: tuple[tuple[Verdict, float, float], ...] = (("alert", 0.01, 0.03), ("watch", 0.05, 0.0))
_MOST_NAMED = 20
#: twice the drop of the log-likelihood that refuses a share, one-sided at 5 %
_DROP = 2.71
#: share of labels against their own readers' mean that is more than a slip
_MOST_CONTRADICTIONS = 0.02
#: a warning that says "contradict" is one that the gate of a promotion refuses
_WORDS: Mapping[Verdict, str] = {"alert": "contradict", "watch": "differ from"}


@dataclass(frozen=True)
class Judged:
    """q: (n,) probability of the label that stands, by other patients, if nothing were flipped; p: of malignant.

    flipped, least: share of flips, and the lower bound by profile likelihood: fewer flips and harder nodules would
    explain the labels nearly as well.
    """

    q: Floats
    p: Floats
    flipped: float
    least: float


def audit_labels(
    features: Floats,
    labels: NDArray[np.int64],
    patients: NDArray[np.object_],
    batches: Mapping[str, NDArray[np.object_]],
    patch_ids: list[str],
    *,
    soft: Floats | None = None,
    most: float = 0.02,
) -> LabelAudit:
    """What the labels say of each other.

    Parameters
    ----------
    features: (n, k) of each nodule, NaN where unknown. labels: (n,) 0 or 1.
    batches: by column, the batch of each row; several, such as readers, are separated by ";", "" is none.
    soft: (n,) mean rating of the readers in 0..1, NaN where unknown.
    most: share of flipped labels that is still put down to readers who differ.
    """
    n_patients = len(set(patients.tolist()))
    wrong = contradictions(labels, soft) if soft is not None else 0
    counts = np.bincount(labels, minlength=2)
    if n_patients < _MIN_PATIENTS or counts.min() < _MIN_OF_A_CLASS or features.shape[1] == 0:
        reason = (
            f"too few labels to compare them: {counts[0]} benign and {counts[1]} malignant of {n_patients} patients"
            if features.shape[1]
            else "nothing is known of the nodules to compare their labels with"
        )
        return _closed(
            LabelAudit(n=len(labels), n_patients=n_patients, contradictions=wrong, verdict="too few"), reason
        )
    judged = judge_labels(features, labels, patients)
    likely = np.log(np.maximum((1 - _GRID) * judged.q[:, None] + _GRID * (1 - judged.q[:, None]), 1e-12))
    flips = suspicion(judged)
    share = _share(likely, patients, judged.flipped)
    share = share.model_copy(update={"low": min(share.low, judged.least)})
    found = _batches(flips, likely, patients, batches)
    order = np.argsort(-flips)[:_MOST_NAMED]
    audit = LabelAudit(
        n=len(labels),
        n_patients=n_patients,
        auc=float(delong(labels, judged.p)[0][0]),
        flipped=share,
        contradictions=wrong,
        batches=found,
        suspicious=tuple(
            SuspiciousLabel(
                patch_id=patch_ids[row],
                label=int(labels[row]),
                malignant=float(judged.p[row]),
                flipped=float(flips[row]),
            )
            for row in order.tolist()
            if flips[row] > 0.5
        ),
        verdict="alert" if share.low > most else "ok",
    )
    return _closed(audit)


def judge_labels(features: Floats, labels: NDArray[np.int64], patients: NDArray[np.object_]) -> Judged:
    """Each nodule judged by a robust fit on other patients; slope, offset and share of flips then fitted over all."""
    folds = patient_folds(pd.Series(patients), pd.Series(labels), _FOLDS, _SEED)
    logits = np.zeros(len(labels))
    for fold in range(_FOLDS):
        held = folds == fold
        known = _filled(features[~held], features)
        weights, _ = _robust_fit(known[~held], labels[~held], _RIDGE)
        logits[held] = known[held] @ weights[1:] + weights[0]
    spread = max(float(logits.std()), 1e-6)
    scaled = logits / spread
    weights, flipped = _robust_fit(scaled[:, None], labels, 1e-3)
    p = expit(weights[0] + weights[1] * scaled)
    return Judged(np.where(labels == 1, p, 1 - p), p, flipped, _least_flips(scaled, labels, weights, flipped))


def _least_flips(logits: Floats, labels: NDArray[np.int64], weights: Floats, flipped: float) -> float:
    """The smallest share of flips that, with slope and offset fitted again, is not refused."""
    sign = np.where(labels == 1, 1.0, -1.0)

    def loss(values: Floats, e: float) -> float:
        p = expit(sign * (values[0] + values[1] * logits))
        return float(-np.log(np.maximum(e + (1 - 2 * e) * p, 1e-12)).sum())

    def refused(e: float) -> bool:
        found = minimize(loss, weights, args=(e,), method="BFGS", options={"maxiter": 60})
        return 2 * (float(found.fun) - loss(weights, flipped)) > _DROP

    low, high = 0.0, flipped
    if not refused(low):
        return 0.0
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (middle, high) if refused(middle) else (low, middle)
    return high


def suspicion(judged: Judged) -> Floats:
    """(n,) probability that each label is flipped, given the share of flips."""
    prior = max(judged.flipped, _PRIOR)
    against = prior * (1 - judged.q)
    return np.asarray(against / (against + (1 - prior) * judged.q), dtype=np.float64)


def _robust_fit(features: Floats, labels: NDArray[np.int64], ridge: float) -> tuple[Floats, float]:
    """(1 + k,) offset and weights, and the share of flips, by maximum likelihood with a penalty on the weights."""
    design = np.column_stack([np.ones(len(features)), features])
    sign = np.where(labels == 1, 1.0, -1.0)

    def loss(values: Floats) -> tuple[float, Floats]:
        weights, e = values[:-1], 0.45 * expit(values[-1])
        p = expit(sign * (design @ weights))
        q = np.maximum(e + (1 - 2 * e) * p, 1e-12)
        slope = design.T @ (-(1 - 2 * e) * p * (1 - p) * sign / q)
        slope[1:] += ridge * weights[1:]
        by_e = float((-(1 - 2 * p) / q).sum()) * e * (1 - e / 0.45)
        penalty = 0.5 * ridge * float(weights[1:] @ weights[1:])
        return float(-np.log(q).sum()) + penalty, np.append(slope, by_e)

    best = None
    for start in (-4.0, -1.0):  # from no flips and from a tenth: the likelihood may have two hills
        first = np.zeros(design.shape[1] + 1)
        first[-1] = start
        found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        best = found if best is None or found.fun < best.fun else best
    assert best is not None
    return best.x[:-1], float(0.45 * expit(best.x[-1]))


def _filled(learned: Floats, all_rows: Floats) -> Floats:
    """All rows, standardised by those that are learned from; unknown values at their mean."""
    with np.errstate(invalid="ignore"):
        known = np.isfinite(learned)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, learned, 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, learned - mean, 0.0) ** 2).sum(axis=0) / count)
    scaled = (all_rows - mean) / np.where(spread > 1e-9, spread, np.inf)
    return np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -5.0, 5.0)


def _share(likely: Floats, patients: NDArray[np.object_], value: float | None = None) -> Share:
    """The most likely share of flips, and its interval."""
    draws = _GRID[
        cluster_draws(patients, lambda weights: np.argmax(weights @ likely, axis=1), draws=_DRAWS, seed=_SEED).astype(
            int
        )
    ]
    found = float(_GRID[int(likely.sum(axis=0).argmax())]) if value is None else value
    low, high = np.percentile(draws, [2.5, 97.5])
    return Share(value=found, low=min(float(low), found), high=max(float(high), found))


def _batches(
    flips: Floats, likely: Floats, patients: NDArray[np.object_], batches: Mapping[str, NDArray[np.object_]]
) -> tuple[BatchLabels, ...]:
    codes, names = pd.factorize(patients)
    size = np.bincount(codes, minlength=len(names)).astype(np.float64)
    excess = np.bincount(codes, weights=flips - flips.mean(), minlength=len(names))
    order = np.random.default_rng(_SEED).permuted(np.tile(np.arange(len(names)), (_PERMUTATIONS, 1)), axis=1)
    drawn_excess, drawn_size = excess[order], size[order]
    found = []
    for column, level, member in _members(batches):
        n_in = int(member.sum())
        owners = len(set(codes[member].tolist()))
        if min(n_in, len(member) - n_in) < _MIN_BATCH or min(owners, len(names) - owners) < _MIN_BATCH_PATIENTS:
            continue
        within = np.bincount(codes, weights=member.astype(np.float64), minlength=len(names)) / size
        observed = float(flips[member].sum() - flips.mean() * n_in) / n_in
        permuted = (drawn_excess @ within) / np.maximum(drawn_size @ within, 1e-9)
        p = float((1 + np.count_nonzero(permuted >= observed - 1e-12)) / (1 + _PERMUTATIONS))
        share = _share(likely[member], patients[member])
        found.append((column, level, n_in, owners, share, p))
    made, running = [], 0.0
    for rank, number in enumerate(np.argsort([one[-1] for one in found], kind="stable").tolist()):
        column, level, n_in, owners, share, p = found[number]
        running = max(running, min(1.0, (len(found) - rank) * p))
        verdict: Verdict = next((name for name, at, least in _LEVELS if running <= at and share.low > least), "ok")
        made.append(
            BatchLabels(
                column=column,
                level=level,
                n=n_in,
                n_patients=owners,
                flipped=share,
                p=p,
                p_adjusted=running,
                verdict=verdict,
            )
        )
    return tuple(made)


def _members(batches: Mapping[str, NDArray[np.object_]]) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Every batch of every column with its rows."""
    found = []
    for column, values in batches.items():
        lists = [set(str(value).split(";")) - {""} for value in values]
        for level in sorted(set().union(*lists)):
            found.append((column, level, np.array([level in one for one in lists])))
    return found


def _closed(audit: LabelAudit, reason: str = "") -> LabelAudit:
    """The audit with its verdict over everything, and a sentence for each thing that is wrong."""
    reasons = [reason] if reason else []
    verdicts = [audit.verdict]
    if audit.contradictions:
        many = audit.contradictions > _MOST_CONTRADICTIONS * audit.n
        verdicts.append("alert" if many else "watch")
        words = _WORDS[verdicts[-1]]
        reasons.append(f"{audit.contradictions} of {audit.n} labels {words} the mean rating of their own readers")
    if audit.flipped is not None and audit.verdict == "alert":
        reasons.append(
            f"{audit.flipped.text()} of {audit.n} labels look flipped: they contradict nodules that are clear otherwise"
        )
    for batch in audit.batches:
        if batch.verdict != "ok":
            verdicts.append(batch.verdict)
            reasons.append(
                f"labels of {batch.column} {batch.level[:40]!r} {_WORDS[batch.verdict]} the others "
                f"(p {batch.p_adjusted:.4f}): of {batch.n}, {batch.flipped.text()} look flipped"
            )
    if audit.suspicious and len(reasons):
        shown = ", ".join(one.patch_id for one in audit.suspicious[:5])
        reasons.append(f"the most suspicious labels are those of {shown}; cohort.json has the others")
    worst: Verdict = next((name for name in ("alert", "watch", "too few") if name in verdicts), "ok")  # type: ignore[assignment]
    return audit.model_copy(update={"verdict": worst, "reasons": tuple(reasons)})
