"""Candidates: places of a chest that may hold a nodule, and what finds them.

A finder is any callable of the form `CandidateFinder`: a classical one lives here, a trained one is handed to a step by
the flow that loaded it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
#: half the least distance between two candidates
_REACH_MM = 4.0


@dataclass(frozen=True)
class Candidate:
    """A place that may be a nodule.

    lps_mm: its centre. diameter_mm: its extent, where the finder knows it. score: how sure the finder is, 0 to 1;
    scores of different finders are not comparable.
    """

    lps_mm: tuple[float, float, float]
    diameter_mm: float | None
    score: float


class CandidateFinder(Protocol):
    """Finds candidates in a volume of HU whose lungs are known; the best first."""

    def __call__(self, volume: CTVolume, lungs: LungMask) -> Sequence[Candidate]:
        """Candidates of one volume, by falling score."""


def bright_structures(volume: CTVolume, lungs: LungMask) -> list[Candidate]:
    """Local maxima of smoothed HU inside the lungs: vessels, walls of bronchi, nodules; a `CandidateFinder`.

    Sensitive and not specific: the score is the smoothed HU mapped from -400..200 to 0..1.
    """
    grid = resample(volume, _GRID_MM)
    sigma = _SMOOTHING_MM / _GRID_MM
    smoothed = ndimage.gaussian_filter(grid.hu, sigma, output=np.float32)
    inside = ndimage.binary_erosion(lungs.on_grid_of(grid), iterations=2)
    reach = round(_REACH_MM / _GRID_MM)
    peaks = inside & (smoothed > _BRIGHT_ABOVE_HU) & (smoothed == ndimage.maximum_filter(smoothed, 2 * reach + 1))
    kji = np.argwhere(peaks)
    values = smoothed[peaks]
    order = np.argsort(-values, kind="stable")
    points_mm = grid.to_lps_mm(kji[order].astype(np.float64))
    return [_candidate(point, float(value)) for point, value in zip(points_mm, values[order], strict=True)]


def _candidate(point_mm: NDArray[np.float64], hu: float) -> Candidate:
    x, y, z = (float(value) for value in point_mm)
    return Candidate((x, y, z), None, float(np.clip((hu + 400.0) / 600.0, 0.0, 1.0)))
