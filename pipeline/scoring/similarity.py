"""How like two maps are: SSIM, and how like maps of different nodules are by nature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

#: Wang et al. 2004, IEEE TIP 13(4): a Gaussian window of 1.5 pixels, values from 0 to 1
_SIGMA_PX = 1.5
_C1, _C2 = 0.01**2, 0.03**2
#: partners of a map among those of other patients
_PARTNERS = 8


def ssim(one: NDArray[np.floating], other: NDArray[np.floating], *, dims: int) -> Floats:
    """(n,) mean SSIM of maps (n, ..., *plane) in 0..1, each plane (or volume) of the last `dims` axes for itself.

    A map that is zero everywhere says nothing: its likeness to another is 0 and not that of two black backgrounds.
    """
    sigma = [0.0] * (one.ndim - dims) + [_SIGMA_PX] * dims

    def smooth(values: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(values, sigma, truncate=3.5), dtype=np.float64)

    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    local = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    local /= (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    means = local.reshape(len(a), -1).mean(axis=1)
    return np.where(is_empty(one) | is_empty(other), 0.0, means)


def is_empty(maps: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(n,) maps without a place that stands out: no value, or the same one everywhere."""
    flat = maps.reshape(len(maps), -1)
    return np.asarray(np.ptp(flat, axis=1) <= 1e-9)


def pair_baseline(maps: NDArray[np.floating], patients: NDArray[np.object_], *, dims: int, seed: int) -> Floats:
    """(n,) mean SSIM of each map with those of nodules of other patients, drawn at random (Arun et al. 2021)."""
    rng = np.random.default_rng(seed)
    partners = np.empty((len(maps), _PARTNERS), dtype=np.int64)
    for number, patient in enumerate(patients):
        others = np.flatnonzero(patients != patient)
        partners[number] = rng.choice(others, _PARTNERS)
    values = [ssim(maps, maps[partners[:, column]], dims=dims) for column in range(_PARTNERS)]
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)
