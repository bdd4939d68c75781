"""The two scanners: slice thickness, reconstruction kernel, dose, padding outside the field of view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data_contracts.params import PhantomParams
from pipeline.cohort.phantom_anatomy import AxialGrid

#: planes of the object are averaged into a slice so that none is thicker than this
_PLANE_MM = 1.6


@dataclass(frozen=True)
class Scanner:
    """How a site acquires and reconstructs.

    sharp: edge-enhancing kernel with fine noise, or a smooth one with correlated noise.
    padding_stored: value of the pixels outside the circular field of view, None where the square is filled.
    """

    site: str
    spacing_mm: float
    noise_hu: float
    sharp: bool
    manufacturer: str
    model_name: str
    kernel: str
    software: str
    kvp: float
    tube_current_ma: int
    exposure_mas: int
    signed: bool
    padding_stored: int | None

    @property
    def planes_per_slice(self) -> int:
        """Planes of the object that one slice averages."""
        return max(1, round(self.spacing_mm / _PLANE_MM))

    def plane_z_mm(self, slices: int) -> NDArray[np.float32]:
        """Heights of the object's planes, ascending, (slices * planes_per_slice,)."""
        step = self.spacing_mm / self.planes_per_slice
        return ((np.arange(slices * self.planes_per_slice) + 0.5) * step).astype(np.float32)

    def slice_hu(self, planes: NDArray[np.float32], grid: AxialGrid, rng: np.random.Generator) -> NDArray[np.float32]:
        """One reconstructed slice, float32 (row, column), of `planes` (planes_per_slice, row, column) in HU."""
        hu = planes.mean(axis=0)
        noise = rng.standard_normal(hu.shape, dtype=np.float32)
        pixel = grid.pixel_mm
        if self.sharp:
            hu = hu + 0.9 * (hu - _blur(hu, 1.1 / pixel))
            noise = noise - 0.6 * _blur(noise, 1.0) + 0.25 * _streaks(rng, hu.shape)
        else:
            hu = _blur(hu, 0.65 / pixel)
            noise = _blur(noise, max(0.8, 0.9 / pixel))
        noise *= self.noise_hu / max(float(noise.std()), 1e-6)
        return np.asarray(hu + noise * _noise_map(grid), dtype=np.float32)


def scanner_of(params: PhantomParams, site: str) -> Scanner:
    """Site A: soft kernel, thin slices, normal dose. Site B: sharp kernel, thick slices, low dose, padded circle."""
    if site == "a":
        return Scanner(
            "a", params.spacing_a_mm, params.noise_a_hu, False, "SIEMENS", "SOMATOM Definition AS", "B30f",
            "syngo CT 2012B", 120.0, 200, 100, False, None,
        )  # fmt: skip
    return Scanner(
        "b", params.spacing_b_mm, params.noise_b_hu, True, "GE MEDICAL SYSTEMS", "LightSpeed VCT", "BONEPLUS",
        "gmp_vct.42", 120.0, 40, 20, True, -2000,
    )  # fmt: skip


def _blur(plane: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT))


def _streaks(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Horizontal streaks of photon starvation between the shoulders, unit variance."""
    plane = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigmaX=9.0, sigmaY=0.6)
    return np.asarray(plane / max(float(plane.std()), 1e-6))


@lru_cache(maxsize=4)
def _noise_map(grid: AxialGrid) -> NDArray[np.float32]:
    """Noise relative to the middle of the body: rays that pass beside it are less attenuated."""
    half = grid.field_of_view_mm / 2
    away = np.hypot(grid.axis_mm[None, :], 1.3 * grid.axis_mm[:, None]) / half
    return np.asarray(1.0 - 0.45 * np.clip(away, 0, 1) ** 2, dtype=np.float32)
