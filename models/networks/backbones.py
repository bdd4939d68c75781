"""Convolutional backbones as an ordered list of stages, so that the last ones can learn and the rest stay frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError

_Stages = list[list[tuple[str, nn.Module]]]


class Backbone(nn.Module):
    """Images (N, 3, H, W) -> pooled features (N, n_features).

    stages: ordered from the image to the features. `torchvision_names` maps the first part of a
    tensor's name here ("stages.0.1") to torchvision's ("bn1"), for loading published weights.
    """

    def __init__(self, name: str, stages: _Stages, n_features: int) -> None:
        super().__init__()
        self.name = name
        self.n_features = n_features
        self.stages = nn.ModuleList(nn.Sequential(*(module for _, module in stage)) for stage in stages)
        self.torchvision_names = {
            f"stages.{s}.{m}": source for s, stage in enumerate(stages) for m, (source, _) in enumerate(stage)
        }

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (N, n_features)."""
        maps = images
        for stage in self.stages:
            maps = stage(maps)
        return pool(maps)

    def split(self, unfreeze: int) -> tuple[nn.Sequential, nn.Sequential]:
        """(prefix, suffix): all but the last `unfreeze` stages, and those; both share this backbone's tensors.

        Raises
        ------
        UsageError: there are not so many stages.
        """
        count = len(self.stages)
        if not 0 <= unfreeze <= count:
            raise UsageError(f"{self.name} has {count} stages, {unfreeze} cannot be unfrozen")
        modules = list(self.stages)
        return nn.Sequential(*modules[: count - unfreeze]), nn.Sequential(*modules[count - unfreeze :])


def pool(maps: Tensor) -> Tensor:
    """Mean over the plane of feature maps (N, C, h, w) -> (N, C)."""
    return maps.mean(dim=(-2, -1))


def state_digest(backbone: Backbone) -> str:
    """sha256 over the names and bytes of all tensors."""
    total = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        total.update(name.encode())
        total.update(memoryview(value.contiguous().numpy().reshape(-1).view(np.uint8)))
    return total.hexdigest()


def build_backbone(name: str, *, seed: int) -> Backbone:
    """A backbone with random weights drawn from `seed`; the global generator is left as it was.

    Raises
    ------
    UsageError: a name that is not in BACKBONES.
    """
    if name not in BACKBONES:
        raise UsageError(f"unknown backbone {name!r}", todo=f"Known: {', '.join(sorted(BACKBONES))}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BACKBONES[name](name)
    # Tensors keep their values and shapes; only their order in memory suits the processor better.
    return backbone.to(memory_format=torch.channels_last).eval()


def _resnet(name: str) -> Backbone:
    from torchvision import models

    net = models.get_model(name, weights=None)
    stem: list[tuple[str, nn.Module]] = [
        ("conv1", net.conv1),
        ("bn1", net.bn1),
        ("relu", net.relu),
        ("maxpool", net.maxpool),
    ]
    layers = [[(layer, getattr(net, layer))] for layer in ("layer1", "layer2", "layer3", "layer4")]
    return Backbone(name, [stem, *layers], int(net.fc.in_features))


#: Stages of the networks built as one list of blocks: a new stage where resolution or width changes.
_BLOCKS = {
    "mobilenet_v2": ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9, 10), (11, 12, 13), (14, 15, 16), (17, 18)),
    "efficientnet_b0": ((0, 1), (2,), (3,), (4,), (5,), (6,), (7, 8)),
}


def _blocks(name: str) -> Backbone:
    from torchvision import models

    net = models.get_model(name, weights=None)
    stages = [[(f"features.{block}", net.features[block]) for block in stage] for stage in _BLOCKS[name]]
    return Backbone(name, list(stages), int(net.classifier[-1].in_features))


BACKBONES: dict[str, Callable[[str], Backbone]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "mobilenet_v2": _blocks,
    "efficientnet_b0": _blocks,
}
