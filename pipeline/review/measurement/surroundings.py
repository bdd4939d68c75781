"""What lies around a mark: the voxels of the scan, the density of the lung, and the wall where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import CTVolume
from pipeline.imaging.resample import index_map, sample_grid
from pipeline.review.measurement.star import Floats, Voxels

#: Brightest "lung" that is believed; above, the shell around the mark holds no lung.
MAX_LUNG_HU = -500.0
#: Density of chest wall, heart and diaphragm, at least.
_TISSUE_HU = -50.0
#: A ball of this many radii of the mark fits into the wall, but into no nodule that was marked.
_WALL_BALL = 1.6
#: Marks what lies beyond the volume; no scanner writes it.
OUTSIDE_HU = -32768


class OutlineError(Exception):
    """No outline that can be trusted; the message says why, in words for the report."""


def voxels_around(volume: CTVolume, center_mm: Floats, reach_mm: float) -> Voxels:
    """The voxels within `reach_mm` of a point; their slices' thickness is taken to be the distance of the slices."""
    corner = np.abs(np.linalg.inv(volume.affine[:3, :3])) @ np.full(3, reach_mm)
    middle = volume.to_kji(center_mm)
    low = np.clip(np.ceil(middle - corner), 0, np.array(volume.shape_kji)).astype(int)
    high = np.clip(np.floor(middle + corner) + 1, 0, np.array(volume.shape_kji)).astype(int)
    if (high <= low).any():
        raise OutlineError("the mark lies outside the scan")
    block = volume.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    offset = volume.affine[:3, :3] @ low + volume.affine[:3, 3] - center_mm
    axes = [np.arange(n)[:, None] * volume.affine[:3, axis] for axis, n in enumerate(block.shape)]
    places = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] + offset
    inside = (places**2).sum(axis=-1) <= reach_mm**2
    normal = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    normal /= np.linalg.norm(normal)
    return Voxels(places[inside], block[inside].astype(np.float64), normal, float(abs(volume.affine[:3, 0] @ normal)))


def lung_hu(voxels: Voxels, radius_mm: float) -> tuple[float, float]:
    """Typical HU of the lung beside a mark (one on the pleura sees mostly wall), and how it scatters."""
    away = np.linalg.norm(voxels.offsets_mm, axis=1)
    shell = voxels.hu[(away > 1.1 * radius_mm + 1) & (away < 2 * radius_mm + 5)]
    lung = shell[shell < MAX_LUNG_HU]
    if len(lung) < max(0.03 * len(shell), 8):
        raise OutlineError("no lung around the mark")
    low, level = np.percentile(lung, [15, 42])
    return float(level), float(max((level - low) / 0.83, 5.0))


@dataclass(frozen=True, eq=False)
class Cube:
    """HU (k, j, i) around a point along the patient's axes: to superior, posterior, left; NaN beyond the volume.

    half: voxels from the middle to either side.
    """

    hu: NDArray[np.float32]
    half: int
    spacing_mm: float

    @property
    def axis_mm(self) -> Floats:
        """Offsets of the voxel centres from the middle along each axis."""
        return np.asarray((np.arange(2 * self.half + 1) - self.half) * self.spacing_mm, dtype=np.float64)

    def index_of(self, offsets_mm: Floats) -> Floats:
        """Index (n, 3) = (k, j, i) of offsets (n, 3) = (x, y, z)."""
        return np.asarray(offsets_mm[:, ::-1] / self.spacing_mm + self.half)


