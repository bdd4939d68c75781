"""Centre, diameter and volume of the nodules of a segment, given as masks on parallel planes in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.errors import AnnotationError

#: pieces of one segment whose boxes are further apart than this are different nodules
_PIECE_GAP_MM = 5.0
_MAX_PIECES = 500
_MAX_VOXELS = 2**27


@dataclass(frozen=True, eq=False)
class PlaneMask:
    """One plane of a segment.

    Attributes
    ----------
    mask: bool (row, column), cut out of the frame; holds at least one pixel.
    row, column: where mask[0, 0] stands in the frame.
    origin_mm: (3,) LPS, centre of the frame's first pixel.
    row_step_mm, column_step_mm: (3,) LPS, from a pixel to the one below it, and to the one right of it.
    height_mm: of the plane along the normal.
    """

    mask: NDArray[np.bool_]
    row: int
    column: int
    origin_mm: NDArray[np.float64]
    row_step_mm: NDArray[np.float64]
    column_step_mm: NDArray[np.float64]
    height_mm: float


@dataclass(frozen=True)
class Shape:
    """One nodule.

    Attributes
    ----------
    center_mm: centre of mass, LPS.
    diameter_mm: largest distance of outer pixel corners in one plane.
    volume_mm3: pixels times the distance of the planes; None where that is unknown.
    """

    center_mm: tuple[float, float, float]
    diameter_mm: float
    volume_mm3: float | None


@dataclass(frozen=True, eq=False)
class _Stack:
    """A segment in one box: mask (level, row, column), and the plane of each level that has one."""

    mask: NDArray[np.bool_]
    planes: dict[int, PlaneMask]
    row: int
    column: int
    level_mm: float


def segment_shapes(planes: Sequence[PlaneMask], plane_distance_mm: float | None) -> list[Shape]:
    """The nodules of a segment, largest first: its pieces, those nearer than 5 mm taken together.

    Raises
    ------
    AnnotationError: nothing is marked, or far more than a nodule.
    """
    if not planes:
        raise AnnotationError("no pixel is marked")
    stack = _stacked(planes, plane_distance_mm or 1.0)
    labels, count = ndimage.label(stack.mask, structure=np.ones((3, 3, 3), dtype=bool))
    if count > _MAX_PIECES:
        raise AnnotationError(f"the segment falls into more than {_MAX_PIECES} pieces")
    nodules = _joined(ndimage.find_objects(labels), stack)
    shapes = [
        _shape(np.isin(labels, np.flatnonzero(nodules == name) + 1), stack, plane_distance_mm)
        for name in np.unique(nodules)
    ]
    return sorted(shapes, key=lambda shape: (-(shape.volume_mm3 or shape.diameter_mm), shape.center_mm))


def _stacked(planes: Sequence[PlaneMask], distance_mm: float) -> _Stack:
    lowest = min(plane.height_mm for plane in planes)
    levels = [round((plane.height_mm - lowest) / distance_mm) for plane in planes]
    top, left = min(plane.row for plane in planes), min(plane.column for plane in planes)
    bottom = max(plane.row + plane.mask.shape[0] for plane in planes)
    right = max(plane.column + plane.mask.shape[1] for plane in planes)
    if (max(levels) + 1) * (bottom - top) * (right - left) > _MAX_VOXELS:
        raise AnnotationError("the segment is far larger than a nodule")
    whole = np.zeros((max(levels) + 1, bottom - top, right - left), dtype=bool)
    own: dict[int, PlaneMask] = {}
    for level, plane in zip(levels, planes, strict=True):
        row, column = plane.row - top, plane.column - left
        whole[level, row : row + plane.mask.shape[0], column : column + plane.mask.shape[1]] |= plane.mask
        own.setdefault(level, plane)
    return _Stack(whole, own, top, left, distance_mm)


def _joined(boxes: list[tuple[slice, ...]], stack: _Stack) -> NDArray[np.int64]:
    """For each piece the number of its nodule; pieces whose boxes are near are one."""
    plane = next(iter(stack.planes.values()))
    sides_mm = (stack.level_mm, np.linalg.norm(plane.row_step_mm), np.linalg.norm(plane.column_step_mm))
    low = np.array([[side.start for side in box] for box in boxes]) * sides_mm
    high = np.array([[side.stop for side in box] for box in boxes]) * sides_mm
    gap = np.linalg.norm(np.maximum(0, np.maximum(low[:, None] - high[None], low[None] - high[:, None])), axis=2)
    nodules = np.arange(len(boxes))
    for one, other in np.argwhere(np.triu(gap <= _PIECE_GAP_MM, k=1)):
        nodules[nodules == nodules[other]] = nodules[one]
    return nodules


def _shape(mask: NDArray[np.bool_], stack: _Stack, plane_distance_mm: float | None) -> Shape:
    weighted, count, diameter = np.zeros(3), 0, 0.0
    for level in np.flatnonzero(mask.any(axis=(1, 2))):
        plane = stack.planes[int(level)]
        rows, columns = np.nonzero(mask[level])
        rows, columns = rows + stack.row, columns + stack.column
        middle = plane.origin_mm + rows.mean() * plane.row_step_mm + columns.mean() * plane.column_step_mm
        weighted += middle * len(rows)
        count += len(rows)
        diameter = max(diameter, _diameter_mm(rows, columns, plane))
    center = weighted / count
    pixel_mm2 = float(np.linalg.norm(np.cross(plane.row_step_mm, plane.column_step_mm)))
    volume = None if plane_distance_mm is None else count * pixel_mm2 * plane_distance_mm
    return Shape((float(center[0]), float(center[1]), float(center[2])), diameter, volume)


def _diameter_mm(rows: NDArray[np.intp], columns: NDArray[np.intp], plane: PlaneMask) -> float:
    """Largest distance of two outer corners of the pixels; it lies between points of the convex hull."""
    corners = np.concatenate([np.stack([columns + right, rows + low], axis=1) for right in (0, 1) for low in (0, 1)])
    hull = cv2.convexHull(np.ascontiguousarray(corners, dtype=np.int32))[:, 0, :]
    points = hull[:, :1] * plane.column_step_mm + hull[:, 1:] * plane.row_step_mm
    return float(np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2).max())
