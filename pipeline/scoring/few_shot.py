"""Few-shot: what frozen features allow with k labelled nodules of each class, over many random episodes.

An episode draws k malignant and k benign nodules, each of another patient, as its support; every labelled nodule of all
other patients is its query. Two classifiers look at the same episodes: prototypes (Snell et al. 2017, Prototypical
Networks, eq. 1 and 2, with the squared Euclidean distance) and a linear probe (logistic regression, L2 penalty).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.few_shot import FewShotFigure
from data_contracts.params import FewShotParams
from pipeline.scoring.delong import delong

METHODS = ("prototypes", "probe")
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def draw_episode(
    labels: NDArray[np.int64], patients: NDArray[Any], k: int, rng: np.random.Generator
) -> tuple[Rows, Rows] | None:
    """Rows of support (2 k, no two of one patient) and query (all rows of all other patients); None where it fails.

    It fails where the classes have too few patients, or the query lacks a class.
    """
    support: list[int] = []
    used: set[object] = set()
    # The class with fewer rows first: its patients are the scarce ones.
    for label in sorted((0, 1), key=lambda value: int((labels == value).sum())):
        taken = 0
        for row in rng.permutation(np.flatnonzero(labels == label)):
            if taken == k:
                break
            if patients[row] not in used:
                used.add(patients[row])
                support.append(int(row))
                taken += 1
        if taken < k:
            return None
    query = np.flatnonzero(~np.isin(patients, [patients[row] for row in support]))
    if np.unique(labels[query]).size < 2:
        return None
    return np.array(sorted(support), dtype=np.int64), query


def normalised(features: NDArray[np.floating]) -> Floats:
    """Features (n, F) of length 1; a row of zeros stays."""
    values = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


def prototype_scores(support: Floats, labels: NDArray[np.int64], query: Floats) -> Floats:
    """log p(malignant) - log p(benign) (n,) of the query: the difference of squared distances to the class means."""
    benign, malignant = (support[labels == label].mean(axis=0) for label in (0, 1))
    # |q - b|^2 - |q - m|^2, in which |q|^2 falls out
    return np.asarray(2 * (query @ (malignant - benign)) + benign @ benign - malignant @ malignant)


def probe_scores(support: Floats, labels: NDArray[np.int64], query: Floats, *, c: float) -> Floats:
    """Logit (n,) of the query by logistic regression on the support with inverse penalty `c`.

    With an L2 penalty the weights lie in the span of the support, so 2 k coordinates are enough.
    """
    basis, _ = np.linalg.qr(support.T)
    probe = LogisticRegression(C=c, tol=1e-6, max_iter=1000).fit(support @ basis, labels)
    return np.asarray(probe.decision_function(query @ basis))


def few_shot_episodes(
    features: NDArray[np.floating], labels: NDArray[np.int64], patients: NDArray[Any], params: FewShotParams
) -> pd.DataFrame:
    """One row an episode and method: k, episode, method, auc, accuracy, balanced_accuracy, n_query.

    Parameters
    ----------
    features: (n, F). labels: (n,) 0 or 1. patients: (n,), whose nodule each row is.

    The episodes of a k depend on seed and k alone, not on what else is asked for.

    Raises
    ------
    UsageError: lengths that do not fit.
    NothingUsableError: one class only.
    """
    if not len(features) == len(labels) == len(patients):
        raise UsageError(f"{len(features)} features, {len(labels)} labels and {len(patients)} patients")
    if np.unique(labels).size < 2:
        raise NothingUsableError("few-shot needs labelled nodules of both classes")
    values = normalised(features) if params.l2_normalise else np.asarray(features, dtype=np.float64)
    rows = [
        row
        for k in dict.fromkeys(params.shots)
        for row in _episodes_of(values, labels, np.asarray(patients), k, params)
    ]
    columns = ["k", "episode", "method", "auc", "accuracy", "balanced_accuracy", "n_query"]
    return pd.DataFrame(rows, columns=columns)


def _episodes_of(
    values: Floats, labels: NDArray[np.int64], patients: NDArray[Any], k: int, params: FewShotParams
) -> Iterator[tuple[object, ...]]:
    for episode in range(params.episodes):
        drawn = draw_episode(labels, patients, k, np.random.default_rng([params.seed, k, episode]))
        if drawn is None:
            continue
        support, query = drawn
        parts = values[support], labels[support], values[query]
        truth = labels[query] == 1
        for method in METHODS:
            scores = prototype_scores(*parts) if method == "prototypes" else probe_scores(*parts, c=params.probe_c)
            right = (scores > 0) == truth
            balanced = (right[truth].mean() + right[~truth].mean()) / 2
            auc = float(delong(truth, scores)[0][0])
            yield k, episode, method, auc, float(right.mean()), float(balanced), len(query)


def few_shot_figures(episodes: pd.DataFrame, params: FewShotParams) -> tuple[FewShotFigure, ...]:
    """Mean over episodes with its 95 % interval (Student's t), and the 95 % range of single episodes."""
    found = []
    for k in dict.fromkeys(params.shots):
        for method in METHODS:
            mine = episodes[(episodes["k"] == k) & (episodes["method"] == method)]
            for metric in ("auc", "accuracy", "balanced_accuracy"):
                found.append(_figure(mine[metric].to_numpy(dtype=np.float64), k, method, metric))
    return tuple(found)


def _figure(values: Floats, k: int, method: str, metric: str) -> FewShotFigure:
    n = values.size
    if n == 0:
        note = f"fewer than {k} patients of a class beside a query of both"
        return FewShotFigure(k=k, method=method, metric=metric, value=None, n_episodes=0, note=note)
    mean = float(values.mean())
    if n == 1:
        return FewShotFigure(k=k, method=method, metric=metric, value=mean, n_episodes=1, note="one episode")
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    low, high = (float(value) for value in np.quantile(values, (0.025, 0.975)))
    return FewShotFigure(
        k=k,
        method=method,
        metric=metric,
        value=mean,
        low=max(mean - half, 0.0),
        high=min(mean + half, 1.0),
        episode_low=low,
        episode_high=high,
        n_episodes=n,
    )
