"""Trilinear resampling of int16 HU volumes onto another grid, any affine onto any affine.

Positions always mean voxel centres; `pipeline.imaging.grids` says where the new centres lie. A sample up to half a
voxel beyond the outermost centres still lies in the scanned field and takes the value of the edge, as in ITK; a sample
beyond that takes the padding value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.errors import GeometryError
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.grids import EDGE_TOLERANCE_VOXELS, Convention, patient_grid
from pipeline.imaging.kernels import fill_oblique, fill_parallel

#: Axes count as parallel when they drift apart by less than this over the whole grid.
_PARALLEL_VOXELS = 1e-5
#: FWHM of a Gaussian in standard deviations.
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
_TRUNCATE_SIGMAS = 4.0
_MAX_THREADS = 8
_THREAD_FROM_VOXELS = 2**18


def resample(
    volume: CTVolume,
    spacing_mm: float | tuple[float, float, float] = 1.0,
    *,
    orientation: str = "SPL",
    convention: Convention = "voxel-centre",
    antialias: bool = False,
    padding_hu: int = PADDING_HU,
    out: NDArray[np.int16] | None = None,
) -> CTVolume:
    """The volume on an orthogonal grid along the patient's axes: k to superior, j to posterior, i to left.

    Parameters
    ----------
    volume: any grid, also permuted, flipped, oblique or sheared.
    spacing_mm: new distance between voxel centres; one figure, or (k, j, i) = along z, y, x.
    orientation: where k, j and i grow to, a letter each (see `pipeline.imaging.grids.patient_grid`).
    convention: where the first new voxel lies (see there).
    antialias: smooth before sampling along the axes that shrink (see `antialias_sigma_voxels`).
    padding_hu: value outside the source grid.
    out: the new volume's array, where one of that shape is at hand from the volume before.

    Raises
    ------
    GeometryError: the spacing is not positive, the grid would be absurdly large, or there is no such orientation.
    """
    affine, shape_kji = patient_grid(volume, spacing_mm, orientation=orientation, convention=convention)
    return resample_onto(volume, affine, shape_kji, antialias=antialias, padding_hu=padding_hu, out=out)


def resample_onto(
    volume: CTVolume,
    affine: NDArray[np.float64],
    shape_kji: tuple[int, int, int],
    *,
    antialias: bool = False,
    padding_hu: int = PADDING_HU,
    out: NDArray[np.int16] | None = None,
) -> CTVolume:
    """The volume sampled at every voxel centre of the grid (affine, shape_kji), trilinear, rounded to int16.

    Parameters
    ----------
    affine: float64 (4, 4), (k, j, i, 1) of the new grid to LPS mm; any orientation, sheared or not.
    shape_kji: number of voxels along k, j, i of the new grid.
    """
    out = np.empty(shape_kji, dtype=np.int16) if out is None else out
    if out.shape != shape_kji or out.dtype != np.int16:
        raise GeometryError(f"the output is int16 of shape {shape_kji}")
    sample_volume(volume, affine, out, antialias=antialias, padding_hu=padding_hu)
    return CTVolume(hu=out, affine=affine.astype(np.float64), frame_of_reference_key=volume.frame_of_reference_key)


def sample_volume(
    volume: CTVolume,
    affine: NDArray[np.float64],
    out: NDArray[np.int16] | NDArray[np.float32],
    *,
    antialias: bool = False,
    padding_hu: float = PADDING_HU,
) -> None:
    """Fill `out` (k, j, i), int16 or float32, with HU at the voxel centres that `affine` gives it in LPS mm."""
    matrix, offset = index_map(volume, affine)
    hu: NDArray[np.int16] | NDArray[np.float32] = volume.hu
    if antialias:
        hu = smooth(hu, antialias_sigma_voxels(volume.affine, affine[:3, :3]))
    sample_grid(hu, matrix, offset, (out.shape[0], out.shape[1], out.shape[2]), padding_hu, out=out)


def sample_grid(
    hu: NDArray[np.int16] | NDArray[np.float32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape_kji: tuple[int, int, int],
    padding_hu: float,
    *,
    out: NDArray[np.int16] | NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """HU of `shape_kji`, sampled at source indices matrix @ (k, j, i) + offset; outside: padding_hu.

    out: filled and returned where given; int16 is rounded to the nearest integer, float32 is not rounded. Memory that
    was used before is filled several times faster than memory the system has yet to find.
    """
    if out is None:
        out = np.empty(shape_kji, dtype=np.int16)
    elif out.shape != shape_kji or out.dtype not in (np.int16, np.float32):
        raise GeometryError(f"the output is int16 or float32 of shape {shape_kji}")
    rounded = out.dtype == np.int16
    order = _parallel_axes(matrix, shape_kji)
    if order is None:
        _in_slabs(fill_oblique, (hu, matrix, offset, EDGE_TOLERANCE_VOXELS, float(padding_hu), rounded, out), shape_kji)
        return out
    source = hu.transpose(order)
    axes = [
        _weights(*axis)
        for axis in zip(matrix[order, range(3)], offset[list(order)], shape_kji, source.shape, strict=True)
    ]
    (lower_k, weight_k, inside_k), (lower_j, weight_j, inside_j), (lower_i, weight_i, inside_i) = axes
    samples = np.flatnonzero(inside_i)
    first_i, last_i = (int(samples[0]), int(samples[-1]) + 1) if len(samples) else (0, 0)
    tables = (
        lower_k,
        weight_k,
        lower_j,
        weight_j,
        lower_i.astype(np.uint32),
        weight_i,
        inside_k,
        inside_j,
        first_i,
        last_i,
    )
    _in_slabs(fill_parallel, (source, *tables, float(padding_hu), rounded, out), shape_kji)
    return out


def _in_slabs(fill: Callable[..., None], arguments: tuple[Any, ...], shape_kji: tuple[int, int, int]) -> None:
    """Fill slabs of slices side by side; small outputs are not worth a thread."""
    threads = min(os.cpu_count() or 1, _MAX_THREADS, shape_kji[0])
    if threads == 1 or math.prod(shape_kji) < _THREAD_FROM_VOXELS:
        fill(*arguments, 0, shape_kji[0])
        return
    bounds = np.linspace(0, shape_kji[0], threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda slab: fill(*arguments, *slab), pairwise(bounds)))


def index_map(volume: CTVolume, affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix (3, 3) and offset (3,) with source (k, j, i) = matrix @ new (k, j, i) + offset."""
    inverse = np.linalg.inv(volume.affine[:3, :3])
    return inverse @ affine[:3, :3], inverse @ (affine[:3, 3] - volume.affine[:3, 3])


