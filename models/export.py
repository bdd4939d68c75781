"""The form in which a network is served: patches in, logit and image-only probability out, nothing else to know."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from data_contracts.model_card import Calibration, InputSpec
from models.augmentation.augment import orbit
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
        """The traced program for any batch size."""
        return torch.export.export(self, (self.example(),), dynamic_shapes=({0: Dim("batch", min=1)},))
