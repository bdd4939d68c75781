"""Many small networks side by side: one linear layer a seed, all stepped at once, none seeing another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.adaptation.adversary import domain_loss


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator of random numbers a seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class ManyLinear(nn.Module):
    """(S, N, F) -> (S, N, G): a linear layer for each of S seeds, drawn as torch draws one."""

    def __init__(self, draw: Sequence[torch.Generator], n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_inputs)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.stack([(2 * torch.rand(shape, generator=one) - 1) * bound for one in draw]))

        self.weight = uniform(n_inputs, n_outputs)
        self.bias = uniform(1, n_outputs)

    def forward(self, values: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, values, self.weight)


def many_sequential(draw: Sequence[torch.Generator], widths: Sequence[int], activation: nn.Module) -> nn.Sequential:
    """Layers of `widths` with the activation between them, none after the last."""
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in pairwise(widths):
        layers += [ManyLinear(draw, n_inputs, n_outputs), activation]
    return nn.Sequential(*layers[:-1])


def many_domain_loss(discriminator: nn.Module, source: Tensor, target: Tensor, strength: float) -> Tensor:
    """The sum over seeds of `domain_loss` of representations (S, N, F); the discriminator takes (S, N, F) too."""

    def each(joined: Tensor) -> Tensor:
        sites = joined.reshape(2, len(source), -1, source.shape[-1])
        return torch.stack([discriminator(site)[..., 0] for site in sites]).flatten()

    loss, _ = domain_loss(each, source.flatten(0, 1), target.flatten(0, 1), strength)
    return loss * len(source)
