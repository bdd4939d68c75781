"""The backbone that features and training start from, the same one for both."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_contracts.manifest import Split
from data_contracts.model_card import InputSpec
from models.networks.backbones import Backbone, build_backbone
from models.networks.inflate import as_volumetric
from models.networks.inputs import to_images
from models.weights.zoo import WeightsInfo, calibrate_batchnorm, load_weights

#: patches whose statistics a random backbone's BatchNorm takes
_CALIBRATION_PATCHES = 32


def calibration_rows(index: pd.DataFrame) -> pd.DataFrame:
    """The training patches whose statistics a random backbone takes; the same ones for features and training."""
    return index[index["split"] == Split.TRAIN.value].head(_CALIBRATION_PATCHES)


def initial_backbone(
    name: str, weights: str, weights_sha256: str, seed: int, sample: np.ndarray, spec: InputSpec
) -> tuple[Backbone, WeightsInfo]:
    """A backbone with its weights, then inflated where `spec` wants volumes.

    Random weights get BatchNorm statistics from a sample of patches (n, *patch_shape).
    """
    backbone = build_backbone(name, seed=seed)
    info = load_weights(backbone, weights, weights_sha256)
    backbone = as_volumetric(backbone, spec.volumetric)
    if not info.pretrained:
        calibrate_batchnorm(backbone, to_images(sample, spec).flatten(0, 1))
    return backbone, info
