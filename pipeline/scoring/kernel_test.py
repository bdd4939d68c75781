"""Two-sample test by the maximum mean discrepancy (Gretton et al. 2012, JMLR 13:723-773)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from pipeline.scoring.patient_exchange import PatientExchange

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KernelTest:
    """value: unbiased MMD^2, may be below 0; p: of the permutations; bandwidth: sigma of the kernel."""

    value: float
    p: float
    bandwidth: float


def median_bandwidth(points: Floats) -> float:
    """sigma with 2 sigma^2 = the median squared distance between two points (n, d); 1 where all points are one.

    The median heuristic, section 8 of the paper.
    """
    squared = pdist(points, "sqeuclidean")
    median = float(np.median(squared)) if squared.size else 0.0
    return float(np.sqrt(median / 2)) if median > 0 else 1.0


def rbf(points: Floats, bandwidth: float) -> Floats:
    """(n, n) exp(-|x - y|^2 / (2 sigma^2)) of points (n, d)."""
    return np.asarray(np.exp(squareform(pdist(points, "sqeuclidean")) / (-2.0 * bandwidth**2)), dtype=np.float64)


def mmd_squared(kernel: Floats, n: int) -> float:
    """Unbiased MMD^2, equation 3 of the paper, from the kernel matrix of both samples, the first `n` rows first.

    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + the same of y - 2 sum k(x_i, y_j) / (n m)
    """
    m = len(kernel) - n
    own, other = kernel[:n, :n], kernel[n:, n:]
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * kernel[:n, n:].mean())


def mmd_test(reference: Floats, sample: Floats, exchange: PatientExchange) -> KernelTest:
    """MMD^2 of embeddings (n, d) and (m, d), standardised together, and the p-value of exchanging patients.

    The kernel, its bandwidth and the standardisation are those of both samples together, so that a permutation changes
    neither. Sums over patients make each of them a product of small matrices.
    """
    points = np.concatenate([reference, sample])
    spread = points.std(axis=0)
    points = (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    bandwidth = median_bandwidth(points)
    kernel = rbf(points, bandwidth)
    value = mmd_squared(kernel, len(reference))
    grouped = exchange.by_patient(exchange.by_patient(kernel).T)
    diagonal = exchange.by_patient(np.column_stack([np.diag(kernel), np.ones(len(kernel))]))
    inside = exchange.chosen
    outside = 1.0 - inside
    cross = inside @ grouped
    mine, theirs = inside @ diagonal, outside @ diagonal
    sums = ((cross * inside).sum(axis=1), (cross * outside).sum(axis=1), ((outside @ grouped) * outside).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        permuted = (
            (sums[0] - mine[:, 0]) / (mine[:, 1] * (mine[:, 1] - 1))
            + (sums[2] - theirs[:, 0]) / (theirs[:, 1] * (theirs[:, 1] - 1))
            - 2 * sums[1] / (mine[:, 1] * theirs[:, 1])
        )
    return KernelTest(value, exchange.p_of(value, permuted), bandwidth)
