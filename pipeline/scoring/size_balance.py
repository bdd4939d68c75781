"""Weights that take from a training set what the diameter alone says of the label.

On LIDC the label is mostly size, so a network that sees how large a nodule is has little to gain from the rest of the
image. With these weights both classes count alike at every diameter, as in the size-matched pairs it is judged by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: standard deviation of the Gaussian kernel over ln(d): 15 % of a diameter
_BANDWIDTH = 0.15
#: no nodule counts for more than 1 / (2 * this) of what it did
_RAREST_SHARE = 0.1


def size_balance(targets: ArrayLike, diameters_mm: ArrayLike, weights: ArrayLike) -> Floats:
    """Factors (n,), of weighted mean 1, that make the weighted mean target one half at each diameter.

    The share p(d) of malignant nodules of about the same size is a kernel regression over ln(d), kept within 0.1 and
    0.9; a target t in 0..1 counts t * 0.5 / p + (1 - t) * 0.5 / (1 - p).

    Parameters
    ----------
    targets: (n,) in 0..1, NaN where unknown.
    diameters_mm: (n,); NaN or not above zero where unknown: such a nodule counts as it did.
    weights: (n,), how much each nodule counts before.
    """
    target, before = np.asarray(targets, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    diameters = np.asarray(diameters_mm, dtype=np.float64)
    factors = np.ones(target.shape)
    known = np.isfinite(target) & (diameters > 0)
    if not known.any():
        return factors
    sizes, malignant, counts = np.log(diameters[known]), target[known], before[known]
    kernel = np.exp(-0.5 * ((sizes[:, None] - sizes[None]) / _BANDWIDTH) ** 2) * counts
    share = np.clip(kernel @ malignant / kernel.sum(axis=1), _RAREST_SHARE, 1 - _RAREST_SHARE)
    balanced = malignant * 0.5 / share + (1 - malignant) * 0.5 / (1 - share)
    factors[known] = balanced / np.average(balanced, weights=counts)
    return factors
