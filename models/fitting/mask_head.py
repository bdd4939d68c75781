"""What the readers outlined as a further target: a small decoder that is there only while a network learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.augmentation.augment import Draws, warp
from models.networks.backbones import Backbone
from models.networks.resize import resize_planes

#: maps finer than this part of the image are left out: they hold edges, no nodules
_FINEST = 8
#: share of a crop's pixels that readers outline, about; the first guess, so that the background is no surprise
_PRIOR = 0.05


class MaskHead(nn.Module):
    """Maps of the stages that learn -> logits (B, c, S, S) of the share of readers whose outline covers each pixel.

    One 1x1 convolution a stage, their scores resized and summed, as FCN-8s does (Long, Shelhamer and Darrell 2015,
    section 4.2), so that every stage learns from it.
    """

    def __init__(self, backbone: Backbone, unfreeze: int, channels: int, size_px: int) -> None:
        super().__init__()
        sizes = _map_sizes(backbone, size_px)[len(backbone.stages) - unfreeze :]
        coarse = [stage for stage, (_, side) in enumerate(sizes) if side * _FINEST <= size_px]
        self.used = coarse or [len(sizes) - 1]
        self.side_px = sizes[self.used[0]][1]
        self.channels, self.size_px = channels, size_px
        self.scores = nn.ModuleList(nn.Conv2d(sizes[stage][0], channels, 1, bias=False) for stage in self.used)
        self.bias = nn.Parameter(torch.full((channels,), float(np.log(_PRIOR / (1 - _PRIOR)))))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Scores (B, c * s * s) of the maps of all learning stages, one row a patch, on the finest of the used maps."""
        parts = [
            _resized(score(maps[stage].float()), self.side_px)
            for stage, score in zip(self.used, self.scores, strict=True)
        ]
        return (torch.stack(parts).sum(dim=0) + self.bias[:, None, None]).flatten(1)

    def logits(self, scores: Tensor) -> Tensor:
        """(B, c * s * s) -> (B, c, S, S)."""
        return _resized(scores.unflatten(1, (self.channels, self.side_px, self.side_px)), self.size_px)


def _resized(maps: Tensor, side_px: int) -> Tensor:
    if maps.shape[-1] == side_px:
        return maps
    return functional.interpolate(maps, size=(side_px, side_px), mode="bilinear", align_corners=False)


def _map_sizes(backbone: Backbone, size_px: int) -> list[tuple[int, int]]:
    """(channels, side in pixels) behind each stage for an image of `size_px`; the backbone must be in evaluation."""
    sizes = []
    with torch.no_grad():
        maps = torch.zeros(1, backbone.channels, size_px, size_px)
        for stage in backbone.stages:
            maps = stage(maps)
            sizes.append((int(maps.shape[1]), int(maps.shape[2])))
    return sizes


def mask_targets(masks: NDArray[np.uint8], size_px: int, draws: Draws | None = None) -> Tensor:
    """Targets (B, c, S, S) in 0..1 of masks (B, c, H, W), moved as `augment` moves the images of the same draws.

    NaN where nobody outlined anything in a patch.
    """
    values = torch.from_numpy(np.ascontiguousarray(masks)).float() / 255
    known = values.flatten(1).amax(dim=1) > 0
    targets = resize_planes(values, size_px)
    if draws is not None:
        targets = warp(targets[:, None], draws)[:, 0]
    targets = targets.clamp(0, 1)
    targets[~known] = torch.nan
    return targets


def known_masks(targets: Tensor) -> int:
    """How many patches of targets (B, c, S, S) anybody outlined."""
    return int((~targets.isnan().flatten(1).any(dim=1)).sum())
