"""Long and short axis of a nodule: on the axial plane with the largest long axis, as Lung-RADS v2022 measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull


@dataclass(frozen=True, eq=False)
class Axes:
    """Long axis and the extent perpendicular to it, in mm, and their ends, (2, 3) = (z, y, x) in voxels."""

    long_mm: float
    short_mm: float
    long_ends: NDArray[np.float64]
    short_ends: NDArray[np.float64]


def axial_axes(field: NDArray[np.floating], spacing_mm: float) -> Axes:
    """Axes of where a field (z, y, x) is positive, on the axial plane with the largest long axis; 0 where nowhere.

    field: for axes finer than the grid, it runs about linearly through 0 at the surface, as a signed distance does; a
    mask as -1 and 1 does too, with its surface half way between the voxels.
    """
    best = Axes(0.0, 0.0, np.zeros((2, 3)), np.zeros((2, 3)))
    for height in np.flatnonzero((field > 0).any(axis=(1, 2))):
        long_mm, short_mm, ends = _plane_axes(field[height], spacing_mm)
        if long_mm > best.long_mm:
            placed = np.insert(ends, 0, float(height), axis=-1)
            best = Axes(long_mm, short_mm, placed[0], placed[1])
    return best


def mask_axes(mask: NDArray[np.bool_], spacing_mm: float) -> Axes:
    """The axes of a mask (z, y, x)."""
    return axial_axes(np.where(mask, 1.0, -1.0), spacing_mm)


def _plane_axes(plane: NDArray[np.floating], spacing_mm: float) -> tuple[float, float, NDArray[np.float64]]:
    """Long axis, short axis, and the ends of both as (axis, end, (y, x)) in pixels."""
    points = _outline_points(plane) * spacing_mm
    points = points[ConvexHull(points).vertices]
    between = points[:, None, :] - points[None, :, :]
    lengths = np.linalg.norm(between, axis=-1)
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    long_mm = float(lengths[first, second])
    direction = between[first, second] / long_mm
    normal = np.array([-direction[1], direction[0]])
    short_ends = _longest_across(points, direction, normal)
    short_mm = float(np.linalg.norm(short_ends[1] - short_ends[0]))
    ends = np.array([[points[second], points[first]], short_ends])
    return long_mm, short_mm, ends / spacing_mm


def _longest_across(
    points: NDArray[np.float64], direction: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Ends (2, 2) of the longest line across a convex outline (n, 2), perpendicular to a direction."""
    along, across = points @ direction, points @ normal
    following = np.roll(np.arange(len(points)), -1)
    start, stop = along[:, None], along[following][:, None]
    # where the line through each corner meets each side; the longest line goes through a corner
    at = along[None, :]
    part = np.where(start == stop, np.nan, (at - start) / np.where(start == stop, 1.0, stop - start))
    meets = (part >= -1e-9) & (part <= 1 + 1e-9)
    height = np.where(meets, across[:, None] + part * (across[following] - across)[:, None], np.nan)
    low = np.where(meets.any(axis=0), np.nanmin(np.where(meets, height, np.inf), axis=0), 0.0)
    high = np.where(meets.any(axis=0), np.nanmax(np.where(meets, height, -np.inf), axis=0), 0.0)
    best = int((high - low).argmax())
    return np.array([along[best] * direction + edge * normal for edge in (low[best], high[best])])


def _outline_points(plane: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points (n, 2) = (y, x) in pixels where a plane crosses 0 between neighbours; at least three, not on a line."""
    padded = np.pad(np.asarray(plane, dtype=np.float64), 1, constant_values=-1.0)
    found = []
    for values, axis in ((padded, 0), (padded.T, 1)):
        first, second = values[:-1], values[1:]
        places = np.argwhere((first > 0) != (second > 0))
        low, high = first[tuple(places.T)], second[tuple(places.T)]
        points = places.astype(np.float64)
        points[:, 0] += low / (low - high)
        found.append(points if axis == 0 else points[:, ::-1])
    return np.asarray(np.concatenate(found) - 1.0)