def antialias_sigma_voxels(
    source_affine: NDArray[np.float64], steps_mm: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Standard deviations, in source voxels along (k, j, i), of the Gaussian to apply before sampling.

    Source and new voxels are taken as Gaussian point spreads whose FWHM is their spacing, so that
    sigma = sqrt(new^2 - source^2) / 2.355 mm where the new spacing is larger, else 0 (Cardoso et al. 2015, "Scale
    factor point spread function matching", MICCAI).

    Parameters
    ----------
    source_affine: (4, 4), source (k, j, i, 1) to LPS mm.
    steps_mm: (3, 3), columns = steps of the new grid in LPS mm.
    """
    sigmas = []
    for column in source_affine[:3, :3].T:
        old_mm = float(np.linalg.norm(column))
        new_mm = float(np.linalg.norm(steps_mm.T @ (column / old_mm)))
        sigmas.append(math.sqrt(max(0.0, new_mm**2 - old_mm**2)) / (_FWHM * old_mm))
    return sigmas[0], sigmas[1], sigmas[2]


def smooth(hu: NDArray[np.int16] | NDArray[np.float32], sigma_voxels: tuple[float, ...]) -> NDArray[np.float32]:
    """Separable Gaussian over (k, j, i), edges repeated, float32; axes with sigma 0 are left alone."""
    result = hu.astype(np.float32)
    for axis, sigma in enumerate(sigma_voxels):
        if sigma > 0:
            result = ndimage.gaussian_filter1d(result, sigma, axis=axis, mode="nearest", truncate=_TRUNCATE_SIGMAS)
    return result


def smoothing_reach_voxels(sigma_voxels: tuple[float, ...]) -> NDArray[np.int64]:
    """How many voxels along (k, j, i) around a sample `smooth` and trilinear interpolation read."""
    return np.array([int(_TRUNCATE_SIGMAS * sigma + 0.5) + 1 for sigma in sigma_voxels], dtype=np.int64)


def _parallel_axes(matrix: NDArray[np.float64], shape_kji: tuple[int, int, int]) -> tuple[int, ...] | None:
    """For each new axis the source axis that runs parallel to it, or None where the grids are at an angle."""
    order = tuple(int(row) for row in np.abs(matrix).argmax(axis=0))
    if sorted(order) != [0, 1, 2]:
        return None
    drift = np.abs(matrix) * np.array(shape_kji)
    drift[order, range(3)] = 0.0
    return order if float(drift.max()) < _PARALLEL_VOXELS else None


def _weights(
    scale: float, offset: float, n_new: int, n_source: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Along one axis: lower source index, weight of the next one, and whether the sample is in the source's field."""
    position = scale * np.arange(n_new) + offset
    inside = is_inside(position, n_source)
    position = np.clip(position, 0, n_source - 1)
    lower = np.minimum(position.astype(np.int64), max(n_source - 2, 0))
    return lower, (position - lower).astype(np.float32), inside


def is_inside(position_voxels: NDArray[np.floating], n_source: int) -> NDArray[np.bool_]:
    """Whether index positions along one axis lie in the field of view of `n_source` voxels."""
    low, high = -0.5 - EDGE_TOLERANCE_VOXELS, n_source - 0.5 + EDGE_TOLERANCE_VOXELS
    return np.asarray((position_voxels >= low) & (position_voxels <= high))
