"""Convolutional backbones as an ordered list of stages, so that the last ones can learn and the rest stay frozen."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError
from models.networks.bodies import Stages, is_torchvision_classifier, torchvision_stages
from models.networks.medicalnet import MEDICALNETS, medicalnet_stages

SMALL_CNN = "small_cnn"
_SMALL_WIDTHS = (3, 32, 64, 128, 256)
#: torchvision's networks that are named to people and tested one by one; others with a row of blocks work, too
TORCHVISION_BACKBONES = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_v2_s",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
)
BACKBONES = tuple(sorted((*TORCHVISION_BACKBONES, *MEDICALNETS, SMALL_CNN)))


class Backbone(nn.Module):
    """Images (N, C, H, W), or volumes (N, C, D, H, W) -> pooled features (N, n_features).

    Attributes
    ----------
    stages: ordered from the image to the features.
    torchvision_names: maps the first part of a tensor's name here ("stages.0.1") to that in published weights ("bn1").
    axes: 2 for images, 3 for volumes.
    channels: C.
    """

    def __init__(self, name: str, stages: Stages, n_features: int, *, axes: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.name = name
        self.n_features = n_features
        self.axes = axes
        self.channels = channels
        self.stages = nn.ModuleList(nn.Sequential(*(module for _, module in stage)) for stage in stages)
        self.torchvision_names = {
            f"stages.{s}.{m}": source for s, stage in enumerate(stages) for m, (source, _) in enumerate(stage)
        }

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (N, n_features)."""
        maps = images
        for stage in self.stages:
            maps = stage(maps)
        return pool(maps, self.axes)

    def split(self, unfreeze: int) -> tuple[nn.Sequential, nn.Sequential]:
        """(prefix, suffix): all but the last `unfreeze` stages, and those; both share this backbone's tensors.

        Raises
        ------
        UsageError: there are not so many stages.
        """
        count = len(self.stages)
        if not 0 <= unfreeze <= count:
            raise UsageError(
                f"{self.name} has {count} stages, {unfreeze} cannot be unfrozen",
                where=f"unfreeze={unfreeze}",
                todo=f"Set unfreeze to 0 .. {count}.",
            )
        modules = list(self.stages)
        return nn.Sequential(*modules[: count - unfreeze]), nn.Sequential(*modules[count - unfreeze :])


def pool(maps: Tensor, axes: int = 0) -> Tensor:
    """Mean over the plane or volume of feature maps (N, C, [d,] h, w) -> (N, C).

    axes: 2 or 3; 0 takes what the maps have, which a symbolic trace does not know.
    """
    return maps.mean(dim=tuple(range(-(axes or maps.ndim - 2), 0)))


def state_digest(backbone: Backbone) -> str:
    """sha256 over the names and bytes of all tensors."""
    total = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        total.update(name.encode())
        total.update(memoryview(value.contiguous().numpy().reshape(-1).view(np.uint8)))
    return total.hexdigest()


def build_backbone(name: str, *, seed: int) -> Backbone:
    """A backbone with random weights drawn from `seed`; the global generator is left as it was.

    name: one of BACKBONES, or another torchvision classifier whose body is a row of convolutional blocks.

    Raises
    ------
    UsageError: a name that nobody knows, or a network without such a body.
    """
    if name not in BACKBONES and not is_torchvision_classifier(name):
        raise UsageError(
            f"unknown backbone {name!r}",
            todo=f"Known: {', '.join(BACKBONES)}, and other convolutional classifiers of torchvision.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MEDICALNETS:
            backbone = Backbone(name, *medicalnet_stages(name), axes=3, channels=1)
        elif name == SMALL_CNN:
            backbone = Backbone(name, _small_stages(), _SMALL_WIDTHS[-1])
        else:
            backbone = Backbone(name, *torchvision_stages(name))
    return fast_layout(backbone).eval()


def fast_layout(backbone: Backbone) -> Backbone:
    """The backbone with its kernels in the order in memory that suits a processor; values and shapes stay."""
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return backbone


def is_volumetric(name: str) -> bool:
    """Whether a backbone takes volumes by itself, without being inflated."""
    return name in MEDICALNETS


def _small_stages() -> Stages:
    """Four stages, each a 3x3 convolution, BatchNorm, ReLU and 2x2 pooling: a network to be trained from nothing."""
    return [
        [
            (f"{number}.conv", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)),
            (f"{number}.bn", nn.BatchNorm2d(outputs)),
            (f"{number}.relu", nn.ReLU(inplace=True)),
            (f"{number}.maxpool", nn.MaxPool2d(2)),
        ]
        for number, (inputs, outputs) in enumerate(pairwise(_SMALL_WIDTHS))
    ]
