"""The views that a prediction is the mean of."""

from __future__ import annotations

import torch
from torch import Tensor


def orbit(images: Tensor, views: int) -> list[Tensor]:
    """The first `views` (1 to 8) of eight views: quarter turns in the plane, then the same of the mirror image.

    Images (..., S, S) are mirrored in a row, volumes (N, P, C, S, S, S) along their depth, about which they turn.
    """
    mirrored = images.flip(-3 if images.ndim == 6 else -1)
    turned = [torch.rot90(images, turn, dims=(-2, -1)) for turn in range(min(views, 4))]
    return turned + [torch.rot90(mirrored, turn, dims=(-2, -1)) for turn in range(max(views - 4, 0))]
