"""What touches a nodule: vessels that leave it, walls that go on, a rim of ground glass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.review.measurement.star import Floats, Star, Voxels, sphere
from pipeline.review.measurement.surroundings import Cube

#: Where on the way from lung to nodule tissue begins to be bright: a ground glass rim counts.
RISE = 0.4
#: Structures thinner than a ball of this share of the radius are vessels where they go on.
_VESSEL_BALL = 0.4


def free_of_neighbours(offsets_mm: Floats, start: Star, edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels that may speak for the surface: not those where a vessel or a wall goes on."""
    r = np.maximum(np.linalg.norm(offsets_mm, axis=1), 1e-6)
    closed = np.ones(len(r), dtype=np.bool_)
    outer = np.flatnonzero(r > 0.6 * start.radius_mm)
    directions = offsets_mm[outer] / r[outer, None]
    nearest = (directions.astype(np.float32) @ sphere(len(edges)).T.astype(np.float32)).argmax(axis=1)
    beyond = r[outer] > start.radii_mm(directions) - 1.0
    closed[outer] = edges[nearest] | ~beyond
    return closed


def on_vessel(
    cube: Cube, middle: Floats, start: Star, core: float, lung: float, offsets_mm: Floats
) -> NDArray[np.bool_]:
    """Voxels on bright structures that are thinner than the nodule and leave it."""
    bright = np.nan_to_num(cube.hu, nan=lung) > lung + RISE * (core - lung)
    ball = _VESSEL_BALL * start.radius_mm
    spacing = cube.spacing_mm
    body = ndimage.distance_transform_edt(bright, sampling=spacing) > ball
    if not body.any():
        return np.zeros(len(offsets_mm), dtype=np.bool_)
    thin = bright & (ndimage.distance_transform_edt(~body, sampling=spacing) > ball + 0.5 * spacing)
    labels, n_parts = ndimage.label(thin)
    places = np.argwhere(thin)
    away = np.linalg.norm((places - cube.half)[:, ::-1] * spacing - middle, axis=1)
    farthest = np.zeros(n_parts + 1)
    np.maximum.at(farthest, labels[thin], away)
    leaving = (farthest > 1.3 * start.radius_mm + 1)[labels]
    leaving = ndimage.binary_dilation(leaving)
    index = np.rint(cube.index_of(offsets_mm + middle)).astype(int)
    inside = ((index >= 0) & (index < leaving.shape[0])).all(axis=1)
    found = np.zeros(len(offsets_mm), dtype=np.bool_)
    found[inside] = leaving[tuple(index[inside].T)]
    return found


def rim_hu(star: Star, around: Voxels, noise: float) -> float | None:
    """Density of a layer around the surface that is neither lung nor its blur; None where there is none."""
    r = np.maximum(np.linalg.norm(around.offsets_mm, axis=1), 1e-6)
    near = np.flatnonzero(r < 1.6 * star.radius_mm + 3)
    directions = around.offsets_mm[near] / r[near, None]
    height = r[near] - star.radii_mm(directions)
    blur = np.hypot(star.blur_mm, around.thickness_mm / 3.46 * np.abs(directions @ around.normal))
    layer = around.hu[near][(height > 0.9 * blur + 0.3) & (height < 0.9 * blur + 1.1)]
    if len(layer) < 30:
        return None
    rim = float(np.percentile(layer, 45))
    least = max(110.0, 0.13 * (float(star.edge_hu[0]) - star.lung_hu), 0.6 * noise)
    return rim if rim - star.lung_hu > least else None
