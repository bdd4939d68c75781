"""Augmentation of a batch of images in torch: one affine warp and one change of intensity an image.

The random numbers of a variant are drawn for all patches at once from a generator seeded by
(seed, variant), so an augmented patch never depends on the batch it travels in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROTATION_RAD = 0.26
MAX_LOG_SCALE = 0.1
MAX_SHIFT = 0.08
MAX_LOG_CONTRAST = 0.15
MAX_BRIGHTNESS = 0.15


@dataclass(frozen=True)
class Draws:
    """Random numbers of one variant: warp (N, P, 2, 3) in normalised coordinates, contrast and brightness (N, P)."""

    warp: Tensor
    contrast: Tensor
    brightness: Tensor

    def rows(self, index: Tensor) -> Draws:
        """The draws of some patches."""
        return Draws(self.warp[index], self.contrast[index], self.brightness[index])


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
    return Draws(torch.stack(rows, dim=-2), torch.exp(uniform(MAX_LOG_CONTRAST)), uniform(MAX_BRIGHTNESS))


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Augmented images, same shape (N, P, C, S, S); the border repeats where a warp looks outside."""
    n, planes, channels, height, width = images.shape
    flat = images.reshape(n * planes, channels, height, width)
    grid = functional.affine_grid(draws.warp.reshape(-1, 2, 3), list(flat.shape), align_corners=False)
    warped = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    contrast = draws.contrast.reshape(-1, 1, 1, 1)
    brightness = draws.brightness.reshape(-1, 1, 1, 1)
    return (warped * contrast + brightness).reshape(images.shape)


def orbit(images: Tensor, views: int) -> list[Tensor]:
    """The first `views` (1 to 8) of the eight flips and quarter turns of images (..., S, S)."""
    turned = [torch.rot90(images, turn, dims=(-2, -1)) for turn in range(min(views, 4))]
    flipped = [torch.rot90(images.flip(-1), turn, dims=(-2, -1)) for turn in range(max(views - 4, 0))]
    return turned + flipped
