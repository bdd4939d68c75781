"""Planes to another size, by operations that every exporter knows.

torch's bilinear interpolation with an anti-aliasing filter has no counterpart in ONNX or OpenVINO; it is a product with
one fixed matrix for each axis, and matrices travel everywhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def resize_planes(images: Tensor, size_px: int) -> Tensor:
    """Bilinear, with an anti-aliasing filter where an axis shrinks; (N, C, H, W) -> (N, C, size, size)."""
    height, width = (int(n) for n in images.shape[-2:])  # tensors, where a network is traced
    if (height, width) == (size_px, size_px):
        return images
    if height <= size_px and width <= size_px:
        return functional.interpolate(images, size=(size_px, size_px), mode="bilinear", align_corners=False)
    down, across = (torch.tensor(_matrix(n, size_px), dtype=torch.float32) for n in (height, width))
    return down @ images @ across.T


def resize_volumes(volumes: Tensor, size_px: int) -> Tensor:
    """Trilinear, filtered where an axis shrinks: (N, D, H, W) -> (N, size, size, size)."""
    planes = resize_planes(volumes, size_px)
    depth = int(volumes.shape[1])
    if depth == size_px:
        return planes
    along = torch.tensor(_matrix(depth, size_px), dtype=torch.float32)
    return (along @ planes.flatten(2)).unflatten(2, (size_px, size_px))


@cache
def _matrix(n: int, size: int) -> list[list[float]]:
    """Rows of weights (size, n) of a triangle filter as wide as the scale, at least one pixel; each sums to one."""
    centers = n / size * (np.arange(size) + 0.5)
    distance = np.abs(np.arange(n)[None] + 0.5 - centers[:, None])
    weights = np.clip(1 - distance / max(n / size, 1.0), 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).tolist()
