"""Size of a nodule from the voxels around its centre: outline by adaptive threshold, axes, volume.

The outline starts from a mark (centre and diameter), never from nothing. Threshold: half way between the
nodule's core and the lung around it, which places the edge of a blurred ball where its real edge is, for
solid and ground-glass nodules alike. Vessels go by a morphological opening with a ball narrower than the
nodule; pleura, heart and diaphragm go because they hold a ball wider than the nodule.

Diameters follow Lung-RADS v2022: mean of the long axis and of the longest extent perpendicular to it, on
the axial plane where the long axis is largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from data_contracts.review import Measurement
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.resample import resample_onto
from pipeline.review.planes import LpsPoint

#: An outline wider than this times the marked diameter has leaked into its surroundings.
MAX_GROWTH = 1.6
#: An outline narrower than this times the marked diameter has missed the nodule.
MIN_GROWTH = 0.4
#: Least contrast between core and lung that is worth a threshold.
MIN_CONTRAST_HU = 80.0
#: Brightest "lung" that is believed; above, the shell around the mark holds no lung.
MAX_LUNG_HU = -500.0

#: How far the edge of a nodule is blurred by scanner, kernel and slice thickness, to either side.
BLUR_MM = 1.5

#: Most that axes are stretched to undo that blur.
MAX_STRETCH = 1.15

#: Marks what lies beyond the volume; no scanner writes it.
_OUTSIDE_HU = -32768

OUTLINED = "outlined by adaptive threshold and region growing"
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


def measured(volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float) -> tuple[Measurement, Outline | None]:
    """Measure the nodule marked at `center_lps_mm` with about `diameter_mm`, and outline it.

    Where no outline can be trusted the mark's diameter is returned, without axes, volume and outline, and `method`
    says why.
    """
    spacing_mm = float(np.clip(diameter_mm / 20, 0.5, 1.0))
    hu = patient_cube(volume, center_lps_mm, half_mm=1.6 * diameter_mm + 4, spacing_mm=spacing_mm)
    try:
        mask, volume_mm3 = outline(hu, diameter_mm, spacing_mm)
        # The blurred edge pulls the outline in from all sides; the volume, which counts it, says how far.
        stretch = float(np.clip(np.cbrt(volume_mm3 / (mask.sum() * spacing_mm**3)), 1.0, MAX_STRETCH))
        axes = axial_axes(mask, spacing_mm)
        long_mm, short_mm = (float(axis * stretch) for axis in (axes.long_mm, axes.short_mm))
        mean_mm = (long_mm + short_mm) / 2
        if mean_mm > MAX_GROWTH * diameter_mm:
            raise OutlineError("the outline leaks into neighbouring tissue")
        if mean_mm < MIN_GROWTH * diameter_mm:
            raise OutlineError("the outline covers too little of the mark")
    except OutlineError as error:
        return Measurement(mean_diameter_mm=round(diameter_mm, 1), method=FALLBACK.format(reason=error)), None
    measurement = Measurement(
        # The report shows the axes to 0.1 mm and their mean must be the mean of what is shown.
        mean_diameter_mm=round((round(long_mm, 1) + round(short_mm, 1)) / 2 + 1e-9, 1),
        long_axis_mm=round(long_mm, 1),
        short_axis_mm=round(short_mm, 1),
        volume_mm3=round(volume_mm3),
        mean_hu=round(float(np.nanmean(hu[mask]))),
        method=OUTLINED,
    )
    affine = cube_affine(center_lps_mm, hu.shape[0], spacing_mm)
    ends = [
        _stretched(ends @ affine[:3, :3].T + affine[:3, 3], round(length_mm, 1))
        for ends, length_mm in ((axes.long_ends, long_mm), (axes.short_ends, short_mm))
    ]
    return measurement, Outline(mask, affine, *ends)


def _stretched(ends: NDArray[np.float64], length_mm: float) -> NDArray[np.float64]:
    """A line, (2, 3), of another length about its middle."""
    middle, half = ends.mean(axis=0), (ends[1] - ends[0]) / 2
    half *= length_mm / (2 * max(float(np.linalg.norm(half)), 1e-9))
    return np.array([middle - half, middle + half])


def cube_affine(center_lps_mm: LpsPoint, side: int, spacing_mm: float) -> NDArray[np.float64]:
    """(4, 4): (z, y, x, 1) to LPS mm of a cube of `side` voxels along the patient's axes around a point."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * spacing_mm
    affine[:3, 3] = np.asarray(center_lps_mm, dtype=np.float64) - side // 2 * spacing_mm
    return affine


