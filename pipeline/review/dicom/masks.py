"""A finding on the images it was found in: which pixels it has, and where its axes lie on its key slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.review.dicom.source import SourceSeries
from pipeline.review.measure import Outline

#: points at which a voxel too thick to be hit at its centre is looked at, across the slice
_THROUGH = 9


@dataclass(frozen=True, eq=False)
class FindingMask:
    """Pixels of one finding, cut out of its series' images.

    mask: bool (k, j, i), holds at least one voxel. origin_kji: where mask[0, 0, 0] stands in the series.
    """

    mask: NDArray[np.bool_]
    origin_kji: tuple[int, int, int]

    def slices(self) -> list[int]:
        """Slice numbers, from 0, on which it has a pixel."""
        return [int(k) + self.origin_kji[0] for k in np.flatnonzero(self.mask.any(axis=(1, 2)))]

    def plane(self, k: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels (row, column) on a whole image of `shape`."""
        whole = np.zeros(shape, dtype=np.bool_)
        own, (_, row, column) = self.mask[k - self.origin_kji[0]], self.origin_kji
        whole[row : row + own.shape[0], column : column + own.shape[1]] = own
        return whole

    @classmethod
    def of(cls, whole: NDArray[np.bool_]) -> FindingMask:
        """Cut out of a mask (k, j, i) of the series, which holds at least one voxel."""
        box = [np.flatnonzero(whole.any(axis=tuple(set(range(3)) - {axis}))) for axis in range(3)]
        origin = (int(box[0][0]), int(box[1][0]), int(box[2][0]))
        cut = whole[tuple(slice(int(side[0]), int(side[-1]) + 1) for side in box)].copy()
        return cls(cut, origin)


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a finding is on slice `k`, as DICOM counts: (column, row), 0.5 is the centre of the first pixel.

    long_axis, short_axis: (2, 2) ends of what was measured; None where nothing was.
    circle: around the mark where nothing was measured, as the ends of an ellipse's long and short axis, (4, 2); at the
        rim of an image what is left of it, (n, 2), closed.
    """

    k: int
    long_axis: NDArray[np.float32] | None = None
    short_axis: NDArray[np.float32] | None = None
    circle: NDArray[np.float32] | None = None


def mask_on_images(outline: Outline, series: SourceSeries) -> FindingMask | None:
    """The voxels of a series whose centre lies in an outline; None where none of it lies on the images.

    Where slices are so thick that no centre is hit, those of the slice nearest to the middle which the outline cuts.
    """
    inside = np.argwhere(outline.mask).astype(np.float64)
    inverse = np.linalg.inv(series.affine)
    points = _moved(inverse, _moved(outline.affine, inside))
    shape = np.array(series.shape_kji)
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, shape)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, shape)
    if (high <= low).any():
        return None
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    mask = _hit(outline, series, grid.astype(np.float64))
    if not mask.any():
        middle = int(np.clip(round(float(points[:, 0].mean())), low[0], high[0] - 1))
        own = grid[grid[..., 0] == middle].reshape(1, *grid.shape[1:]).astype(np.float64)
        through = (np.arange(_THROUGH) + 0.5) / _THROUGH - 0.5
        steps = np.array([(step, 0.0, 0.0) for step in through])
        mask[middle - low[0]] = np.any([_hit(outline, series, own + step)[0] for step in steps], axis=0)
    if not mask.any():
        return None
    cut = FindingMask.of(mask)
    k, j, i = (int(a) + b for a, b in zip(low, cut.origin_kji, strict=True))
    return FindingMask(cut.mask, (k, j, i))


def drawing_of_outline(outline: Outline, mask: FindingMask, series: SourceSeries) -> Drawing:
    """The axes on the image nearest to the plane that was measured; they keep their lengths there."""
    inverse = np.linalg.inv(series.affine)
    ends = np.array([outline.long_axis_lps_mm, outline.short_axis_lps_mm])
    kji = _moved(inverse, ends.reshape(-1, 3)).reshape(2, 2, 3)
    with_image = [k for k in mask.slices() if series.sop_uids[k]]
    wanted = float(kji[0, :, 0].mean())
    k = min(with_image, key=lambda own: abs(own - wanted)) if with_image else series.image_at(wanted)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1)
    axes = [_of_length(line[:, 1:], length, series) for line, length in zip(kji, lengths, strict=True)]
    return Drawing(k, *(_as_counted(axis, series) for axis in axes))


def drawing_of_mark(center_lps_mm: tuple[float, float, float], diameter_mm: float, series: SourceSeries) -> Drawing:
    """A circle of the patient around a mark, on the image nearest to it."""
    kji = _moved(np.linalg.inv(series.affine), np.array([center_lps_mm]))[0]
    k = series.image_at(float(kji[0]))
    row_mm, column_mm = np.linalg.norm(series.affine[:3, 1:3], axis=0)
    rows, columns = diameter_mm / 2 / row_mm, diameter_mm / 2 / column_mm
    across = np.array([[0, -columns], [0, columns]])
    down = np.array([[-rows, 0], [rows, 0]])
    # the long axis comes first (PS3.3 C.18.6.1.2)
    ends = kji[1:] + np.concatenate([across, down] if columns >= rows else [down, across])
    whole = _as_counted(ends, series)
    if np.array_equal(whole, _as_counted(ends)):
        return Drawing(k, circle=whole)
    # at the rim of the image half an ellipse is none: what is left of it as a polygon
    angles = np.linspace(0, 2 * np.pi, 49)
    circle = np.stack([rows * np.sin(angles), columns * np.cos(angles)], axis=-1)
    return Drawing(k, circle=_as_counted(kji[1:] + circle, series))


def _hit(outline: Outline, series: SourceSeries, kji: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each point (..., 3) of the series lies in the outline."""
    cube = _moved(np.linalg.inv(outline.affine) @ series.affine, kji)
    index = np.rint(cube).astype(int)
    known = np.asarray(((index >= 0) & (index < outline.mask.shape)).all(axis=-1))
    index = np.where(known[..., None], index, 0)
    return np.asarray(outline.mask[index[..., 0], index[..., 1], index[..., 2]] & known)


def _moved(affine: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def _of_length(line: NDArray[np.float64], length_mm: float, series: SourceSeries) -> NDArray[np.float64]:
    """A line (2, 2) = (row, column) made as long in the plane as it was in the patient: a tilt shortens it a little."""
    steps_mm = np.linalg.norm(series.affine[:3, 1:3], axis=0)
    middle, half = line.mean(axis=0), (line[1] - line[0]) / 2
    now_mm = float(np.linalg.norm(half * steps_mm)) * 2
    if now_mm < 1e-6:
        half, now_mm = np.array([0.0, 1 / steps_mm[1]]), 2.0
    half = half * (length_mm / now_mm)
    return np.array([middle - half, middle + half])


def _as_counted(row_column: NDArray[np.float64], within: SourceSeries | None = None) -> NDArray[np.float32]:
    """(row, column) with 0 at the first pixel's centre, to DICOM's (column, row) with 0.5 there, on the image."""
    counted = np.asarray(row_column[..., ::-1] + 0.5, dtype=np.float32)
    if within is None:
        return counted
    return np.clip(counted, np.float32(0), np.array(within.shape_kji[:0:-1], dtype=np.float32))
