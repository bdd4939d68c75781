"""The place of a mark in its series: from mm, voxel indices, contours or outlines to LPS millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import AnnotationError
from data_contracts.nodules import NoduleAnnotation
from data_contracts.series import SeriesRecord
from pipeline.annotations.contours import Contour, contour_centroid, contour_diameter_mm
from pipeline.annotations.outlines import largest_distance, outlines_center
from pipeline.annotations.series_index import SeriesIndex, affine_of, contains, slice_affine_of

_LARGEST_MM = 500.0


@dataclass(frozen=True)
class PlacedMark:
    """A mark in its series. center_mm: (3,) LPS; diameter_mm: None where unknown; file_numbers: where it comes from."""

    annotation: NoduleAnnotation
    record: SeriesRecord
    center_mm: NDArray[np.float64]
    diameter_mm: float | None
    file_numbers: tuple[int, ...]


def equivalent_diameter_mm(volume_mm3: float) -> float:
    """Diameter of the ball of the same volume."""
    return float(np.cbrt(6 * volume_mm3 / np.pi))


class OutsideError(Exception):
    """The place is outside every part of the series; the words say more where more is known."""


def place(mark: NoduleAnnotation, found: Sequence[SeriesRecord], index: SeriesIndex) -> PlacedMark:
    """The mark in the part of its series that holds it.

    Raises
    ------
    OutsideError: no part holds it, or a slice it is drawn on is in none.
    AnnotationError: no place, a diameter that cannot be, or a place that could be in several parts.
    """
    if mark.contours:
        record, center, diameter = _from_contours(mark, found, index)
    elif mark.outlines:
        record, center, diameter = _from_outlines(mark, found, index)
    elif mark.pixel_kji is not None:
        record, center, diameter = _from_voxel(mark, found, index)
    elif mark.lps_mm is not None:
        center, diameter = np.array(mark.lps_mm, dtype=np.float64), mark.diameter_mm
        # parts of a split series share its UID: the point says which
        record = next((record for record in found if contains(record, center)[0]), found[0])
    else:
        raise AnnotationError("it has no place")
    check_diameter(diameter, record)
    if not contains(record, center)[0]:
        raise OutsideError("")
    return PlacedMark(mark, record, center, diameter, (mark.file_number,))


def check_diameter(diameter_mm: float | None, record: SeriesRecord) -> None:
    """Raises AnnotationError where the diameter is not positive, or larger than the volume or any nodule."""
    if diameter_mm is None:
        return
    extent_mm = max(count * step for count, step in zip(record.shape_kji, record.spacing_kji_mm, strict=True))
    if not 0 < diameter_mm <= min(_LARGEST_MM, extent_mm):
        raise AnnotationError("its diameter is not positive, or larger than the volume")


def _from_voxel(
    mark: NoduleAnnotation, found: Sequence[SeriesRecord], index: SeriesIndex
) -> tuple[SeriesRecord, NDArray[np.float64], float | None]:
    assert mark.pixel_kji is not None
    k, j, i = mark.pixel_kji
    record = found[0]
    affine = affine_of(record)
    if mark.sop_instance_uid:
        record, (slice_k,) = _slices(found, [mark.sop_instance_uid], index)
        k, affine = float(slice_k), slice_affine_of(record)
    elif len(found) > 1:
        raise AnnotationError("the series was split, so its slice numbers say nothing; name the part or the slice")
    return record, (affine @ (k, j, i, 1.0))[:3], mark.diameter_mm


def _slices(found: Sequence[SeriesRecord], uids: Sequence[str], index: SeriesIndex) -> tuple[SeriesRecord, list[int]]:
    """The part that has all of the slices, and their k."""
    for record in found:
        slices = [index.slice_of(record, uid) for uid in uids]
        known = [k for k in slices if k is not None]
        if len(known) == len(slices):
            return record, known
    raise OutsideError("a slice it is drawn on is not in the volume, or is one of several frames")


def _from_contours(
    mark: NoduleAnnotation, found: Sequence[SeriesRecord], index: SeriesIndex
) -> tuple[SeriesRecord, NDArray[np.float64], float | None]:
    """Centre and diameter as pylidc defines them: mean of all contour points, largest distance on one slice."""
    record, slices = _slices(found, [contour[0] for contour in mark.contours], index)
    affine = slice_affine_of(record)
    contours = [
        Contour(float(k), inclusion, np.array(points, dtype=np.int32))
        for k, (_, _, inclusion, points) in zip(slices, mark.contours, strict=True)
    ]
    column, row, k_mean = contour_centroid(contours)
    _, row_mm, column_mm = np.linalg.norm(affine[:3, :3], axis=0)
    diameter = contour_diameter_mm(contours, (float(row_mm), float(column_mm)))
    return record, (affine @ (k_mean, row, column, 1.0))[:3], diameter


def _from_outlines(
    mark: NoduleAnnotation, found: Sequence[SeriesRecord], index: SeriesIndex
) -> tuple[SeriesRecord, NDArray[np.float64], float | None]:
    record, slices = _slices(found, [uid for uid, _ in mark.outlines], index)
    affine = slice_affine_of(record)
    drawn = []
    for k, (_, points) in zip(slices, mark.outlines, strict=True):
        kji = np.array([(k, row, column) for column, row in points], dtype=np.float64)
        drawn.append(kji @ affine[:3, :3].T + affine[:3, 3])
    diameter = mark.diameter_mm
    if diameter is None:
        diameter = max((extent for extent in map(largest_distance, drawn) if extent), default=None)
    return record, outlines_center(drawn), diameter
