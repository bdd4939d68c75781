"""In which order a fit sees the target."""

from __future__ import annotations

import torch
from torch import Tensor


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
