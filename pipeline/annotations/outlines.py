"""Centre and diameter of what readers drew: points, lines, polygons, circles and ellipses."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import AnnotationError

Points = NDArray[np.float64]


def drawn_points(kind: str, points: Points) -> Points:
    """The outline that a DICOM graphic type means, (n, axes), in the coordinates given.

    kind: POINT, MULTIPOINT, POLYLINE, POLYGON, ELLIPSE (ends of the long, then of the short axis), CIRCLE (centre and a
    point on it), ELLIPSOID (ends of three axes); PS3.3 C.18.6.1.2 and C.18.9.1.2.

    Raises
    ------
    AnnotationError: another type, or another number of points.
    """
    wanted = {"POINT": 1, "CIRCLE": 2, "ELLIPSE": 4, "ELLIPSOID": 6}.get(kind)
    if kind not in ("MULTIPOINT", "POLYLINE", "POLYGON") and wanted is None:
        raise AnnotationError(f"graphic type {kind[:16]!r} is not known")
    if wanted is not None and len(points) != wanted:
        raise AnnotationError(f"graphic type {kind} has {len(points)} points where {wanted} belong")
    if kind == "CIRCLE" and points.shape[1] == 2:
        center, arm = points[0], points[1] - points[0]
        turned = np.array([-arm[1], arm[0]])
        return np.array([center + arm, center + turned, center - arm, center - turned])
    if kind == "ELLIPSE":
        return points[[0, 2, 1, 3]]
    return points


def outline_center(points: Points) -> tuple[Points, float]:
    """(centre, area) of a closed outline, (n, 2) or (n, 3) in a plane; the mean and 0.0 where it encloses nothing.

    The centre of area, summed over the triangles of a fan.
    """
    whole = np.zeros((len(points), 3))
    whole[:, : points.shape[1]] = points
    one, other = whole[1:-1] - whole[0], whole[2:] - whole[0]
    crossed = np.cross(one, other) / 2
    normal = crossed.sum(axis=0)
    area = float(np.linalg.norm(normal))
    if area <= 1e-9:
        return points.mean(axis=0), 0.0
    share = crossed @ (normal / area)
    center = whole[0] + (share[:, None] * (one + other) / 3).sum(axis=0) / area
    return center[: points.shape[1]], area


def outlines_center(outlines: Sequence[Points]) -> Points:
    """Centre of several outlines, each weighted with its area; all alike where none encloses anything."""
    centers, areas = zip(*(outline_center(points) for points in outlines), strict=True)
    weights = np.array(areas) if sum(areas) > 0 else np.ones(len(areas))
    return np.asarray(np.average(np.array(centers), axis=0, weights=weights), dtype=np.float64)


def largest_distance(points: Points) -> float | None:
    """Largest distance of two points, (n, 2) or (n, 3) in mm; None for a single point or where all are one."""
    if len(points) > 256 and points.shape[1] == 2:
        # the two furthest lie on the convex hull
        points = cv2.convexHull(np.ascontiguousarray(points, dtype=np.float32))[:, 0, :].astype(np.float64)
    if len(points) > 4096:
        raise AnnotationError("an outline has far too many points")
    distance = float(np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2).max())
    return distance if distance > 0 else None
