"""Nodules from the pixel contours of LIDC readers: masks, centroid, diameter.

A LIDC contour runs on the first pixel OUTSIDE the nodule (Armato 2011, Med Phys 38:915), so its own
pixels never belong to the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import AnnotationError


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed outline on one slice.

    Attributes
    ----------
    z_mm: position of the slice.
    inclusion: True where the outline bounds the nodule, False where it bounds a hole in it.
    points: int (n, 2), (column, row) pixel numbers from 0.
    """

    z_mm: float
    inclusion: bool
    points: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ContourMask:
    """A mask cut out around a nodule.

    Attributes
    ----------
    mask: bool (k, j, i) = (slice, row, column).
    z_mm: float64 (k,), ascending: the slices of the mask.
    row, column: pixel numbers of mask[:, 0, 0] in the image.
    """

    mask: NDArray[np.bool_]
    z_mm: NDArray[np.float64]
    row: int
    column: int


def contour_box(contours: Sequence[Contour]) -> tuple[int, int, int, int]:
    """(first row, first column, last row, last column) that the outlines touch."""
    if not contours:
        raise AnnotationError("a nodule without a contour")
    points = np.concatenate([contour.points for contour in contours])
    (column, row), (last_column, last_row) = points.min(axis=0), points.max(axis=0)
    return int(row), int(column), int(last_row), int(last_column)


def contour_mask(
    contours: Sequence[Contour],
    *,
    z_mm: NDArray[np.floating] | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> ContourMask:
    """Pixels enclosed by the inclusion contours and by no exclusion contour, contour pixels left out.

    Parameters
    ----------
    z_mm: slices of the mask, ascending; the slices that have a contour if None.
    box: (first row, first column, last row, last column) to cover; that of the contours if None.

    Raises
    ------
    AnnotationError: no contour, or a contour on none of the slices given or outside the box.
    """
    own = contour_box(contours)
    row, column, last_row, last_column = own if box is None else box
    if own[0] < row or own[1] < column or own[2] > last_row or own[3] > last_column:
        raise AnnotationError("a contour leaves the box of its mask")
    slices = np.unique([contour.z_mm for contour in contours]) if z_mm is None else np.asarray(z_mm, dtype=np.float64)
    mask = np.zeros((len(slices), last_row - row + 1, last_column - column + 1), dtype=bool)
    for inclusion in (True, False):
        for contour in contours:
            if contour.inclusion != inclusion:
                continue
            k = int(np.abs(slices - contour.z_mm).argmin())
            if abs(float(slices[k]) - contour.z_mm) > 0.01:
                raise AnnotationError("a contour lies on none of the slices of its scan")
            outline = np.ascontiguousarray(contour.points - (column, row), dtype=np.int32)
            plane = np.zeros(mask.shape[1:], dtype=np.uint8)
            cv2.fillPoly(plane, [outline], 1)
            if inclusion:
                # the outline is the first pixel outside, so it goes
                cv2.polylines(plane, [outline], isClosed=True, color=0)
                mask[k] |= plane.astype(bool)
            else:
                # the outline of a hole belongs to the hole, as pylidc takes it
                mask[k] &= ~plane.astype(bool)
    return ContourMask(mask, slices, row, column)


def contour_centroid(contours: Sequence[Contour]) -> tuple[float, float, float]:
    """(column, row, z_mm): the mean of all contour points, as pylidc's `Annotation.centroid` defines it."""
    if not contours:
        raise AnnotationError("a nodule without a contour")
    count = sum(len(contour.points) for contour in contours)
    column, row = np.concatenate([contour.points for contour in contours]).mean(axis=0)
    z_mm = sum(contour.z_mm * len(contour.points) for contour in contours) / count
    return float(column), float(row), float(z_mm)


def contour_diameter_mm(contours: Sequence[Contour], pixel_spacing_mm: tuple[float, float]) -> float:
    """Largest distance between two points of one outline, as pylidc's `Annotation.diameter`; 0.0 for single points.

    Parameters
    ----------
    pixel_spacing_mm: (between rows, between columns), the order of DICOM PixelSpacing.
    """
    row_mm, column_mm = pixel_spacing_mm
    largest = 0.0
    for contour in contours:
        if contour.inclusion and len(contour.points) > 1:
            # the two furthest points of a set lie on its convex hull
            hull = cv2.convexHull(np.ascontiguousarray(contour.points, dtype=np.int32))[:, 0, :]
            corners = hull * np.array([column_mm, row_mm])
            gaps = corners[:, None, :] - corners[None, :, :]
            largest = max(largest, float(np.sqrt((gaps**2).sum(axis=2).max())))
    return largest
