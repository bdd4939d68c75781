"""Bright places of the lungs: vessels, walls of bronchi, nodules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import CTVolume
from pipeline.imaging.lungs import LungMask
from pipeline.imaging.resample import resample

_GRID_MM = 1.5
#: solid tissue in the lung; aerated lung lies near -850 HU
_BRIGHT_ABOVE_HU = -400
_SMOOTHING_MM = 1.5
#: half the least distance between two of them
_REACH_MM = 4.0


def bright_structures(volume: CTVolume, lungs: LungMask) -> NDArray[np.float64]:
    """Local maxima of smoothed HU inside the lungs, (n, 3) LPS mm, the brightest first."""
    grid = resample(volume, _GRID_MM)
    smoothed = ndimage.gaussian_filter(grid.hu, _SMOOTHING_MM / _GRID_MM, output=np.float32)
    inside = ndimage.binary_erosion(lungs.on_grid_of(grid), iterations=2)
    reach = round(_REACH_MM / _GRID_MM)
    peaks = inside & (smoothed > _BRIGHT_ABOVE_HU) & (smoothed == ndimage.maximum_filter(smoothed, 2 * reach + 1))
    order = np.argsort(-smoothed[peaks], kind="stable")
    return np.asarray(grid.to_lps_mm(np.argwhere(peaks)[order].astype(np.float64)), dtype=np.float64).reshape(-1, 3)