def patient_cube(
    volume: CTVolume, center_lps_mm: LpsPoint, *, half_mm: float, spacing_mm: float
) -> NDArray[np.float32]:
    """HU in a cube along the patient's axes around a point: (z, y, x) growing to superior, posterior and left.

    NaN beyond the volume: what lies there is unknown, and neither lung nor nodule.
    """
    side = 2 * int(np.ceil(half_mm / spacing_mm)) + 1
    affine = cube_affine(center_lps_mm, side, spacing_mm)
    cube = resample_onto(volume, affine, (side,) * 3, padding_hu=_OUTSIDE_HU).hu
    return np.where(cube == _OUTSIDE_HU, np.nan, cube).astype(np.float32)


class OutlineError(Exception):
    """No outline that can be trusted; the message says why, in words for the report."""


def outline(hu: NDArray[np.float32], diameter_mm: float, spacing_mm: float) -> tuple[NDArray[np.bool_], float]:
    """Mask of the nodule in the middle of a cube (z, y, x) of HU, and its volume in mm3; raises OutlineError."""
    radius_mm = diameter_mm / 2
    known = ~np.isnan(hu)
    hu = np.where(known, hu, np.float32(PADDING_HU))
    distance_mm = _distance_from_middle_mm(hu.shape, spacing_mm)
    core_hu, lung_hu = _core_and_lung_hu(hu, known, distance_mm, radius_mm)
    contrast_hu = core_hu - lung_hu
    if contrast_hu < MIN_CONTRAST_HU:
        raise OutlineError("the mark is hardly brighter than the lung around it")
    # Noise of a thin low-dose slice would tear a faint nodule apart; a solid one stands without help.
    smooth = ndimage.gaussian_filter(hu, 0.45 / spacing_mm) if contrast_hu < 400 else hu
    bright = smooth > (core_hu + lung_hu) / 2

    limit_mm = MAX_GROWTH * radius_mm
    lung = _parts_near_mark(~bright & known, distance_mm, 1.3 * radius_mm + 3)
    nodule = bright & ~_opened(~lung, limit_mm, spacing_mm) & (distance_mm <= limit_mm + spacing_mm)
    cut_mm = float(np.clip(0.35 * radius_mm, 2 * spacing_mm if radius_mm > 3 else spacing_mm, 3.0))
    body = _component_of_mark(_opened(nodule, cut_mm, spacing_mm), distance_mm, radius_mm)
    # Opening rounds edges off by less than a ball's radius; take back what hangs together at the rim.
    rim = ndimage.binary_dilation(body, iterations=1)
    mask = np.asarray(ndimage.binary_fill_holes(rim & nodule), dtype=np.bool_)
    limit = np.abs(distance_mm - limit_mm) < spacing_mm
    if mask[limit].mean() > 0.05:
        raise OutlineError("the outline leaks into neighbouring tissue")
    share = (hu - lung_hu) / contrast_hu
    return mask, _volume_mm3(mask, bright & ~mask, share, spacing_mm)


def _volume_mm3(
    mask: NDArray[np.bool_], others: NDArray[np.bool_], share: NDArray[np.float32], spacing_mm: float
) -> float:
    """Volume with the blurred border counted by its share of nodule, which loses nothing to the blur.

    A blurred convex edge lies inside the real one at half height, so that counting voxels makes small nodules
    smaller. What lies deeper than the blur counts whole (a nodule need not be even), other bright tissue not at all.
    """
    depth_mm = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    height_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    border = (depth_mm <= BLUR_MM) & (height_mm <= BLUR_MM) & ~others
    # Without a free border on the side of a vessel or the pleura the mask's own edge stands.
    free = ndimage.distance_transform_edt(~others, sampling=spacing_mm) > BLUR_MM
    counted = np.where(border & free, np.minimum(share, 1.0), mask)
    return float(counted.sum()) * spacing_mm**3


@dataclass(frozen=True, eq=False)
class Axes:
    """Long axis and the extent perpendicular to it, in mm, and their ends, (2, 3) = (z, y, x) in voxels."""

    long_mm: float
    short_mm: float
    long_ends: NDArray[np.float64]
    short_ends: NDArray[np.float64]


def axial_axes_mm(mask: NDArray[np.bool_], spacing_mm: float) -> tuple[float, float]:
    """Long axis and the extent perpendicular to it, on the axial plane (z, y, x) with the largest long axis."""
    axes = axial_axes(mask, spacing_mm)
    return axes.long_mm, axes.short_mm


