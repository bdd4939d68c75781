"""Nodules moved off the centre of their patches: a map that always shows the middle is then found out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: a nodule of a larger radius, as a share of the way it is moved, would still cover the middle
LARGEST_RADIUS = 0.75


def movable(radius_px: NDArray[np.float64], side_px: int, shift: float) -> NDArray[np.bool_]:
    """(n,) whether nodules of these radii, moved by `shift` of the side, leave the middle and stay in the patch."""
    distance = shift * side_px
    return (radius_px <= LARGEST_RADIUS * distance) & (radius_px <= side_px / 2 - distance)


def displacements(n: int, dims: int, side_px: int, shift: float, *, seed: int) -> NDArray[np.int64]:
    """(n, dims) pixels along the last `dims` axes: `shift` of the side, each in a direction of its own."""
    directions = np.random.default_rng(seed).normal(size=(n, dims))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(np.rint(directions * shift * side_px), dtype=np.int64)


def displaced(patches: NDArray[np.generic], moves_px: NDArray[np.int64]) -> NDArray[np.generic]:
    """Patches (n, ...) whose content went by moves_px (n, dims) along the last dims axes, same shape and dtype.

    What comes in over the edge is the mirror image of what stands there; planes of one patch go the same way.
    """
    dims = moves_px.shape[1]
    out = np.empty_like(patches)
    for number, (patch, move) in enumerate(zip(patches, moves_px, strict=True)):
        before = [(0, 0)] * (patch.ndim - dims) + [(max(int(step), 0), max(-int(step), 0)) for step in move]
        padded = np.pad(patch, before, mode="reflect")
        window = [slice(None)] * (patch.ndim - dims)
        for axis, step in enumerate(move, start=patch.ndim - dims):
            start = max(-int(step), 0)
            window.append(slice(start, start + patch.shape[axis]))
        out[number] = padded[tuple(window)]
    return out


def nodule_masks(
    shape: tuple[int, ...], radius_px: NDArray[np.float64], moves_px: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(n, *shape): a disc in every plane, or a ball, of the nodule's radius, where the displacement has put it."""
    dims = moves_px.shape[1]
    sides = shape[len(shape) - dims :]
    axes = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in sides), indexing="ij", sparse=True)
    masks = np.empty((len(radius_px), *shape), dtype=np.bool_)
    for number, (radius, move) in enumerate(zip(radius_px, moves_px, strict=True)):
        squared = sum((axis - step) ** 2 for axis, step in zip(axes, move, strict=True))
        masks[number] = squared <= max(radius, 1.0) ** 2
    return masks


def centred_maps(shape: tuple[int, ...], n: int, dims: int) -> NDArray[np.float32]:
    """(n, *shape): a Gaussian in the middle of each plane or volume, sigma a sixth of its side."""
    sides = shape[len(shape) - dims :]
    axes = np.meshgrid(*((np.arange(side) - (side - 1) / 2) / side for side in sides), indexing="ij", sparse=True)
    bump = np.exp(-0.5 * sum(axis**2 for axis in axes) / (1 / 6) ** 2)
    return np.asarray(np.broadcast_to(bump, (n, *shape)), dtype=np.float32)
