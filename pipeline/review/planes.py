"""Planes of a volume for pictures: along the patient's axes for any affine, in radiological convention."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.resample import sample_grid

#: A position in the patient, (x, y, z) in LPS mm.
LpsPoint = tuple[float, float, float] | NDArray[np.float64]

#: Columns and rows of a picture as directions in the patient (LPS), in radiological convention:
#: patient right on the image's left, anterior or superior up.
PLANE_AXES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}

#: Letters at the left, right, top and bottom rim of each plane.
PLANE_LETTERS: dict[str, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}

#: Voxels kept around the sampled region, so that the spline filter sees what it needs.
_SPLINE_MARGIN = 8


def sample_hu(volume: CTVolume, lps_mm: NDArray[np.float64], *, order: Literal[1, 3] = 3) -> NDArray[np.float32]:
    """HU at patient positions by cubic splines, which show a magnified nodule without the steps of linear ones.

    Parameters
    ----------
    lps_mm: (..., 3) = (x, y, z) in LPS mm.
    order: 1 for linear interpolation, which is enough where a picture shrinks.

    Returns
    -------
    float32 of the leading shape; PADDING_HU outside the volume.
    """
    kji = volume.to_kji(lps_mm)
    found = _block_around(volume, kji.reshape(-1, 3), order)
    if found is None:
        return np.full(kji.shape[:-1], PADDING_HU, dtype=np.float32)
    block, low = found
    points = np.moveaxis(kji - low, -1, 0)
    # "nearest" carries the last slice on by half a voxel, which belongs to it; farther out there is nothing.
    values = ndimage.map_coordinates(block, points, order=order, mode="nearest", output=np.float32)
    values[_is_outside(kji, volume)] = PADDING_HU
    return np.asarray(values, dtype=np.float32)


def sample_plane(
    volume: CTVolume,
    center_lps_mm: LpsPoint,
    plane: str,
    *,
    size_mm: tuple[float, float],
    shape_px: tuple[int, int],
    order: Literal[1, 3] = 3,
) -> NDArray[np.float32]:
    """A plane of PLANE_AXES through a point.

    Parameters
    ----------
    size_mm: (height, width) of the field, centred on the point.
    shape_px: (rows, columns).
    order: as in `sample_hu`.

    Returns
    -------
    float32 (rows, columns) in HU.
    """
    across, down = (np.array(axis, dtype=np.float64) for axis in PLANE_AXES[plane])
    pitch_mm = np.array(size_mm) / shape_px
    margin_mm = (pitch_mm - size_mm) / 2  # from the middle of the field to the centre of its first pixel
    first = np.array(center_lps_mm) + margin_mm[0] * down + margin_mm[1] * across
    positions = np.stack([first, first + down * pitch_mm[0], first + across * pitch_mm[1]])
    start, *steps = volume.to_kji(positions)
    matrix = np.stack([np.zeros(3), steps[0] - start, steps[1] - start], axis=1)
    last = np.array(shape_px) - 1
    corners = np.array([[0, row, column] for row in (0, last[0]) for column in (0, last[1])])
    corners_kji = corners @ matrix.T + start
    found = _block_around(volume, corners_kji, order)
    if found is None:
        return np.full(shape_px, PADDING_HU, dtype=np.float32)
    block, low = found
    sample = _cubic if order == 3 else _linear
    values = sample(block, matrix, start - low, shape_px)
    if _is_outside(corners_kji, volume).any():  # the grid is convex: with its corners inside, all of it is
        row, column = np.ogrid[: shape_px[0], : shape_px[1]]
        kji = start + row[..., None] * matrix[:, 1] + column[..., None] * matrix[:, 2]
        values[_is_outside(kji, volume)] = PADDING_HU
    return np.asarray(values)


def _linear(
    block: NDArray[np.float32], matrix: NDArray[np.float64], start: NDArray[np.float64], shape_px: tuple[int, int]
) -> NDArray[np.float32]:
    """Values at matrix @ (0, row, column) + start, in indices of the block."""
    values = np.empty((1, *shape_px), dtype=np.float32)
    # The outermost voxels reach half a voxel beyond their centres.
    sample_grid(np.pad(block, 1, mode="edge"), matrix, start + 1, (1, *shape_px), PADDING_HU, out=values)
    return np.asarray(values[0])


def _cubic(
    block: NDArray[np.float32], matrix: NDArray[np.float64], start: NDArray[np.float64], shape_px: tuple[int, int]
) -> NDArray[np.float32]:
    """As `_linear`, by cubic splines.

    Hundreds of findings have their pictures taken: an affine grid needs no position of each point, and where its plane
    lies along two axes of the volume, the third is interpolated once for all points, which gives the same values.
    """
    steps, shape = matrix[:, 1:], (1, *shape_px)
    flat = np.flatnonzero((np.abs(steps) < 1e-9).all(axis=1))
    if len(flat) == 1:
        axis = int(flat[0])
        n = block.shape[axis]
        each = np.stack([np.arange(n), np.full(n, start[axis])])
        weights = ndimage.map_coordinates(np.eye(n, dtype=np.float32), each, order=3, mode="nearest")
        block = np.tensordot(block, weights, axes=(axis, 0))
        steps, start = np.delete(steps, axis, axis=0), np.delete(start, axis)
        if (np.abs(np.diag(steps)) < 1e-9).all():
            block, steps, start = block.T, steps[::-1], start[::-1]
        is_diagonal = abs(steps[0, 1]) < 1e-9 and abs(steps[1, 0]) < 1e-9
        matrix, shape = np.diag(steps) if is_diagonal else steps, shape_px  # type: ignore[assignment]
    values = ndimage.affine_transform(block, matrix, start, shape, output=np.float32, order=3, mode="nearest")
    return np.asarray(values.reshape(shape_px))


def _block_around(
    volume: CTVolume, kji: NDArray[np.float64], order: Literal[1, 3]
) -> tuple[NDArray[np.float32], NDArray[np.int_]] | None:
    """Voxels that index points (n, 3) lie among, with room for the interpolation, and the first one's index."""
    margin = _SPLINE_MARGIN if order > 1 else 1
    low = np.maximum(np.floor(kji.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(kji.max(axis=0)).astype(int) + margin + 1, volume.shape_kji)
    if (high <= low).any():
        return None
    return volume.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.float32), low


def _is_outside(kji: NDArray[np.float64], volume: CTVolume) -> NDArray[np.bool_]:
    """Whether index points (..., 3) lie beyond the outer faces of the outermost voxels."""
    return np.asarray((kji < -0.5).any(axis=-1) | (kji > np.array(volume.shape_kji) - 0.5).any(axis=-1))
