"""Scores from representations of two sites: can they be told apart, and what the source's risk says of the target."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_FOLDS = 5
#: inverse strength of the ridge on standardised columns: some hundred nodules against up to 2048 columns
_INVERSE_RIDGE = 0.1


def domain_probabilities(source: ArrayLike, target: ArrayLike, seed: int = 0) -> tuple[Floats, Floats]:
    """Probability of "from the target" of each row of source (n, F) and target (m, F), each out of fold.

    Ridge logistic regression on standardised columns in five stratified folds, both sites counted alike, so that 0.5
    means "cannot be told". n and m are at least 5.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    first, second = (np.asarray(rows, dtype=np.float64) for rows in (source, target))
    labels = np.repeat([0, 1], [len(first), len(second)])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=_INVERSE_RIDGE, class_weight="balanced", max_iter=500)
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    joined = np.concatenate([first, second])
    found = cross_val_predict(classifier, joined, labels, cv=folds, method="predict_proba")[:, 1]
    return np.asarray(found[: len(first)]), np.asarray(found[len(first) :])


def proxy_a_distance(source_probabilities: ArrayLike, target_probabilities: ArrayLike) -> float:
    """2 (1 - 2 err), clipped to 0..2; err is the mean of both sites' errors of a domain classifier.

    Out-of-fold probabilities of "from the target". 0: the sites cannot be told apart, 2: always (Ben-David et al.,
    Analysis of representations for domain adaptation, NIPS 2006).
    """
    wrong_source = float((np.asarray(source_probabilities) > 0.5).mean())
    wrong_target = float((np.asarray(target_probabilities) <= 0.5).mean())
    return float(np.clip(2 * (1 - (wrong_source + wrong_target)), 0.0, 2.0))


def importance_weights(source_probabilities: ArrayLike) -> Floats:
    """Density of the target over that of the source at each source row, p / (1 - p).

    source_probabilities: (n,) of "from the target", by a classifier for which both sites count alike.
    """
    p = np.clip(np.asarray(source_probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(p / (1 - p))


def deep_embedded_validation(weights: ArrayLike, losses: ArrayLike) -> float:
    """Risk on the target, estimated from losses (n,) on labelled source validation; lower is better.

    mean(w l) + eta mean(w) - eta with the control variate eta = -cov(w l, w) / var(w); the plain mean of w l where all
    weights are equal (You et al., Towards accurate model selection in deep unsupervised domain adaptation, ICML 2019,
    algorithm 1).
    """
    w, loss = np.asarray(weights, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    weighted = w * loss
    if w.size < 2 or float(np.ptp(w)) < 1e-12:
        return float(weighted.mean())
    covariance = np.cov(weighted, w, ddof=1)
    eta = -float(covariance[0, 1] / covariance[1, 1])
    return float(weighted.mean() + eta * w.mean() - eta)
