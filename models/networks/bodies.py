"""torchvision's classifiers without their heads, as stages: a new one wherever the resolution falls."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError

Stages = list[list[tuple[str, nn.Module]]]

#: Stages given by hand, by the number of a block: also where the width changes, so that a little can be unfrozen.
_BLOCKS = {
    r"mobilenet_v2": ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9, 10), (11, 12, 13), (14, 15, 16), (17, 18)),
    r"efficientnet_b\d": ((0, 1), (2,), (3,), (4,), (5,), (6,), (7, 8)),
}
#: pixels of the image whose way through the blocks shows where the resolution falls
_PROBE_PX = 64


def is_torchvision_classifier(name: str) -> bool:
    """Whether torchvision has an image classifier of that name, convolutional or not."""
    from torchvision import models

    return name in models.list_models(module=models)


def torchvision_stages(name: str) -> tuple[Stages, int]:
    """(stages, number of features) of a torchvision classifier with random weights; blocks under torchvision's names.

    Raises
    ------
    UsageError: a network whose body is not a plain row of convolutional blocks (transformers, inception).
    """
    from torchvision import models

    net = models.get_model(name, weights=None).eval()
    if all(hasattr(net, part) for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer4")):
        stem = [(part, getattr(net, part)) for part in ("conv1", "bn1", "relu", "maxpool")]
        layers = [[(layer, getattr(net, layer))] for layer in ("layer1", "layer2", "layer3", "layer4")]
        return [stem, *layers], int(net.fc.in_features)
    blocks = _row_of_blocks(net)
    if not blocks or any("Attention" in type(module).__name__ for module in net.modules()):
        raise UsageError(
            f"{name} has no convolutional body that could be split into stages",
            todo="Choose a network such as resnet50, densenet121 or convnext_tiny.",
        )
    sizes, width = _sizes(blocks)
    given = next((rows for pattern, rows in _BLOCKS.items() if re.fullmatch(pattern, name)), None)
    if given is not None:
        return [[blocks[number] for number in rows] for rows in given], width
    return _by_resolution(blocks, sizes), width


def _row_of_blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks from the image to the last feature maps, empty where they are no plain row."""
    if isinstance(features := getattr(net, "features", None), nn.Sequential):
        blocks = [(f"features.{name}", block) for name, block in features.named_children()]
        # DenseNet's last activation stands in its forward function.
        return [*blocks, ("features.relu", nn.ReLU())] if type(net).__name__ == "DenseNet" else blocks
    if isinstance(layers := getattr(net, "layers", None), nn.Sequential):  # MNASNet
        return [(f"layers.{name}", block) for name, block in layers.named_children()]
    if hasattr(net, "stem") and isinstance(trunk := getattr(net, "trunk_output", None), nn.Sequential):  # RegNet
        return [("stem", net.stem), *((f"trunk_output.{name}", block) for name, block in trunk.named_children())]
    return []


def _sizes(blocks: list[tuple[str, nn.Module]]) -> tuple[list[int], int]:
    """Height of the maps behind each block for a probe image, and the number of channels behind the last."""
    maps: Tensor = torch.zeros(1, 3, _PROBE_PX, _PROBE_PX)
    sizes = []
    with torch.no_grad():
        for _, block in blocks:
            maps = block(maps)
            sizes.append(int(maps.shape[2]))
    return sizes, int(maps.shape[1])


def _by_resolution(blocks: list[tuple[str, nn.Module]], sizes: list[int]) -> Stages:
    """Blocks in stages; what has no tensors (a pooling at the end) stays with the stage before it."""
    stages: Stages = []
    for block, size, before in zip(blocks, sizes, [_PROBE_PX, *sizes], strict=False):
        if not stages or size < before:
            stages.append([])
        stages[-1].append(block)
    joined: Stages = []
    for stage in stages:
        if joined and not any(list(module.state_dict()) for _, module in stage):
            joined[-1].extend(stage)
        else:
            joined.append(stage)
    return joined
