"""In which order and at which rate a fit learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_contracts.params import TrainParams


class Shuffled:
    """Row numbers in random order, shuffled anew whenever they have run out."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self._n = n
        self._generator = generator
        self._left = torch.zeros(0, dtype=torch.int64)

    def take(self, count: int) -> Tensor:
        while len(self._left) < count:
            self._left = torch.cat([self._left, torch.randperm(self._n, generator=self._generator)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def rate_factor(epochs_done: float, params: TrainParams) -> float:
    """Share of the base learning rate: linear warm-up, then half a cosine down to 1 %."""
    if epochs_done < params.warmup_epochs:
        return max(epochs_done / params.warmup_epochs, 0.05)
    left = max(params.epochs - params.warmup_epochs, 1)
    position = min((epochs_done - params.warmup_epochs) / left, 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * position))
