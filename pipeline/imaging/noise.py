"""Noise of a patch and how fine its grain is, measured where the patch is flattest.

The noise power spectrum of detrended regions, its integral and its mean frequency, as in ICRU Report 87 and AAPM TG-233
(f_av): a sharp kernel moves the mean frequency up. Vessels and edges are no noise, so only the flattest quarter of the
regions counts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_REGION_PX = 12
_STEP_PX = 6
_FLATTEST = 0.25
#: lower frequencies are anatomy and the slope that detrending leaves
_LOWEST_PER_MM = 0.1
#: of a patch whose pixel distance nobody stated
_USUAL_SPACING_MM = 0.7


def noise_of(planes: NDArray[np.generic], spacing_mm: float | None) -> tuple[float, float]:
    """Standard deviation of the noise, in the unit of the patch, and the mean frequency of its spectrum, cycles/mm.

    Parameters
    ----------
    planes: (p, H, W) axial planes of one patch.
    spacing_mm: distance of its pixels; None takes 0.7.

    Returns
    -------
    Both NaN where the patch is smaller than a region or flat everywhere.
    """
    values = np.asarray(planes, dtype=np.float64)
    if min(values.shape[-2:]) < _REGION_PX:
        return float("nan"), float("nan")
    windows = np.lib.stride_tricks.sliding_window_view(values, (_REGION_PX, _REGION_PX), axis=(-2, -1))
    regions = windows[:, ::_STEP_PX, ::_STEP_PX].reshape(-1, _REGION_PX * _REGION_PX)
    rest = regions - (regions @ _trend()) @ _trend().T
    variance = (rest**2).mean(axis=1)
    # Padding and clipped values have no noise at all and say nothing of the scanner.
    real = variance > 1e-6
    if not real.any():
        return float("nan"), float("nan")
    flat = real & (variance <= np.quantile(variance[real], _FLATTEST))
    window, frequency = _window(), _frequency(spacing_mm or _USUAL_SPACING_MM)
    spectra = np.abs(np.fft.fft2(rest[flat].reshape(-1, _REGION_PX, _REGION_PX) * window)) ** 2
    spectrum = spectra.mean(axis=0)
    counted = frequency >= _LOWEST_PER_MM
    power = float(spectrum[counted].sum())
    deviation = float(np.sqrt(power / (_REGION_PX**2 * (window**2).sum())))
    return deviation, float((spectrum * frequency)[counted].sum() / power) if power > 0 else float("nan")


def noise_of_patches(
    patches: NDArray[np.generic], kind: str, spacing_mm: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) noise and (n,) mean frequency of patches (n, *patch_shape) of a dataset's kind, by their axial planes."""
    found = np.array([noise_of(_axial(patch, kind), spacing_mm) for patch in patches], dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _axial(patch: NDArray[np.generic], kind: str) -> NDArray[np.generic]:
    """The axial planes to measure: the first of 2.5d, the three in the middle of a cube, all of neighbouring slices."""
    if kind == "2.5d":
        return patch[:1]
    if kind == "3d":
        middle = len(patch) // 2
        return patch[max(middle - 1, 0) : middle + 2]
    return patch


@lru_cache(maxsize=1)
def _trend() -> Floats:
    """(pixels, 6) orthonormal quadratic surfaces over a region."""
    axis = np.linspace(-1, 1, _REGION_PX)
    j, i = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    surfaces = np.stack([np.ones_like(j), j, i, j * i, j**2, i**2], axis=1)
    return np.asarray(np.linalg.qr(surfaces)[0], dtype=np.float64)


@lru_cache(maxsize=1)
def _window() -> Floats:
    line = np.hanning(_REGION_PX + 2)[1:-1]
    return np.asarray(np.outer(line, line), dtype=np.float64)


@lru_cache(maxsize=16)
def _frequency(spacing_mm: float) -> Floats:
    line = np.fft.fftfreq(_REGION_PX, spacing_mm)
    return np.asarray(np.hypot(line[:, None], line[None]), dtype=np.float64)
