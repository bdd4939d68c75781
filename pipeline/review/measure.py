"""Size and type of a nodule from the voxels around its mark: surface, axes, volume, solid part.

The outline starts from a mark (centre and diameter), never from nothing. A star-shaped smooth surface is fitted to the
voxels of the scan through a model of their blur (pipeline.review.measurement), cut off at the pleura, and measured.

Diameters follow Lung-RADS v2022: mean of the long axis and of the longest extent perpendicular to it, on
the axial plane where the long axis is largest. Intervals are those of readers who measure one nodule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.params.guidelines import GuidelineParams
from data_contracts.review import Measurement
from data_contracts.volume import CTVolume
from pipeline.review.guidelines.sizes import relative_interval
from pipeline.review.measurement.axes import axial_axes
from pipeline.review.measurement.density import density_of
from pipeline.review.measurement.nodule import MAX_GROWTH, MIN_GROWTH, Nodule, find_nodule
from pipeline.review.measurement.star import sphere
from pipeline.review.measurement.surroundings import OutlineError, cube_affine, cube_around
from pipeline.review.measurement.thorax import Thorax
from pipeline.review.planes import LpsPoint

OUTLINED = "outlined by a smooth surface fitted to the scan"
#: Shares of a mark's diameter that are tried where the mark itself takes in the chest wall.
_SMALLER_MARKS = (0.8, 0.65, 0.5, 0.4)
FALLBACK = "diameter of the mark (not outlined: {reason})"


@dataclass(frozen=True, eq=False)
class Outline:
    """What was measured: the nodule on a cube along the patient's axes, and its axes as they are reported.

    Attributes
    ----------
    mask: bool (z, y, x). affine: (4, 4), (z, y, x, 1) -> LPS mm at voxel centres.
    long_axis_lps_mm, short_axis_lps_mm: (2, 3) ends of each axis, LPS mm.
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    long_axis_lps_mm: NDArray[np.float64]
    short_axis_lps_mm: NDArray[np.float64]


def measure(volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float) -> Measurement:
    """The measurement of `measured`, without its outline."""
    return measured(volume, center_lps_mm, diameter_mm)[0]


def measured(
    volume: CTVolume,
    center_lps_mm: LpsPoint,
    diameter_mm: float,
    params: GuidelineParams | None = None,
    thorax: Thorax | None = None,
) -> tuple[Measurement, Outline | None]:
    """Measure the nodule marked at `center_lps_mm` with about `diameter_mm`, and outline it.

    Where no outline can be trusted the mark's diameter is returned, without axes, volume, type and outline, and
    `method` says why. params: how far readers differ, for the intervals. thorax: where nodules can be; None where
    that is not known.
    """
    params = params or GuidelineParams()
    try:
        measurement, outline = _outlined(volume, center_lps_mm, diameter_mm, params)
        if thorax is not None and thorax.is_left_by(outline.mask, outline.affine):
            return _within(thorax, volume, center_lps_mm, diameter_mm, params)
    except OutlineError as error:
        interval = _interval(diameter_mm, params.reader_diameter_cv, 1)
        return Measurement(
            mean_diameter_mm=round(diameter_mm, 1),
            diameter_interval_mm=interval,
            method=FALLBACK.format(reason=error),
        ), None
    return measurement, outline


def _within(
    thorax: Thorax, volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float, params: GuidelineParams
) -> tuple[Measurement, Outline]:
    """Of a mark so large that the chest wall was taken for its nodule: what smaller marks find there, if anything."""
    for share in _SMALLER_MARKS:
        found = _outlined_within(thorax, volume, center_lps_mm, share * diameter_mm, params)
        if found is None or found[0].mean_diameter_mm < MIN_GROWTH * diameter_mm:
            continue
        # a mark of the right size is measured best
        return _outlined_within(thorax, volume, center_lps_mm, found[0].mean_diameter_mm, params) or found
    raise OutlineError("the outline reaches into the chest wall")


def _outlined_within(
    thorax: Thorax, volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float, params: GuidelineParams
) -> tuple[Measurement, Outline] | None:
    try:
        measurement, outline = _outlined(volume, center_lps_mm, diameter_mm, params)
    except OutlineError:
        return None
    return None if thorax.is_left_by(outline.mask, outline.affine) else (measurement, outline)


