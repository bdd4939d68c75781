"""Augmentation while a network learns: one affine warp, one change of intensity and noise an image or volume.

The random numbers of a variant are drawn for all patches at once from a generator seeded by
(seed, variant), so an augmented patch never depends on the batch it travels in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from models.augmentation.batch import warp_batch

MAX_ROTATION_RAD = 0.26
MAX_LOG_SCALE = 0.1
MAX_SHIFT = 0.08
MAX_LOG_CONTRAST = 0.15
MAX_BRIGHTNESS = 0.15


@dataclass(frozen=True)
class Draws:
    """Random numbers of one variant.

    warp: (N, P, d, d + 1) for d axes, in the normalised coordinates of torch's affine_grid without aligned corners.
    contrast, brightness: (N, P).
    noise_keys: (N, P, 2), what the noise of an image is drawn from.
    """

    warp: Tensor
    contrast: Tensor
    brightness: Tensor
    noise_keys: Tensor

    def rows(self, index: Tensor) -> Draws:
        """The draws of some patches."""
        return Draws(self.warp[index], self.contrast[index], self.brightness[index], self.noise_keys[index])


def draw_variant(n_patches: int, n_planes: int, *, seed: int, variant: int, axes: int = 2) -> Draws:
    """Draws for every plane of every patch: flips, quarter turns, small rotation, scale, shift and intensity.

    axes: 2 for planes, 3 for volumes, which turn about any of their axes.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + variant * 7919 + 17) % (2**63))
    shape = (n_patches, n_planes)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * limit

    warp = _turned_planes(shape, generator) if axes == 2 else _turned_volumes(shape, generator)
    contrast, brightness = torch.exp(uniform(MAX_LOG_CONTRAST)), uniform(MAX_BRIGHTNESS)
    noise_keys = torch.randint(0, 2**32, (*shape, 2), generator=generator)
    return Draws(warp, contrast, brightness, noise_keys)


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit


def _turned_planes(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    turns = torch.randint(0, 4, shape, generator=generator) * (torch.pi / 2)
    angle = turns + _uniform(shape, MAX_ROTATION_RAD, generator)
    scale = torch.exp(_uniform(shape, MAX_LOG_SCALE, generator))
    flip = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cosine * flip, -sine, _uniform(shape, MAX_SHIFT, generator)], dim=-1),
        torch.stack([sine * flip, cosine, _uniform(shape, MAX_SHIFT, generator)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def _turned_volumes(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """One of the 48 ways a cube fits into itself, then a small rotation about each axis, one scale, a shift."""
    orders = torch.eye(3)[torch.tensor(list(permutations(range(3))))]
    matrix = orders[torch.randint(0, len(orders), shape, generator=generator)]
    matrix = matrix * (torch.randint(0, 2, (*shape, 1, 3), generator=generator) * 2.0 - 1.0)
    angles = _uniform((*shape, 3), MAX_ROTATION_RAD, generator)
    for axis, (one, other) in enumerate([(0, 1), (0, 2), (1, 2)]):
        turn = torch.eye(3).expand(*shape, 3, 3).clone()
        cosine, sine = torch.cos(angles[..., axis]), torch.sin(angles[..., axis])
        turn[..., one, one], turn[..., one, other] = cosine, -sine
        turn[..., other, one], turn[..., other, other] = sine, cosine
        matrix = turn @ matrix
    scale = torch.exp(_uniform(shape, MAX_LOG_SCALE, generator))
    shift = _uniform((*shape, 3, 1), MAX_SHIFT, generator)
    return torch.cat([matrix * scale[..., None, None], shift], dim=-1)


def augment(images: Tensor, draws: Draws, noise_std: float = 0.0) -> Tensor:
    """Augmented images, same shape (N, P, C, [D,] H, W); the border repeats where a warp looks outside."""
    channels, *size = images.shape[2:]
    axes = len(size)
    warped = warp_batch(
        images.flatten(0, 1).numpy(),
        index_matrices(draws.warp.reshape(-1, axes, axes + 1), *size).numpy(),
        draws.contrast.reshape(-1, 1).expand(-1, channels).numpy(),
        draws.brightness.reshape(-1, 1).expand(-1, channels).numpy(),
        noise_std,
        draws.noise_keys.reshape(-1, 2).numpy().astype(np.uint32),
    )
    return torch.from_numpy(warped).reshape(images.shape)


def warp(images: Tensor, draws: Draws) -> Tensor:
    """Images (N, P, C, [D,] H, W) moved as `augment` moves them, their values left alone."""
    return augment(images, replace(draws, contrast=torch.ones_like(draws.contrast), brightness=0 * draws.brightness))


def index_matrices(warp: Tensor, *size: int) -> Tensor:
    """Warps (N, d, d + 1) of normalised (x, y[, z]) as float64 matrices of the same shape of ([slice,] row, column).

    size: ([D,] H, W). Without aligned corners index i of n lies at (2 i + 1) / n - 1.
    """
    axes = len(size)
    to_index = torch.zeros(axes, axes + 1, dtype=torch.float64)
    to_normalised = torch.zeros(axes + 1, axes + 1, dtype=torch.float64)
    to_normalised[axes, axes] = 1
    for index, n in enumerate(size):
        coordinate = axes - 1 - index  # x is the last index
        to_index[index, coordinate], to_index[index, axes] = n / 2, (n - 1) / 2
        to_normalised[coordinate, index], to_normalised[coordinate, axes] = 2 / n, 1 / n - 1
    homogeneous = torch.zeros(len(warp), axes + 1, axes + 1, dtype=torch.float64)
    homogeneous[:, :axes] = warp
    homogeneous[:, axes, axes] = 1
    return to_index @ homogeneous @ to_normalised
