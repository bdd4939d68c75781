"""Boxes drawn slice by slice, joined to nodules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_contracts.nodules import NoduleAnnotation
from data_contracts.series import SeriesRecord
from pipeline.annotations.series_index import slice_affine_of

#: one slice without a box between two that overlap is an oversight
_LARGEST_STEP = 2


@dataclass(frozen=True)
class BoxNodule:
    """Boxes of one nodule. center_mm: LPS; diameter_mm: longest side of the largest box; file_numbers: of all boxes."""

    annotation: NoduleAnnotation
    record: SeriesRecord
    center_mm: tuple[float, float, float]
    diameter_mm: float
    file_numbers: tuple[int, ...]


@dataclass(frozen=True)
class _Box:
    annotation: NoduleAnnotation
    record: SeriesRecord
    k: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)

    def meets(self, other: _Box) -> bool:
        """Whether the boxes overlap in the plane."""
        return min(self.right, other.right) > max(self.left, other.left) and min(self.bottom, other.bottom) > max(
            self.top, other.top
        )


def merge_boxes(
    marks: Sequence[tuple[NoduleAnnotation, SeriesRecord]], slice_of: Callable[[SeriesRecord, str], int | None]
) -> list[BoxNodule]:
    """Nodules from boxes: those of one class that overlap on neighbouring slices of one series are one.

    marks: each with one contour of four corners (column, row) and its series. slice_of: k of a SOP Instance UID.
    The centre is the mean of the box centres, each weighted with its area.
    """
    boxes = []
    for mark, record in marks:
        uid, _, _, corners = mark.contours[0]
        k = slice_of(record, uid)
        if k is not None:
            (left, top), (right, bottom) = corners[0], corners[2]
            boxes.append(_Box(mark, record, k, left, top, right, bottom))
    boxes.sort(key=lambda box: (box.record.series_key, box.annotation.source, box.k, box.left, box.top))
    groups: list[list[_Box]] = []
    for box in boxes:
        for group in groups:
            last = group[-1]
            same = (last.record.series_key, last.annotation.source) == (box.record.series_key, box.annotation.source)
            if same and 0 < box.k - last.k <= _LARGEST_STEP and box.meets(last):
                group.append(box)
                break
        else:
            groups.append([box])
    return [_nodule(group) for group in groups]


def _nodule(group: list[_Box]) -> BoxNodule:
    record = group[0].record
    weights = np.array([box.area for box in group])
    points = np.array([(box.k, (box.top + box.bottom) / 2, (box.left + box.right) / 2) for box in group])
    k, j, i = np.average(points, axis=0, weights=weights)
    affine = slice_affine_of(record)
    x, y, z, _ = affine @ (k, j, i, 1.0)
    _, row_mm, column_mm = (float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
    sides = [max((box.right - box.left) * column_mm, (box.bottom - box.top) * row_mm) for box in group]
    files = tuple(sorted({box.annotation.file_number for box in group}))
    return BoxNodule(group[0].annotation, record, (float(x), float(y), float(z)), max(sides), files)
