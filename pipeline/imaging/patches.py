"""Patches around a point of a patient, cut out of a volume on any grid, sheared ones included.

A patch is sampled every `spacing_mm` along the patient's axes and n = round(size_mm / spacing_mm) samples wide. The
point lies at its centre, index (n - 1) / 2: between two samples where n is even.

    kind   shape      axis order; what grows along rows, columns
    2d     (3, H, W)  axial slices one spacing below, at and above the point; posterior, left
    2.5d   (3, H, W)  axial: posterior, left; coronal: inferior, left; sagittal: inferior, posterior
           (9, H, W)  and the six planes through two opposite edges of the cube (Setio et al. 2016, IEEE TMI 35(5))
    3d     (D, H, W)  superior, posterior, left

Planes are so seen as a radiologist sees them: the patient's left on the right of the picture, the head at the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import GeometryError, UsageError
from data_contracts.params import PatchParams
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.resample import (
    antialias_sigma_voxels,
    index_map,
    is_inside,
    sample_grid,
    smooth,
    smoothing_reach_voxels,
)

_LEFT = np.array((1.0, 0.0, 0.0))
_POSTERIOR = np.array((0.0, 1.0, 0.0))
_SUPERIOR = np.array((0.0, 0.0, 1.0))
_INFERIOR = -_SUPERIOR
_Axes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _diagonal(one: NDArray[np.float64], other: NDArray[np.float64], sign: float, kept: NDArray[np.float64]) -> _Axes:
    """The plane of normal one + sign * other: rows go along `kept`, or down it where it is the body's axis."""
    normal, across = (one + sign * other) / np.sqrt(2.0), (other - sign * one) / np.sqrt(2.0)
    return (normal, kept, across) if kept is _INFERIOR else (normal, across, kept)


#: Directions of (k, j, i) in LPS: the normal, down the rows, along the columns.
_AXIAL: _Axes = (_SUPERIOR, _POSTERIOR, _LEFT)
_CORONAL: _Axes = (_POSTERIOR, _INFERIOR, _LEFT)
_SAGITTAL: _Axes = (_LEFT, _INFERIOR, _POSTERIOR)
_DIAGONALS = tuple(
    _diagonal(one, other, sign, kept)
    for one, other, kept in (
        (_POSTERIOR, _LEFT, _INFERIOR),
        (_INFERIOR, _POSTERIOR, _LEFT),
        (_LEFT, _INFERIOR, _POSTERIOR),
    )
    for sign in (1.0, -1.0)
)
#: A patch of more samples is a mistyped size or spacing.
_MAX_SAMPLES = 512**3


@dataclass(frozen=True)
class PatchGrid:
    """Where a patch, or one plane of it (a single k), is sampled: (k, j, i, 1) to LPS mm, and shape (k, j, i)."""

    affine: NDArray[np.float64]
    shape_kji: tuple[int, int, int]


def patch_shape(params: PatchParams) -> tuple[int, int, int]:
    """Shape of every patch these parameters give.

    Raises
    ------
    UsageError: less than 2 samples a side, or absurdly many.
    """
    n = round(params.size_mm / params.spacing_mm)
    if n < 2 or n**3 > _MAX_SAMPLES:
        raise UsageError(
            f"a patch of {params.size_mm:g} mm with a sample every {params.spacing_mm:g} mm has {n} samples a side",
            todo="Choose size_mm and spacing_mm so that a side has 2 to 512 samples.",
        )
    if params.kind == "3d":
        return n, n, n
    return (params.planes if params.kind == "2.5d" else 3), n, n


def patch_grids(center_lps_mm: NDArray[np.floating], params: PatchParams) -> tuple[PatchGrid, ...]:
    """The grids of a patch: one a plane for 2.5d (axial, coronal, sagittal, diagonals), else a single one."""
    center = np.asarray(center_lps_mm, dtype=np.float64)
    shape = patch_shape(params)
    if params.kind == "2.5d":
        plane = (1, shape[1], shape[2])
        planes = (_AXIAL, _CORONAL, _SAGITTAL, *_DIAGONALS)[: params.planes]
        return tuple(_centred(center, axes, plane, params.spacing_mm) for axes in planes)
    return (_centred(center, _AXIAL, shape, params.spacing_mm),)


def extract_patch(
    volume: CTVolume, center_lps_mm: NDArray[np.floating], params: PatchParams
) -> tuple[NDArray[np.int16], bool]:
    """The patch around a point, trilinear, and whether any of it lies outside the volume.

    Where the volume is finer than the patch it is smoothed first (`antialias_sigma_voxels`, as if the whole volume
    were resampled to spacing_mm), so that sites with thin and thick slices look alike. Only the voxels needed are
    read, so `volume.hu` may be memory-mapped.

    Returns
    -------
    patch: int16 HU of `patch_shape(params)`; samples outside the volume are PADDING_HU.
    padded: whether there is such a sample.

    Raises
    ------
    GeometryError: the point is not finite or lies outside the volume.
    """
    center = np.asarray(center_lps_mm, dtype=np.float64)
    if center.shape != (3,) or not np.isfinite(center).all():
        raise GeometryError("the centre of a patch is three finite numbers in mm")
    if not volume.contains(center):
        raise GeometryError("the centre of the patch lies outside the volume", todo="Check units (mm) and axes (LPS).")
    sigma = antialias_sigma_voxels(volume.affine, params.spacing_mm * np.eye(3))
    parts, insides = zip(*(_sample(volume, grid, sigma) for grid in patch_grids(center, params)), strict=True)
    return np.concatenate(parts), not all(insides)


def _centred(center_mm: NDArray[np.float64], axes: _Axes, shape: tuple[int, int, int], spacing_mm: float) -> PatchGrid:
    affine = np.eye(4)
    affine[:3, :3] = spacing_mm * np.array(axes).T
    affine[:3, 3] = center_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    return PatchGrid(affine, shape)


def _sample(
    volume: CTVolume, grid: PatchGrid, sigma_voxels: tuple[float, float, float]
) -> tuple[NDArray[np.int16], bool]:
    """HU on a grid, int16 of its shape, and whether all of it lies inside the volume."""
    matrix, offset = index_map(volume, grid.affine)
    ends = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(grid.shape_kji)[:, None] - 1)
    corners = matrix @ ends + offset[:, None]
    reach = smoothing_reach_voxels(sigma_voxels)
    size = np.array(volume.shape_kji)
    start = np.clip(np.floor(corners.min(axis=1)).astype(np.int64) - reach, 0, size - 1)
    stop = np.clip(np.ceil(corners.max(axis=1)).astype(np.int64) + reach, 0, size - 1) + 1
    inside = all(bool(is_inside(corners[axis], volume.shape_kji[axis]).all()) for axis in range(3))
    crop = smooth(volume.hu[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]], sigma_voxels)
    return sample_grid(crop, matrix, offset - start, grid.shape_kji, PADDING_HU), inside
