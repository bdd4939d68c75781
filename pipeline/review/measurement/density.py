"""What a nodule is made of: its type, and the solid part of a part-solid one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.guidelines import NoduleType
from pipeline.review.measurement.axes import mask_axes
from pipeline.review.measurement.star import Star

#: Densest ground glass and least dense solid tissue, HU; between them lies the mixture of both.
GLASS_HU, SOLID_HU = -350.0, -190.0
#: A solid part smaller than this share of a ground glass nodule is noise or a vessel.
LEAST_SOLID, MOST_SOLID = 0.03, 0.8
_BLURRED_MM, _TOO_SMALL_MM = 3.5, 2.0
#: A nodule whose radius is below this share of the slice thickness is in no slice alone.
_TOO_THIN = 0.6


@dataclass(frozen=True, eq=False)
class Density:
    """mean_hu of the inside; solid_diameter_mm (mean of its axes) and solid_volume_mm3 where it is part-solid.

    nodule_type: None where the nodule is too small to tell.
    """

    mean_hu: float
    nodule_type: NoduleType | None
    solid_diameter_mm: float | None = None
    solid_volume_mm3: float | None = None


def density_of(
    hu: NDArray[np.float32], mask: NDArray[np.bool_], spacing_mm: float, star: Star, thickness_mm: float
) -> Density:
    """Type of the nodule under a mask (z, y, x) on a cube of HU (NaN beyond the scan), slices of `thickness_mm`."""
    inside = mask & ~np.isnan(hu)
    mean_hu = float(hu[inside].mean())
    smooth = ndimage.gaussian_filter(np.where(np.isnan(hu), -850.0, hu), 0.5 / spacing_mm)
    edge = float(star.edge_hu[0])
    depth = ndimage.distance_transform_edt(mask) * spacing_mm
    deep = inside & (depth >= min(1.2, 0.6 * float(depth.max())))
    core = float(np.percentile(smooth[deep], 90))
    if star.radius_mm < _BLURRED_MM:
        # No voxel of so small a nodule is free of lung; the fit knows the density that explains them.
        core = max(core, edge)
    if core < GLASS_HU:
        # Blur alone makes so small a solid nodule look like glass.
        too_small = star.radius_mm < max(_TOO_SMALL_MM, _TOO_THIN * thickness_mm)
        return Density(mean_hu, None if too_small else "ground_glass")
    if edge > GLASS_HU:
        # The fit found no glass. That blur left no voxel as dense as the fit says is no sign of it.
        return Density(mean_hu, "solid")
    solid = mask & (smooth > (min(edge, GLASS_HU) + max(core, SOLID_HU)) / 2)
    labels, n_parts = ndimage.label(solid)
    if n_parts > 1:
        solid = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    share = float(solid.sum() / mask.sum())
    if share < LEAST_SOLID:
        return Density(mean_hu, "ground_glass")
    if share > MOST_SOLID:
        return Density(mean_hu, "solid")
    axes = mask_axes(solid, spacing_mm)
    long_mm, short_mm = round(axes.long_mm, 1), round(axes.short_mm, 1)
    mean_mm = round((long_mm + short_mm) / 2 + 1e-9, 1)
    return Density(mean_hu, "part_solid", mean_mm, max(round(float(solid.sum()) * spacing_mm**3), 1))
