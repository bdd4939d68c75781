"""The form in which a network is served: patches in, logit and image-only probability out, nothing else to know."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from data_contracts.model_card import Calibration, InputSpec
from models.augmentation.orbit import orbit
from models.networks.inputs import to_images
from models.networks.network import NoduleNetwork


class ServingModule(nn.Module):
    """Patches float32 (N, *patch_shape), in HU or grey values -> (N, 2): logit, image-only probability."""

    def __init__(self, network: NoduleNetwork, spec: InputSpec, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.bias = calibration.image_only_bias
        self.weight = calibration.image_only_weight
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 2)."""
        views = orbit(to_images(patches, self.spec), self.spec.views)
        # One pass for all views: the traced program then holds the network once.
        logit = self.network(torch.cat(views)).reshape(len(views), -1).mean(dim=0)
        probability = torch.sigmoid(self.bias + self.weight * logit)
        return torch.stack([logit, probability], dim=1)

    def example(self) -> Tensor:
        """An example batch of two: with one, torch.export takes the batch size for a constant."""
        return torch.zeros(2, *self.spec.patch_shape)

    def export(self) -> ExportedProgram:
        """The traced program for any batch size; it keeps no example, which would travel as a pickle."""
        with quiet():
            program = torch.export.export(self, (self.example(),), dynamic_shapes=({0: Dim("batch", min=1)},))
        program._example_inputs = None
        return program


def takes(spec: InputSpec) -> str:
    """In words, what a served network takes."""
    shape = ", ".join(str(length) for length in spec.patch_shape)
    spacing = f" at {spec.spacing_mm:g} mm a pixel" if spec.spacing_mm else ""
    unit = "HU" if spec.value_unit == "HU" else "grey values 0..255"
    return f"float32 (N, {shape}), {spec.kind} patches in {unit}{spacing}; windows and resizing are inside"


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a traced program as a .pt2 archive."""
    with quiet():
        torch.export.save(program, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters announce versions, successors and progress; none of it is for a user of this program."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
