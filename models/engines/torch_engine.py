"""Features by torch on processors: as the network is, in bfloat16, or compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.engines.heap import keep_heap
from models.networks.backbones import Backbone

#: compiled kernels have their shapes built in
_COMPILED_IMAGES_A_PASS = 32


class TorchEngine:
    """Images (n, 3, S, S) -> features (n, F).

    In float32 and not compiled these are the very numbers that the network in training and in a review computes.
    """

    #: their activations then stay in the processor's cache (ResNet50: about three times as fast as 48)
    images_a_pass = 16

    def __init__(self, backbone: Backbone, precision: str = "fp32", *, compiled: bool = False) -> None:
        keep_heap()
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._network: nn.Module = backbone.eval()
        self._padded = compiled
        if precision == "bf16":
            self._network = _fused(backbone).to(torch.bfloat16).to(memory_format=torch.channels_last)
        if compiled:
            self.images_a_pass = _COMPILED_IMAGES_A_PASS
            self._network = _compiled(self._network)

    def stream(self, batches: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Features (n, F) of each batch (n, 3, S, S)."""
        for images in batches:
            count = len(images)
            if self._padded and count < self.images_a_pass:
                images = torch.cat([images, images.new_zeros(self.images_a_pass - count, *images.shape[1:])])
            inputs = images.to(self._dtype).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                features = self._network(inputs)
            yield features[:count].float().numpy().copy()


def _fused(backbone: Backbone) -> nn.Module:
    """A copy of the network whose BatchNorms have become part of the convolutions before them."""
    from torch.fx.experimental.optimization import fuse

    fused: nn.Module = fuse(copy.deepcopy(backbone).eval())
    return fused


def _compiled(network: nn.Module) -> nn.Module:
    # Frozen: weights become constants, laid out as the convolutions read them and with BatchNorm folded in.
    compiled: nn.Module = torch.compile(network, dynamic=False, options={"freezing": True})
    return compiled
