"""What tests of fitting share: a narrow network, patches that it can tell apart, and parameters of a short fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from models.fitting.data import FitData, LabelledPatches
from models.networks.backbones import Backbone
from models.networks.inputs import as_batch, to_images
from models.weights.zoo import calibrate_batchnorm

SPEC = InputSpec(kind="2d", patch_shape=(1, 32, 32), value_unit="grey", spacing_mm=1.0, input_size_px=32)


def blobs(n: int, seed: int, shift: int = 0) -> LabelledPatches:
    """Noise, with a bright disc in every second patch."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y, x = np.mgrid[:32, :32] - 15.5
    disc = (np.hypot(y, x) < 7) * 90
    patches = rng.normal(90 + shift, 25, (n, 1, 32, 32)) + labels[:, None, None, None] * disc
    return LabelledPatches(patches.clip(0, 255).astype(np.uint8), labels.astype(float))


def params(**changes) -> TrainParams:
    base = {"weights": "none", "input_size_px": 32, "epochs": 4, "batch_size": 16, "head": "mlp"}
    return TrainParams.from_mapping({**base, "augmentations": 2, "patience": 9, **changes})


def stage(inputs: int, outputs: int) -> list[tuple[str, nn.Module]]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return [("conv", convolution), ("bn", nn.BatchNorm2d(outputs)), ("relu", nn.ReLU())]


def fresh_backbone(data: FitData) -> Backbone:
    """Five stages as in a residual network, but narrow, so that a fit takes a moment."""
    widths = (3, 8, 8, 16, 16, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone("narrow", [stage(*pair) for pair in pairwise(widths)], widths[-1]).eval()
    calibrate_batchnorm(backbone, as_batch(to_images(data.train.patches[:32], SPEC)))
    return backbone


def narrow_data() -> FitData:
    """48 patches to learn from, 20 of validation, 32 of a brighter target site."""
    return FitData(blobs(48, 0), blobs(20, 1), target=blobs(32, 2, shift=40).patches)


def weights_of(result) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in result.network.state_dict().items()}
