"""Scores of a network's predictions on an unlabelled site: is it sure, and not always of the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, xlogy
from scipy.stats import rankdata

Floats = NDArray[np.float64]

#: temperature of Saito et al. 2021
SND_TEMPERATURE = 0.05


def entropy(probabilities: ArrayLike) -> Floats:
    """Entropy of Bernoulli(p) in nats, elementwise."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(-(xlogy(p, p) + xlogy(1 - p, 1 - p)))


def infomax(probabilities: ArrayLike) -> float:
    """Mutual information of nodule and predicted class, H(mean p) - mean H(p), in nats, 0 .. ln 2.

    probabilities: (n,) of malignant. High where predictions are sure and not all the same (Krause, Perona and Gomes,
    Discriminative clustering by regularized information maximization, NIPS 2010).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return float(entropy(p.mean()) - entropy(p).mean())


def batch_nuclear_norm(probabilities: ArrayLike) -> float:
    """Nuclear norm of the (n, 2) matrix of class probabilities over sqrt(2 n), its largest value: 0.5 .. 1.

    probabilities: (n,) of malignant. 1 where every prediction is sure and both classes are as frequent (Cui et al.,
    Towards discriminability and diversity: batch nuclear-norm maximization, CVPR 2020).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    singular = np.linalg.svd(np.column_stack([p, 1 - p]), compute_uv=False)
    return float(singular.sum() / np.sqrt(2 * p.size))


def soft_neighbourhood_density(vectors: ArrayLike, temperature: float = SND_TEMPERATURE) -> float:
    """Mean entropy, in nats, of who is near whom: 0 where each has one neighbour, ln(n - 1) where all are alike.

    vectors: (n, F) representations, or class probabilities (n, C); n is at least 2. Similarities are cosines over
    `temperature`, a softmax over all others makes them shares (Saito et al., Tune it the right way: unsupervised
    validation of domain adaptation via soft neighborhood density, ICCV 2021, equations 1 and 2).
    """
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarity = rows @ rows.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    logs = similarity - logsumexp(similarity, axis=1, keepdims=True)
    shares = np.exp(logs)
    return float(-(shares * np.where(shares > 0, logs, 0.0)).sum(axis=1).mean())


def agreement_at_prevalence(logits_a: ArrayLike, logits_b: ArrayLike, prevalence: float) -> float:
    """Share of nodules on which two networks agree when each calls its highest `prevalence` of them malignant.

    Agreement at a fixed threshold would punish an adaptation for what it is there for: undoing a shift of all logits.
    """
    rows = (np.asarray(logits_a, dtype=np.float64), np.asarray(logits_b, dtype=np.float64))
    called = [rankdata(row, method="ordinal") > row.size * (1 - prevalence) for row in rows]
    return float((called[0] == called[1]).mean())
