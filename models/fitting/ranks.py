"""Several processes fit one network: each takes its share of every batch, all end with the same weights.

Only the stages of the backbone, nearly all of the work, see a share. Their features are gathered, so that pooled
losses, concepts, dropout and adaptation see the whole batch on every rank and mean what they mean in one process;
gradients of the stages are summed, those of the rest, which every rank computes alike, are averaged against rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.adaptation.statistics import BATCHNORM


class Ranks:
    """This process among those that fit together; one alone is rank 0 of 1."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of torch's process group; one alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def counts(self, n: int) -> list[int]:
        """How many of `n` rows each rank takes, the first ones one more where they do not divide."""
        return [n // self.size + (rank < n % self.size) for rank in range(self.size)]

    def share(self, n: int) -> slice:
        """Which of `n` rows this rank takes."""
        counts = self.counts(n)
        start = sum(counts[: self.rank])
        return slice(start, start + counts[self.rank])

    def gathered(self, part: Tensor, n: int) -> Tensor:
        """(n, F) of every rank's `share(n)`, in order; backwards each rank takes its own rows of the gradient.

        Exact where every rank goes on with the same computation on the whole.
        """
        if self.size == 1:
            return part
        whole: Tensor = _Gather.apply(part, self, n)
        return whole

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, shared_out: Sequence[nn.Parameter], alike: Sequence[nn.Parameter]) -> None:
        """Gradients of a whole step from each rank's part of them.

        shared_out: each rank saw its own rows, so the parts are summed. alike: each rank saw all rows, so the mean is
        taken, which keeps the ranks the same to the last bit.
        """
        if self.size == 1:
            return
        summed = [parameter.grad for parameter in shared_out if parameter.grad is not None]
        equal = [parameter.grad for parameter in alike if parameter.grad is not None]
        if not summed and not equal:
            return
        joined = torch.cat([gradient.reshape(-1) for gradient in (*summed, *equal)])
        dist.all_reduce(joined)
        start = 0
        for gradient in (*summed, *equal):
            part = joined[start : start + gradient.numel()].view_as(gradient)
            gradient.copy_(part)
            start += gradient.numel()
        for gradient in equal:
            gradient.div_(self.size)

    @contextmanager
    def synchronised(self, modules: nn.Module) -> Iterator[None]:
        """BatchNorm layers that learn their statistics take those of the whole batch inside the block."""
        layers = [module for module in modules.modules() if isinstance(module, BATCHNORM)] if self.size > 1 else []
        for layer in layers:
            layer.forward = partial(_normalised, layer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, n: int) -> Tensor:
        ctx.share = ranks.share(n)
        counts = ranks.counts(n)
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part.detach()
        every = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(every, padded)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient[ctx.share], None, None


class _Sum(torch.autograd.Function):
    """Sum over ranks; backwards too, because every rank's result depends on every rank's part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _normalised(layer: Any, images: Tensor) -> Tensor:
    """BatchNorm of (m, C, ...) with mean and variance over every rank's rows; torch's own runs on no processor."""
    if not layer.training:
        return type(layer).forward(layer, images)
    axes = [axis for axis in range(images.ndim) if axis != 1]
    shape = [1, -1, *[1] * (images.ndim - 2)]
    values = images.float()
    count = values.new_tensor([values.numel() / values.shape[1]])
    dist.all_reduce(count)
    mean = _Sum.apply(values.sum(axes)) / count
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    with torch.no_grad():
        if layer.track_running_stats:
            layer.num_batches_tracked += 1
            momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            layer.running_var.lerp_(unbiased.to(layer.running_var.dtype), momentum)
    normal = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
    return normal.to(images.dtype)