def axial_axes(mask: NDArray[np.bool_], spacing_mm: float) -> Axes:
    """The axes of `axial_axes_mm` with their ends; of length 0 where the mask is empty."""
    best = Axes(0.0, 0.0, np.zeros((2, 3)), np.zeros((2, 3)))
    for height in np.flatnonzero(mask.any(axis=(1, 2))):
        long_mm, short_mm, ends = _plane_axes(mask[height], spacing_mm)
        if long_mm > best.long_mm:
            placed = np.insert(ends, 0, float(height), axis=-1)
            best = Axes(long_mm, short_mm, placed[0], placed[1])
    return best


def _plane_axes(plane: NDArray[np.bool_], spacing_mm: float) -> tuple[float, float, NDArray[np.float64]]:
    """Long axis, short axis, and the ends of both as (axis, end, (y, x)) in pixels."""
    points = np.argwhere(plane).astype(np.float64) * spacing_mm
    if len(points) > 3:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all pixels on one line
            points = points[[0, -1]]
    between = points[:, None, :] - points[None, :, :]
    lengths = np.linalg.norm(between, axis=-1)
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    long_mm = float(lengths[first, second])
    # Pixel centres end on average a quarter of a pixel inside the true edge, at either end.
    edge_mm = spacing_mm / 2
    if long_mm == 0:
        cross = points[0] + np.array([[[0, -edge_mm], [0, edge_mm]], [[-edge_mm, 0], [edge_mm, 0]]])
        return spacing_mm, spacing_mm, cross / spacing_mm
    direction = between[first, second] / long_mm
    normal = np.array([-direction[1], direction[0]])
    along, across = points @ direction, points @ normal
    lowest, highest = int(across.argmin()), int(across.argmax())
    middle = (along[lowest] + along[highest]) / 2 * direction
    # a nodule one pixel wide has a short axis too
    half = max(float(np.ptp(across)), edge_mm) / 2 * normal
    center = middle + (across[lowest] + across[highest]) / 2 * normal
    ends = np.array([[points[second], points[first]], [center - half, center + half]])
    return long_mm + edge_mm, float(np.ptp(across)) + edge_mm, ends / spacing_mm


def _distance_from_middle_mm(shape: tuple[int, ...], spacing_mm: float) -> NDArray[np.float64]:
    offsets = np.indices(shape) - (np.array(shape) // 2)[:, None, None, None]
    return np.asarray(np.linalg.norm(offsets, axis=0) * spacing_mm)


def _core_and_lung_hu(
    hu: NDArray[np.float32], known: NDArray[np.bool_], distance_mm: NDArray[np.float64], radius_mm: float
) -> tuple[float, float]:
    """Typical HU of the nodule's core and of the lung beside it (a mark on the pleura sees mostly wall)."""
    core = hu[distance_mm <= max(0.5 * radius_mm, 1.0)]
    shell = hu[known & (distance_mm > 1.1 * radius_mm + 1) & (distance_mm < 2 * radius_mm + 4)]
    lung = shell[shell < MAX_LUNG_HU]
    if len(lung) < max(0.03 * len(shell), 1):
        raise OutlineError("no lung around the mark")
    return float(np.percentile(core, 60)), float(np.percentile(lung, 40))


def _opened(mask: NDArray[np.bool_], radius_mm: float, spacing_mm: float) -> NDArray[np.bool_]:
    """Opening by a ball; what continues beyond the cube counts as going on (a chest wall is thick)."""
    if not mask.any() or mask.all():
        return mask
    core = ndimage.distance_transform_edt(mask, sampling=spacing_mm) > radius_mm
    if not core.any():
        return np.zeros_like(mask)
    return np.asarray((ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= radius_mm) & mask)


def _parts_near_mark(mask: NDArray[np.bool_], distance_mm: NDArray[np.float64], reach_mm: float) -> NDArray[np.bool_]:
    """Connected parts that come near the mark: its lung, but not the air outside the body, beyond a thin wall."""
    labels, n_parts = ndimage.label(mask)
    near = np.zeros(n_parts + 1, dtype=bool)
    near[np.unique(labels[distance_mm <= reach_mm])] = True
    near[0] = False
    return np.asarray(near[labels])


def _component_of_mark(
    mask: NDArray[np.bool_], distance_mm: NDArray[np.float64], radius_mm: float
) -> NDArray[np.bool_]:
    """The connected part that covers most of the mark's inner half."""
    labels, _ = ndimage.label(mask)
    inner = labels[(distance_mm <= max(0.5 * radius_mm, 1.5)) & mask]
    if not len(inner):
        raise OutlineError("nothing nodule-like at the mark")
    return np.asarray(labels == np.bincount(inner).argmax())
