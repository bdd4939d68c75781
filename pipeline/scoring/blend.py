"""How much each concept adds to the logit of malignancy, learned from predictions for nodules nobody fitted.

    blended logit = weights[0] * logit + sum(weights[1:] * concept logits)

The readers' other ratings are cleaner targets than their mean malignancy, so what a network says of them holds more
than its own logit does. The weights are a logistic regression on the outputs and on ln(d / 10 mm), which stands in only
so that no concept is paid for what the diameter says already. It is pulled towards the plain logit, and stays there
without rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.scoring.penalised_logistic import fit_towards

Floats = NDArray[np.float64]

#: Precision (1 / variance) of the priors, for coefficients of standardised columns.
_CONCEPT_PRECISION = 20.0
_LOGIT_PRECISION = 1.0
_FREE_PRECISION = 1e-3


def fit_blend(outputs: ArrayLike, log_sizes: ArrayLike, labels: ArrayLike) -> Floats:
    """Weights (1 + k,) of the logit and of k concepts, relative to the logit's, which is 1.

    Parameters
    ----------
    outputs: (n, 1 + k), logit and concept logits of nodules the network was not fitted on.
    log_sizes: (n,) ln(d / 10 mm), NaN where unknown.
    labels: (n,), 0 or 1, NaN where unknown; rows with an unknown are left out.
    """
    values, sizes = np.asarray(outputs, dtype=np.float64), np.asarray(log_sizes, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.float64)
    neutral = np.zeros(values.shape[1])
    neutral[0] = 1.0
    known = np.isfinite(values).all(axis=1) & np.isfinite(sizes) & np.isfinite(truth)
    if len(set(truth[known].tolist())) < 2:
        return neutral
    columns = np.column_stack([values[known], sizes[known]])
    spread = columns.std(axis=0)
    spread[spread == 0] = 1.0
    design = np.column_stack([np.ones(len(columns)), (columns - columns.mean(axis=0)) / spread])
    anchor = np.zeros(design.shape[1])
    anchor[1] = spread[0]
    precision = np.full(design.shape[1], _CONCEPT_PRECISION)
    precision[0], precision[1], precision[-1] = _FREE_PRECISION, _LOGIT_PRECISION, _FREE_PRECISION
    lower = np.full(design.shape[1], -np.inf)
    lower[1] = 0.1 * spread[0]  # a network is never turned round
    found = fit_towards(design, truth[known], anchor=anchor, precision=precision, lower=lower)
    weights = found[1:-1] / spread[:-1]
    return np.asarray(weights / weights[0], dtype=np.float64)