def cube_affine(center_mm: Floats, half: int, spacing_mm: float) -> Floats:
    """(4, 4): (k, j, i, 1) to LPS mm of a cube along the patient's axes around a point."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * spacing_mm
    affine[:3, 3] = np.asarray(center_mm, dtype=np.float64) - half * spacing_mm
    return affine


def cube_around(volume: CTVolume, center_mm: Floats, *, half: int, spacing_mm: float) -> Cube:
    """HU in a cube of 2 half + 1 voxels to a side around a point, trilinear."""
    matrix, offset = index_map(volume, cube_affine(center_mm, half, spacing_mm))
    hu = np.empty((2 * half + 1,) * 3, dtype=np.float32)
    sample_grid(volume.hu, matrix, offset, hu.shape, OUTSIDE_HU, out=hu)
    hu[hu < OUTSIDE_HU / 2] = np.nan
    return Cube(hu, half, spacing_mm)


@dataclass(frozen=True, eq=False)
class Wall:
    """The pleura beside a nodule as a bowl: height over a plane, a quadric of the two coordinates in it.

    axes: (3, 3), rows: into the lung, and two across. coefficients: (6,) of 1, u, v, uu, uv, vv. inside: voxels of the
    cube around the mark that are wall.
    """

    axes: Floats
    coefficients: Floats
    cube: Cube
    inside: NDArray[np.bool_]

    def holds(self, offsets_mm: Floats) -> NDArray[np.bool_]:
        """Whether offsets (n, 3) from the mark lie in what a large ball fills, whatever the bowl says."""
        index = np.rint(self.cube.index_of(offsets_mm)).astype(int)
        seen = ((index >= 0) & (index < len(self.inside))).all(axis=1)
        held = np.zeros(len(index), dtype=np.bool_)
        held[seen] = self.inside[tuple(index[seen].T)]
        return held

    def depth_mm(self, offsets_mm: Floats) -> Floats:
        """How far in front of the wall offsets (n, 3) lie; negative within it."""
        height, u, v = self.axes @ offsets_mm.T
        return np.asarray(height - _quadric(u, v) @ self.coefficients)


def _quadric(u: Floats, v: Floats) -> Floats:
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


def wall_near(cube: Cube, radius_mm: float, lung: float) -> Wall | None:
    """The wall that a mark of this radius in the middle of a cube reaches, or nearly; None where there is none."""
    threshold = (lung + _TISSUE_HU) / 2
    known = ~np.isnan(cube.hu)
    tissue = ~known | (cube.hu > threshold)
    spacing = cube.spacing_mm
    ball = max(_WALL_BALL * radius_mm, 6.0)
    inner = ndimage.distance_transform_edt(tissue, sampling=spacing) > ball
    if not inner.any():
        return None
    wall = tissue & (ndimage.distance_transform_edt(~inner, sampling=spacing) <= ball + 0.5 * spacing)
    points = _crossings(cube, wall, tissue, known, threshold)
    away = np.linalg.norm(points, axis=1)
    points = points[away < 2.4 * radius_mm + 8]
    if len(points) < 25 or np.linalg.norm(points, axis=1).min() > 1.6 * radius_mm + 2:
        return None
    return _fitted_wall(points, cube, wall, radius_mm)


def _crossings(
    cube: Cube, wall: NDArray[np.bool_], tissue: NDArray[np.bool_], known: NDArray[np.bool_], threshold: float
) -> Floats:
    """Points (n, 3) = offsets (x, y, z) where the density falls through the threshold between wall and lung."""
    found = []
    for axis in range(3):
        for way in (1, -1):
            here = [slice(None)] * 3
            there = [slice(None)] * 3
            here[axis], there[axis] = (slice(0, -1), slice(1, None)) if way > 0 else (slice(1, None), slice(0, -1))
            a, b = tuple(here), tuple(there)
            edge = wall[a] & known[a] & ~tissue[b]
            places = np.argwhere(edge).astype(np.float64)
            if way < 0:
                places[:, axis] += 1
            inside, outside = cube.hu[a][edge], cube.hu[b][edge]
            places[:, axis] += way * (inside - threshold) / np.maximum(inside - outside, 1.0)
            found.append(places)
    return np.asarray((np.concatenate(found) - cube.half)[:, ::-1] * cube.spacing_mm)


def _fitted_wall(points: Floats, cube: Cube, wall: NDArray[np.bool_], radius_mm: float) -> Wall | None:
    """A quadric through the lung-facing surface, but not through the nodule on it."""
    center = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - center, full_matrices=False)
    # the direction across the sheet, towards the lung: away from the wall's own voxels
    wall_mm = (np.argwhere(wall)[:, ::-1] - cube.half) * cube.spacing_mm
    into = axes[2] if (wall_mm.mean(axis=0) - center) @ axes[2] < 0 else -axes[2]
    frame = np.stack([into, axes[0], axes[1]])
    height, u, v = frame @ points.T
    # the wall bends: what is near the nodule counts most
    near = np.exp(-((np.linalg.norm(points, axis=1) / (1.3 * radius_mm + 5)) ** 2))[:, None]
    lateral = np.linalg.norm(points - (points @ into)[:, None] * into, axis=1)
    kept = lateral > 0.6 * radius_mm
    scale = max(radius_mm, 4.0)
    terms = _quadric(u, v)
    hold = np.diag([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) * (0.1 * scale**4)
    solution = np.zeros(6)
    for _ in range(6):
        if kept.sum() < 15:
            return None
        weighted = terms[kept] * near[kept]
        solution = np.linalg.solve(weighted.T @ terms[kept] + hold, weighted.T @ height[kept])
        rest = height - terms @ solution
        limit = max(2.5 * float(np.median(np.abs(rest[kept]))), 0.6)
        kept = (np.abs(rest) < limit) & (lateral > 0.6 * radius_mm)
    return Wall(frame, solution, cube, ndimage.binary_erosion(wall))
