"""What a place looks like, as numbers that neither its size nor a turn of the patient changes much.

A cube of 21 samples a side, three radii to each face, is cut around every blob from the level of the pyramid on which
it was found. From it come the HU of shells around the middle, what lies on two spheres outside the blob (nothing: it
stands free; one bright spot: it hangs on something; two opposite ones: a vessel runs through; a bright half: a wall)
and the part above half its contrast that hangs together with the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.detection.blobs import Blobs
from pipeline.detection.kernels import grow, sample_patches
from pipeline.detection.levels import Pyramid

_SIDE = 21
_REACH_RADII = 3.0
#: inner and outer bounds of the shells, in radii
_SHELLS = ((0.0, 0.4), (0.4, 0.8), (0.8, 1.2), (1.2, 1.6), (1.6, 2.1), (2.1, 2.9))
_SPHERES = (1.6, 2.3)
_BLOCK = 256

FEATURES: tuple[str, ...] = (
    "log_diameter",
    "response",
    "curvature_first",
    "curvature_second",
    "curvature_third",
    "roundness",
    "ridge",
    *(f"mean_{number}" for number in range(len(_SHELLS))),
    *(f"spread_{number}" for number in range(len(_SHELLS))),
    *(f"lung_{number}" for number in range(len(_SHELLS))),
    *(f"{what}_{number}" for number in range(len(_SPHERES)) for what in ("bright", "lean", "axis", "flat")),
    "core_hu",
    "contrast",
    "region_radius",
    "region_filled",
    "region_outside",
    "region_second",
    "region_third",
    "region_offset",
    "region_hu",
    "region_edge",
)


def describe(pyramid: Pyramid, blobs: Blobs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (n, len(FEATURES)) of every blob, finite, and its diameter by its region in mm (n,).

    HU enter in units of 100 above the median of the lungs; lengths in radii of the blob.
    """
    table = np.zeros((len(blobs), len(FEATURES)))
    diameter_mm = blobs.diameter_mm.copy()
    for number, level in enumerate(pyramid.levels):
        rows = np.flatnonzero(blobs.level == number)
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            radius = blobs.diameter_mm[some] / 2
            steps = _REACH_RADII * radius / (_SIDE // 2) / level.spacing_mm
            centers = level.to_kji(blobs.lps_mm[some])
            cubes = np.empty((len(some), _SIDE, _SIDE, _SIDE), dtype=np.float32)
            lungs = np.empty_like(cubes)
            sample_patches(level.hu, centers, steps, cubes)
            sample_patches(level.inside, centers, steps, lungs)
            cubes = (cubes - np.float32(pyramid.lung_hu)) * np.float32(0.01)
            looks, spans = _looks(cubes, lungs)
            table[some] = np.concatenate([_curves(blobs.take(some)), looks], axis=1)
            diameter_mm[some] = blobs.diameter_mm[some] * spans
    return table, diameter_mm


def _curves(blobs: Blobs) -> NDArray[np.float64]:
    first, second, third = blobs.curvature.T / 100
    largest = np.maximum(first, 1e-3)
    columns = (
        np.log(blobs.diameter_mm),
        blobs.response_hu / 100,
        first,
        second,
        third,
        third / largest,
        second / largest,
    )
    return np.stack(columns, axis=1)


def _looks(cubes: NDArray[np.float32], lungs: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The other features (n, -1), and the diameter of the region as a share of that of the blob (n,)."""
    flat, flat_lungs = cubes.reshape(len(cubes), -1), lungs.reshape(len(cubes), -1)
    means = np.stack([flat[:, shell].mean(axis=1) for shell in _SHELL_VOXELS], axis=1)
    spreads = np.stack([flat[:, shell].std(axis=1) for shell in _SHELL_VOXELS], axis=1)
    inside = np.stack([flat_lungs[:, shell].mean(axis=1) for shell in _SHELL_VOXELS], axis=1)
    core = means[:, 0]
    # the lower quarter of the surroundings is lung, where there is any
    around = np.percentile(flat[:, _SHELL_VOXELS[3]], 25, axis=1)
    contrast = np.maximum(core - around, 0.2)
    cut = (around + contrast / 2).astype(np.float32)
    spheres = np.concatenate([_sphere(flat, voxels, cut) for voxels in _SPHERE_VOXELS], axis=1)
    regions, spans = _regions(cubes, cut)
    columns = [means, spreads, inside, spheres, core[:, None], contrast[:, None], regions]
    return np.concatenate(columns, axis=1).astype(np.float64), spans


def _sphere(flat: NDArray[np.float32], voxels: NDArray[np.int64], cut: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the bright directions on a sphere: share, length of their mean, greatest and least share along an axis."""
    bright = (flat[:, voxels] > cut[:, None]).astype(np.float64)
    total = bright.sum(axis=1)
    ways = _WAYS[voxels]
    lean = bright @ ways / np.maximum(total, 1)[:, None]
    products = (ways[:, :, None] * ways[:, None, :]).reshape(-1, 9)
    spread = (bright @ products / np.maximum(total, 1)[:, None]).reshape(-1, 3, 3)
    axes = np.linalg.eigvalsh(spread)
    return np.stack([total / len(voxels), np.linalg.norm(lean, axis=1), axes[:, 2], axes[:, 0]], axis=1)


def _regions(cubes: NDArray[np.float32], cut: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = np.zeros((len(cubes), 8))
    spans = np.ones(len(cubes))
    region = np.empty((_SIDE,) * 3, dtype=np.bool_)
    edge = _AWAY > _REACH_RADII * 0.95
    for n, cube in enumerate(cubes):
        count = grow(cube > cut[n], region)
        if count == 0:
            continue
        flat = region.reshape(-1)
        near = flat & (_AWAY <= 1.8)
        points = _OFFSETS[near]
        if len(points) < 4:
            continue
        middle = points.mean(axis=0)
        spread = np.linalg.eigvalsh(np.cov((points - middle).T)) + 1e-4
        axes = np.sqrt(spread / spread[2])
        voxel = (_REACH_RADII / (_SIDE // 2)) ** 3
        span = (6 * len(points) * voxel / np.pi) ** (1 / 3) / 2
        inner = flat & (_AWAY <= 1.0)
        found[n] = (
            span,
            inner.sum() / _BALL_VOXELS,
            1 - len(points) / count,
            axes[1],
            axes[0],
            float(np.linalg.norm(middle)),
            float(cube.reshape(-1)[near].mean()),
            float((flat & edge).sum()) / max(float(edge.sum()), 1.0),
        )
        spans[n] = np.clip(span, 0.6, 1.6)
    return found, spans


def _voxels() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Offsets of the cube's samples in radii (n, 3), their lengths (n,) and directions (n, 3)."""
    half = _SIDE // 2
    places = np.indices((_SIDE,) * 3).reshape(3, -1).T - half
    offsets = np.asarray(places * (_REACH_RADII / half), dtype=np.float64)
    away = np.asarray(np.linalg.norm(offsets, axis=1), dtype=np.float64)
    return offsets, away, offsets / np.maximum(away, 1e-9)[:, None]


_OFFSETS, _AWAY, _WAYS = _voxels()
_SHELL_VOXELS = [np.flatnonzero((low <= _AWAY) & (high > _AWAY)) for low, high in _SHELLS]
_SPHERE_VOXELS = [np.flatnonzero(np.abs(_AWAY - radius) < 0.16) for radius in _SPHERES]
_BALL_VOXELS = int((_AWAY <= 1.0).sum())
