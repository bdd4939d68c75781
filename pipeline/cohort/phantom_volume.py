"""A single test volume with nodules of known place, size and HU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_contracts.errors import GeometryError
from data_contracts.volume import CTVolume


@dataclass(frozen=True)
class SphereNodule:
    """A ball: centre LPS mm, diameter in mm, HU of its inside."""

    lps_mm: tuple[float, float, float]
    diameter_mm: float
    hu: float = 30.0


def phantom_volume(
    nodules: Sequence[SphereNodule] = (),
    *,
    shape_kji: tuple[int, int, int] = (48, 64, 64),
    spacing_kji_mm: tuple[float, float, float] = (1.25, 0.8, 0.8),
    origin_lps_mm: tuple[float, float, float] = (-20.0, -30.0, -100.0),
    background_hu: float = -850.0,
    noise_hu: float = 0.0,
    seed: int = 0,
) -> CTVolume:
    """Lung of even density with balls in it, on an axial grid whose first voxel centre lies at `origin_lps_mm`.

    Voxels on the surface of a ball get the share of it they hold (linear in the distance to the surface).

    Raises
    ------
    GeometryError: a centre lies outside the grid.
    """
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_kji_mm
    affine[:3, 3], affine[3, 3] = origin_lps_mm, 1.0
    z, y, x = (
        origin + step * np.arange(count, dtype=np.float64)
        for origin, step, count in zip(origin_lps_mm[::-1], spacing_kji_mm, shape_kji, strict=True)
    )
    hu = np.full(shape_kji, background_hu, dtype=np.float64)
    hu += noise_hu * np.random.default_rng(seed).standard_normal(shape_kji)
    volume = CTVolume(np.zeros(shape_kji, dtype=np.int16), affine)
    for nodule in nodules:
        if not volume.contains(np.array(nodule.lps_mm)):
            raise GeometryError("a nodule lies outside the phantom volume")
        cx, cy, cz = nodule.lps_mm
        away = np.sqrt((z[:, None, None] - cz) ** 2 + (y[None, :, None] - cy) ** 2 + (x[None, None, :] - cx) ** 2)
        width = float(np.mean(spacing_kji_mm))
        share = np.clip((nodule.diameter_mm / 2 - away) / width + 0.5, 0, 1)
        hu += share * (nodule.hu - background_hu)
    return CTVolume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine)
