"""Logistic regression pulled towards given coefficients, with lower bounds: stays sane on twenty nodules.

scikit-learn's LogisticRegression pulls towards zero only and cannot bound a coefficient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from scipy.special import expit

Floats = NDArray[np.float64]


def fit_towards(
    design: Floats,
    labels: Floats,
    *,
    anchor: Floats,
    precision: Floats,
    lower: Floats | None = None,
    weights: Floats | None = None,
) -> Floats:
    """Coefficients (m,) that minimise sum(weights * log loss) + sum(precision * (coefficient - anchor)^2) / 2.

    Parameters
    ----------
    design: (n, m), with a column of ones where a bias is wanted; n may be 0, which gives the anchor.
    labels: (n,) in 0..1.
    lower: lowest value of each coefficient; -inf where free.
    weights: (n,), how much each row counts; 1 where None.
    """
    counts = np.ones(len(labels)) if weights is None else weights

    def objective(coefficients: Floats) -> tuple[float, Floats]:
        linear = design @ coefficients
        away = coefficients - anchor
        loss = float(counts @ (np.logaddexp(0.0, linear) - labels * linear) + np.sum(precision * away**2) / 2)
        return loss, design.T @ (counts * (expit(linear) - labels)) + precision * away

    bounds = Bounds(np.full(anchor.size, -np.inf) if lower is None else lower, np.full(anchor.size, np.inf))
    start = np.clip(anchor, bounds.lb, bounds.ub)
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8},
    )
    return np.asarray(found.x, dtype=np.float64)