def _outlined(
    volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float, params: GuidelineParams
) -> tuple[Measurement, Outline]:
    """Measurement and outline; raises OutlineError where none can be trusted."""
    nodule = find_nodule(volume, np.asarray(center_lps_mm, dtype=np.float64), diameter_mm)
    field, spacing_mm = _field(nodule, diameter_mm)
    axes = axial_axes(field, spacing_mm)
    mean_mm = (axes.long_mm + axes.short_mm) / 2
    if mean_mm > MAX_GROWTH * diameter_mm:
        raise OutlineError("the outline leaks into neighbouring tissue")
    if mean_mm < MIN_GROWTH * diameter_mm:
        raise OutlineError("the outline covers too little of the mark")
    mask = field > 0
    half = mask.shape[0] // 2
    affine = cube_affine(nodule.center_mm, half, spacing_mm)
    hu = cube_around(volume, nodule.center_mm, half=half, spacing_mm=spacing_mm).hu
    density = density_of(hu, mask, spacing_mm, nodule.star, nodule.thickness_mm)
    # The report shows the axes to 0.1 mm and their mean must be the mean of what is shown.
    long_mm, short_mm = round(axes.long_mm, 1), round(axes.short_mm, 1)
    mean_mm = round((long_mm + short_mm) / 2 + 1e-9, 1)
    volume_mm3 = float(mask.sum()) * spacing_mm**3
    measurement = Measurement(
        mean_diameter_mm=mean_mm,
        long_axis_mm=long_mm,
        short_axis_mm=short_mm,
        volume_mm3=max(round(volume_mm3), 1),
        mean_hu=round(density.mean_hu),
        nodule_type=density.nodule_type,
        solid_diameter_mm=density.solid_diameter_mm,
        solid_volume_mm3=density.solid_volume_mm3,
        diameter_interval_mm=_interval(mean_mm, params.reader_diameter_cv, 1),
        volume_interval_mm3=_interval(volume_mm3, params.reader_volume_cv, 0),
        method=OUTLINED,
    )
    ends = [
        _stretched(ends @ affine[:3, :3].T + affine[:3, 3], length_mm)
        for ends, length_mm in ((axes.long_ends, long_mm), (axes.short_ends, short_mm))
    ]
    return measurement, Outline(mask, affine, *ends)


def _interval(value: float, cv: float, digits: int) -> tuple[float, float]:
    low, high = relative_interval(value, cv)
    return round(low, digits), round(high, digits)


def _field(nodule: Nodule, diameter_mm: float) -> tuple[NDArray[np.float64], float]:
    """How far inside the surface and in front of the wall, mm (z, y, x), on a cube around the centre, and its grid.

    Exact within a voxel of the surface, elsewhere only its sign.
    """
    star = nodule.star
    spacing_mm = float(np.clip(star.radius_mm / 14, 0.2, 1.5))
    radii = star.radii_mm(sphere(1500))
    least, most = float(radii.min()) - spacing_mm, float(radii.max()) + spacing_mm
    if most > 1.2 * MAX_GROWTH * diameter_mm:
        raise OutlineError("the outline leaks into neighbouring tissue")
    half = int(np.ceil(most / spacing_mm)) + 1
    axis = (np.arange(2 * half + 1) - half) * spacing_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    places = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    r = np.linalg.norm(places, axis=1)
    field = np.where(r < least, spacing_mm, -spacing_mm)
    shell = np.flatnonzero((r >= least) & (r <= most))
    field[shell] = star.radii_mm(places[shell] / np.maximum(r[shell], 1e-9)[:, None]) - r[shell]
    if nodule.wall is not None:
        within = np.flatnonzero(field > -spacing_mm)
        field[within] = np.minimum(field[within], nodule.wall.depth_mm(places[within]))
    if not (field > 0).any():
        raise OutlineError("nothing nodule-like at the mark")
    return field.reshape(z.shape), spacing_mm


def _stretched(ends: NDArray[np.float64], length_mm: float) -> NDArray[np.float64]:
    """A line, (2, 3), of another length about its middle."""
    middle, half = ends.mean(axis=0), (ends[1] - ends[0]) / 2
    half *= length_mm / (2 * max(float(np.linalg.norm(half)), 1e-9))
    return np.array([middle - half, middle + half])
