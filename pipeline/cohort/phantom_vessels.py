"""Branching vessels of the lungs, thinner with every fork, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cohort.phantom_anatomy import AxialGrid, Thorax

_TRUNKS, _TRUNK_RADIUS_MM, _LEAST_RADIUS_MM, _MOST_SEGMENTS = 12, 4.2, 0.5, 900


@dataclass(frozen=True, eq=False)
class VesselTree:
    """Straight pieces: starts and ends (n, 3) = (x, y, z) in the body frame, radii (n,), all in mm."""

    start_mm: NDArray[np.float64]
    end_mm: NDArray[np.float64]
    radius_mm: NDArray[np.float64]


def grow_vessels(thorax: Thorax, rng: np.random.Generator) -> VesselTree:
    """Trees from the root of each lung until they are thinner than 0.5 mm or reach the pleura."""
    starts, ends, radii = [], [], []
    for side in (-1, 1):
        root = np.array([side * 36 * thorax.scale, 6 * thorax.scale, 0.5 * thorax.length_mm])
        way = _fan(side) + rng.normal(0, 0.15, (_TRUNKS, 3))
        way = _unit(way)
        place = np.repeat(root[None], _TRUNKS, axis=0) + way * 4 * thorax.scale
        radius = rng.uniform(0.6, 1.0, _TRUNKS) * _TRUNK_RADIUS_MM * thorax.scale
        made = 0
        while len(radius) and made < _MOST_SEGMENTS:
            length = (6 + 3.0 * radius) * rng.uniform(0.7, 1.3, len(radius))
            tip = place + way * length[:, None]
            # the roots lie in the mediastinum: thick vessels may start there
            inside = (thorax.lung_depth_mm(tip[:, 0], tip[:, 1], tip[:, 2]) > 1.5) | (radius > 0.75 * _TRUNK_RADIUS_MM)
            place, tip, way, radius = place[inside], tip[inside], way[inside], radius[inside]
            starts.append(place)
            ends.append(tip)
            radii.append(radius)
            made += len(radius)
            turn = _unit(rng.standard_normal((len(radius), 3)))
            turn = _unit(turn - (turn * way).sum(axis=1, keepdims=True) * way)
            wide, narrow = rng.uniform(0.82, 0.92, len(radius)), rng.uniform(0.5, 0.75, len(radius))
            way = np.concatenate([_unit(way + 0.30 * turn), _unit(way - 0.85 * turn)])
            place = np.concatenate([tip, tip])
            radius = np.concatenate([radius * wide, radius * narrow])
            keep = radius > _LEAST_RADIUS_MM
            place, way, radius = place[keep], way[keep], radius[keep]
    return VesselTree(np.concatenate(starts), np.concatenate(ends), np.concatenate(radii))


def draw_vessels(tree: VesselTree, grid: AxialGrid, z_mm: NDArray[np.floating]) -> NDArray[np.float32]:
    """Share of vessel in each voxel, float32 (plane, row, column), for planes at the heights `z_mm` (ascending)."""
    share = np.zeros((len(z_mm), grid.matrix, grid.matrix), dtype=np.float32)
    axis, pixel = grid.axis_mm, grid.pixel_mm
    heights = np.asarray(z_mm, dtype=np.float32)
    edge = max(pixel, 0.8)
    reach = tree.radius_mm[:, None] + edge
    low, high = np.minimum(tree.start_mm, tree.end_mm) - reach, np.maximum(tree.start_mm, tree.end_mm) + reach
    boxes = [
        np.stack([np.searchsorted(places, low[:, of]), np.searchsorted(places, high[:, of])], axis=1).tolist()
        for of, places in enumerate((axis, axis, heights))
    ]
    for start, end, radius, *box in zip(tree.start_mm, tree.end_mm, tree.radius_mm, *boxes, strict=True):
        columns, rows, planes = (slice(*bounds) for bounds in box)
        x = axis[columns][None, None, :] - np.float32(start[0])
        y = axis[rows][None, :, None] - np.float32(start[1])
        z = heights[planes][:, None, None] - np.float32(start[2])
        along = (end - start).astype(np.float32)
        part = np.clip((x * along[0] + y * along[1] + z * along[2]) / np.float32(along @ along), 0, 1)
        away = np.sqrt((x - part * along[0]) ** 2 + (y - part * along[1]) ** 2 + (z - part * along[2]) ** 2)
        # a thin vessel fills no voxel: its share falls with its cross-section
        full = min(1.0, (2 * float(radius) / edge) ** 2 / 1.2)
        drawn = share[planes, rows, columns]
        np.maximum(drawn, full * np.clip((np.float32(radius) - away) / edge + 0.5, 0, 1), out=drawn)
    return share


def _fan(side: int) -> NDArray[np.float64]:
    """Directions (n, 3) that cover the half sphere of one side evenly: a golden spiral."""
    number = np.arange(_TRUNKS)
    lateral = (number + 0.5) / _TRUNKS * 0.95
    turn = number * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - lateral**2)
    return np.stack([side * lateral, ring * np.cos(turn), ring * np.sin(turn)], axis=1)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9))
