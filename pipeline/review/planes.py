"""Planes of a volume for pictures: along the patient's axes for any affine, in radiological convention."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import PADDING_HU, CTVolume

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


def sample_hu(volume: CTVolume, lps_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """HU at patient positions by cubic splines, which show a magnified nodule without the steps of linear ones.

    Parameters
    ----------
    lps_mm: (..., 3) = (x, y, z) in LPS mm.

    Returns
    -------
    float32 of the leading shape; PADDING_HU outside the volume.
    """
    kji = volume.to_kji(lps_mm)
    flat = kji.reshape(-1, 3)
    low = np.maximum(np.floor(flat.min(axis=0)).astype(int) - _SPLINE_MARGIN, 0)
    high = np.minimum(np.ceil(flat.max(axis=0)).astype(int) + _SPLINE_MARGIN + 1, volume.shape_kji)
    if (high <= low).any():
        return np.full(kji.shape[:-1], PADDING_HU, dtype=np.float32)
    block = volume.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.float32)
    points = np.moveaxis(kji - low, -1, 0)
    # "nearest" carries the last slice on by half a voxel, which belongs to it; farther out there is nothing.
    values = ndimage.map_coordinates(block, points, order=3, mode="nearest", output=np.float32)
    shape = np.array(volume.shape_kji)
    outside = (kji < -0.5).any(axis=-1) | (kji > shape - 0.5).any(axis=-1)
    values[outside] = PADDING_HU
    return np.asarray(values, dtype=np.float32)


def sample_plane(
    volume: CTVolume,
    center_lps_mm: LpsPoint,
    plane: str,
    *,
    size_mm: tuple[float, float],
    shape_px: tuple[int, int],
) -> NDArray[np.float32]:
    """A plane of PLANE_AXES through a point.

    Parameters
    ----------
    size_mm: (height, width) of the field, centred on the point.
    shape_px: (rows, columns).

    Returns
    -------
    float32 (rows, columns) in HU.
    """
    across, down = (np.array(axis, dtype=np.float64) for axis in PLANE_AXES[plane])
    rows = _pixel_centres_mm(size_mm[0], shape_px[0])
    columns = _pixel_centres_mm(size_mm[1], shape_px[1])
    points = np.array(center_lps_mm) + rows[:, None, None] * down + columns[None, :, None] * across
    return sample_hu(volume, points)


def _pixel_centres_mm(size_mm: float, n_px: int) -> NDArray[np.float64]:
    """Positions of pixel centres in mm from the middle of the field."""
    return (np.arange(n_px) + 0.5) * size_mm / n_px - size_mm / 2
