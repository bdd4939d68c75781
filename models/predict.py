"""Logits and features of patches, batch by batch, and a predictor read from a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_contracts.model_card import InputSpec, ModelCard
from models.augment import orbit
from models.backbones import Backbone
from models.inputs import as_batch, plane_count, to_images
from models.network import NoduleNetwork

CARD_FILE = "model_card.json"
#: images a pass: their activations then stay in the processor's cache (ResNet50: about three times as fast as 48)
_IMAGES_A_PASS = 16


def predict_logits(
    network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec, batch_size: int = 0
) -> NDArray[np.float64]:
    """Logits (n,) of patches (n, *patch_shape): the mean over `spec.views` flips and quarter turns."""
    network.eval()
    batch_size = batch_size or max(_IMAGES_A_PASS // plane_count(spec), 1)
    out = np.zeros(len(patches), dtype=np.float64)
    with torch.inference_mode():
        for start in range(0, len(patches), batch_size):
            images = to_images(patches[start : start + batch_size], spec)
            logits = torch.stack([network(view) for view in orbit(images, spec.views)]).mean(dim=0)
            out[start : start + batch_size] = logits.double().numpy()
    return out


def logits_of_features(network: NoduleNetwork, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (n,) of pooled features (n, F) that the network's own backbone made before."""
    network.eval()
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        return np.asarray(network.head(values).double().numpy())


def extract_features(
    backbone: Backbone,
    load: Callable[[slice], NDArray[np.generic]],
    n: int,
    spec: InputSpec,
    batch_size: int = 0,
) -> NDArray[np.float32]:
    """Features (n, P, F) of `n` patches that `load(slice)` reads a batch at a time."""
    backbone.eval()
    planes = plane_count(spec)
    batch_size = batch_size or max(_IMAGES_A_PASS // planes, 1)
    out = np.zeros((n, planes, backbone.n_features), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, n, batch_size):
            stop = min(start + batch_size, n)
            images = to_images(load(slice(start, stop)), spec)
            out[start:stop] = backbone(as_batch(images)).reshape(stop - start, planes, -1).numpy()
    return out


class Predictor:
    """A network with its card: patches in, logits out.

    Attributes
    ----------
    card: what the network expects and was trained on.
    network: the network, in evaluation mode.
    """

    def __init__(self, card: ModelCard, network: NoduleNetwork) -> None:
        self.card = card
        self.network = network

    @classmethod
    def load(cls, directory: Path) -> Predictor:
        """Read model_card.json and checkpoint.safetensors; raises WeightsError where they do not fit together."""
        from models.checkpoint import load_network

        card = ModelCard.read(directory / CARD_FILE)
        return cls(card, load_network(directory, card))

    def logits(self, patches: NDArray[np.generic], batch_size: int = 0) -> NDArray[np.float64]:
        """Logits (n,) of patches (n, *patch_shape)."""
        return predict_logits(self.network, patches, self.card.input, batch_size)
