"""BatchNorm statistics of one site: held still while the other's patches pass, or all computed anew (AdaBN)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from models.networks.inputs import plane_count, to_images

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

#: images a pass: enough for the first pass, where each layer is normalised by its batch alone
_IMAGES_A_BATCH = 48


def batchnorms(module: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer in `module`, those without running averages left out."""
    return [layer for layer in module.modules() if isinstance(layer, BATCHNORM) and layer.running_mean is not None]


def freeze_statistics(module: nn.Module) -> None:
    """Every BatchNorm layer in `module` to evaluation mode: it normalises by the averages it has, and they stay."""
    for layer in module.modules():
        if isinstance(layer, BATCHNORM):
            layer.eval()


@contextmanager
def held_statistics(module: nn.Module, *, held: bool = True) -> Iterator[None]:
    """Running averages of `module` stay as they are inside the block, if `held`."""
    layers = batchnorms(module) if held else []
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


class _Moments:
    """Count, mean and sum of squared deviations of a layer's inputs, joined over batches (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Inputs (N, C, ...) of one batch."""
        axes = [axis for axis in range(values.ndim) if axis != 1]
        n = values.numel() // values.shape[1]
        variance, mean = torch.var_mean(values.float(), dim=axes, correction=0)
        mean, squares = mean.double(), variance.double() * n
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = n, mean, squares
            return
        total = self.count + n
        distance = mean - self.mean
        self.mean = self.mean + distance * (n / total)
        self.squares = self.squares + squares + distance**2 * (self.count * n / total)
        self.count = total


def adapt_batchnorm(network: nn.Module, batches: Callable[[], Iterable[Tensor]], *, passes: int = 2) -> int:
    """AdaBN (Li et al. 2016): mean and variance of every BatchNorm layer from other images, nothing learned.

    Each layer gets mean and variance (divided by n) of its inputs over all batches, not a running average of them.
    In the first pass a layer is normalised by its batch, in each further one by what the pass before found, so that the
    k-th layer is exactly that of one batch that holds every image after `passes` >= k, whatever the batches. Dropout
    stays off; nothing is drawn; the network comes back in the mode that it came in.

    Parameters
    ----------
    batches: called once a pass; gives what `network` takes, the same each time.

    Returns how many layers were set; 0 for a network without BatchNorm.

    Raises
    ------
    UsageError: no image, or a layer that sees one value a channel only.
    """
    layers = batchnorms(network)
    if not layers:
        return 0
    modes = [(module, module.training) for module in network.modules()]
    counted = [layer.num_batches_tracked.clone() for layer in layers]
    try:
        for number in range(passes):
            network.eval()
            for layer in layers:
                layer.train(number == 0)
            _one_pass(network, layers, batches())
    finally:
        for module, training in modes:
            module.training = training
        for layer, count in zip(layers, counted, strict=True):
            layer.num_batches_tracked.copy_(count)
    return len(layers)


def _one_pass(network: nn.Module, layers: list[nn.Module], batches: Iterable[Tensor]) -> None:
    moments = [_Moments() for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, known=known: known.add(inputs[0]))
        for layer, known in zip(layers, moments, strict=True)
    ]
    try:
        with torch.no_grad(), held_statistics(network):
            for images in batches:
                network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, known in zip(layers, moments, strict=True):
        if known.mean is None or known.squares is None or known.count < 2:
            raise UsageError(
                "BatchNorm statistics need more than one value a channel",
                where=f"{known.count} values",
                todo="Give more patches of the target site.",
            )
        layer.running_mean.copy_(known.mean)
        layer.running_var.copy_(known.squares / known.count)


def adapt_to_patches(network: nn.Module, patches: NDArray[np.generic], spec: InputSpec, *, passes: int = 2) -> int:
    """`adapt_batchnorm` of a nodule network, frozen stages included, to patches (N, *patch_shape) of a target site."""
    count = max(round(len(patches) * plane_count(spec) / _IMAGES_A_BATCH), 1)

    def batches() -> Iterator[Tensor]:
        # Even parts: a last batch of one patch would have statistics of its own.
        for part in np.array_split(np.arange(len(patches)), count):
            if len(part):
                yield to_images(patches[part], spec)

    return adapt_batchnorm(network, batches, passes=passes)
