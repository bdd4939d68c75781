"""Features on a GPU: channels last, one CUDA graph, and the next batch on its way while one is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.networks.backbones import Backbone

IMAGES_A_PASS = 128
_WARM_UP_PASSES = 3


class CudaEngine:
    """Images (n <= 128, 3, S, S) of the host -> features (n, F) on the host.

    Two sets of pinned buffers take turns: while the graph computes one batch, the host prepares the next and its copy
    runs on a stream of its own.
    """

    images_a_pass = IMAGES_A_PASS

    def __init__(self, backbone: Backbone, size_px: int, precision: str, *, compiled: bool = False) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network: nn.Module = copy.deepcopy(backbone).eval().to("cuda", dtype).to(memory_format=torch.channels_last)
        if compiled:
            network = torch.compile(network, dynamic=False, mode="max-autotune-no-cudagraphs")
        shape = (IMAGES_A_PASS, 3, size_px, size_px)
        self._inputs = torch.zeros(shape, dtype=dtype, device="cuda").contiguous(memory_format=torch.channels_last)
        self._arrived = [torch.zeros(shape, device="cuda") for _ in range(2)]
        self._pinned = [torch.zeros(shape, pin_memory=True) for _ in range(2)]
        self._results = [torch.zeros((IMAGES_A_PASS, backbone.n_features), pin_memory=True) for _ in range(2)]
        self._copying = torch.cuda.Stream()
        self._computing = torch.cuda.Stream()
        self._graph = torch.cuda.CUDAGraph()
        self._computing.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(self._computing):
            for _ in range(_WARM_UP_PASSES):
                network(self._inputs)
            self._computing.synchronize()
            with torch.cuda.graph(self._graph, stream=self._computing):
                self._outputs = network(self._inputs).float()
        self._network = network  # the graph reads its weights

    def stream(self, batches: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Features (n, F) of each batch (n, 3, S, S), one batch behind what is being computed."""
        events = _Events()
        before: tuple[int, int] | None = None
        for number, images in enumerate(batches):
            self._start(events, number, images)
            if before is not None:
                yield self._collected(events, *before)
            before = (number % 2, len(images))
        if before is not None:
            yield self._collected(events, *before)

    @torch.inference_mode()
    def _start(self, events: _Events, number: int, images: Tensor) -> None:
        turn = number % 2
        if number >= 2:
            events.copied[turn].synchronize()  # the batch before the last has left the pinned buffer
        self._pinned[turn][: len(images)].copy_(images)
        with torch.cuda.stream(self._copying):
            if number >= 2:
                self._copying.wait_event(events.taken[turn])
            self._arrived[turn].copy_(self._pinned[turn], non_blocking=True)
            events.copied[turn].record(self._copying)
        with torch.cuda.stream(self._computing):
            self._computing.wait_event(events.copied[turn])
            self._inputs.copy_(self._arrived[turn])
            events.taken[turn].record(self._computing)
            self._graph.replay()
            self._results[turn].copy_(self._outputs, non_blocking=True)
            events.done[turn].record(self._computing)

    def _collected(self, events: _Events, turn: int, count: int) -> NDArray[np.float32]:
        events.done[turn].synchronize()
        return self._results[turn][:count].numpy().copy()


class _Events:
    """What has happened to each of the two sets of buffers: copied to the GPU, taken as input, result on the host."""

    def __init__(self) -> None:
        self.copied, self.taken, self.done = ([torch.cuda.Event(), torch.cuda.Event()] for _ in range(3))
