"""Networks that know less and less: the weights of one part after the other, from the output to the image, shuffled."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.networks.network import NoduleNetwork


def cascade(network: NoduleNetwork, images: Tensor, *, seed: int) -> Iterator[tuple[str, NoduleNetwork]]:
    """Cascading randomisation (Adebayo et al., NeurIPS 2018): (what was randomised last, a copy), the head first.

    The values of each tensor are shuffled, so that every layer keeps the distribution of its weights and forgets what
    they meant. BatchNorm of the shuffled parts takes its statistics from `images` (N, P, C, *plane), or the activations
    would vanish and every map with them. The last copy has nothing left of what was learned.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        current = copy.deepcopy(network).eval()
        forgotten: list[nn.Module] = []
        for name, part in _parts(current):
            _shuffle(part)
            forgotten.append(part)
            _recalibrate(current, forgotten, images)
            yield name, copy.deepcopy(current)


def _parts(network: NoduleNetwork) -> list[tuple[str, nn.Module]]:
    stages = list(network.backbone.stages)
    last = nn.ModuleList([network.head, network.pooling])
    return [("head", last), *((f"stage {number}", stages[number]) for number in reversed(range(len(stages))))]


def _shuffle(part: nn.Module) -> None:
    with torch.no_grad():
        for value in part.parameters():
            flat = value.detach().flatten()
            value.copy_(flat[torch.randperm(len(flat))].reshape(value.shape))


def _recalibrate(network: NoduleNetwork, parts: list[nn.Module], images: Tensor) -> None:
    layers = [
        module for part in parts for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
