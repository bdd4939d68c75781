"""Augmentation while a network learns: one affine warp, one change of intensity and noise an image.

The random numbers of a variant are drawn for all patches at once from a generator seeded by
(seed, variant), so an augmented patch never depends on the batch it travels in.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    warp: (N, P, 2, 3), in the normalised coordinates of torch's affine_grid without aligned corners.
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


def draw_variant(n_patches: int, n_planes: int, *, seed: int, variant: int) -> Draws:
    """Draws for every plane of every patch: flips, quarter turns, small rotation, scale, shift and intensity."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + variant * 7919 + 17) % (2**63))
    shape = (n_patches, n_planes)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * limit

    turns = torch.randint(0, 4, shape, generator=generator) * (torch.pi / 2)
    angle = turns + uniform(MAX_ROTATION_RAD)
    scale = torch.exp(uniform(MAX_LOG_SCALE))
    flip = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cosine * flip, -sine, uniform(MAX_SHIFT)], dim=-1),
        torch.stack([sine * flip, cosine, uniform(MAX_SHIFT)], dim=-1),
    ]
    contrast, brightness = torch.exp(uniform(MAX_LOG_CONTRAST)), uniform(MAX_BRIGHTNESS)
    noise_keys = torch.randint(0, 2**32, (*shape, 2), generator=generator)
    return Draws(torch.stack(rows, dim=-2), contrast, brightness, noise_keys)


def augment(images: Tensor, draws: Draws, noise_std: float = 0.0) -> Tensor:
    """Augmented images, same shape (N, P, C, H, W); the border repeats where a warp looks outside."""
    n, planes, channels, height, width = images.shape
    warped = warp_batch(
        images.reshape(n * planes, channels, height, width).numpy(),
        index_matrices(draws.warp.reshape(-1, 2, 3), height, width).numpy(),
        draws.contrast.reshape(-1, 1).expand(-1, channels).numpy(),
        draws.brightness.reshape(-1, 1).expand(-1, channels).numpy(),
        noise_std,
        draws.noise_keys.reshape(-1, 2).numpy().astype(np.uint32),
    )
    return torch.from_numpy(warped).reshape(images.shape)


def index_matrices(warp: Tensor, height: int, width: int) -> Tensor:
    """Warps (N, 2, 3) of normalised (x, y) as float64 matrices (N, 2, 3) of indices (row, column).

    Without aligned corners index i of n lies at (2 i + 1) / n - 1.
    """
    to_index = torch.tensor([[0, height / 2, (height - 1) / 2], [width / 2, 0, (width - 1) / 2]], dtype=torch.float64)
    to_normalised = torch.tensor(
        [[0, 2 / width, 1 / width - 1], [2 / height, 0, 1 / height - 1], [0, 0, 1]], dtype=torch.float64
    )
    homogeneous = torch.zeros(len(warp), 3, 3, dtype=torch.float64)
    homogeneous[:, :2] = warp
    homogeneous[:, 2, 2] = 1
    return to_index @ homogeneous @ to_normalised


def orbit(images: Tensor, views: int) -> list[Tensor]:
    """The first `views` (1 to 8) of the eight flips and quarter turns of images (..., S, S)."""
    turned = [torch.rot90(images, turn, dims=(-2, -1)) for turn in range(min(views, 4))]
    flipped = [torch.rot90(images.flip(-1), turn, dims=(-2, -1)) for turn in range(max(views - 4, 0))]
    return turned + flipped
