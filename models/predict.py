"""Logits and features of patches, batch by batch, and a predictor read from a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_contracts.model_card import InputSpec, ModelCard
from models.augmentation.orbit import orbit
from models.engines.heap import keep_heap
from models.engines.open_engine import Engine
from models.networks.inputs import patches_a_pass, plane_count, to_images
from models.networks.network import NoduleNetwork

CARD_FILE = "model_card.json"


def predict_logits(
    network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec, batch_size: int = 0
) -> NDArray[np.float64]:
    """Logits (n,) of patches (n, *patch_shape): the mean over `spec.views` flips and quarter turns."""
    return _over_views(network, patches, spec, batch_size, lambda images: network(images)[:, None])[:, 0]


def predict_outputs(
    network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec, batch_size: int = 0
) -> NDArray[np.float64]:
    """Logits (n, 1 + k) of malignancy and of k concepts, each the mean over `spec.views` flips and quarter turns."""

    def outputs(images: Tensor) -> Tensor:
        logit, concepts = network.with_concepts(images)
        return torch.cat([logit[:, None], concepts], dim=1)

    return _over_views(network, patches, spec, batch_size, outputs)


def _over_views(
    network: NoduleNetwork,
    patches: NDArray[np.generic],
    spec: InputSpec,
    batch_size: int,
    outputs: Callable[[Tensor], Tensor],
) -> NDArray[np.float64]:
    """What `outputs` makes of the images of patches, (n, m): the mean over `spec.views` flips and quarter turns."""
    network.eval()
    keep_heap()
    batch_size = batch_size or patches_a_pass(spec)
    parts = []
    with torch.inference_mode():
        for start in range(0, max(len(patches), 1), batch_size):
            images = to_images(patches[start : start + batch_size], spec)
            parts.append(torch.stack([outputs(view) for view in orbit(images, spec.views)]).mean(dim=0).double())
    return np.asarray(torch.cat(parts).numpy())


def logits_of_features(network: NoduleNetwork, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (n,) of pooled features (n, F) that the network's own backbone made before."""
    network.eval()
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        return np.asarray(network.head(values).double().numpy())


def represented(network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec) -> NDArray[np.float32]:
    """What the head classifies, (n, width): representations of patches (n, *patch_shape), without augmentation."""
    network.eval()
    step = patches_a_pass(spec)
    out = np.zeros((len(patches), network.head.width), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(patches), step):
            images = to_images(patches[start : start + step], spec)
            out[start : start + step] = network.head.represent(network.features(images)).numpy()
    return out


def logits_and_represented(
    network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Logits (n,) as of `predict_logits` and representations (n, width); in one pass where there is one view."""
    vectors = represented(network, patches, spec)
    if spec.views > 1:
        return predict_logits(network, patches, spec), vectors
    with torch.inference_mode():
        return np.asarray(network.head.classify(torch.from_numpy(vectors)).double().numpy()), vectors


def stream_features(
    engine: Engine, load: Callable[[slice], NDArray[np.generic]], n: int, spec: InputSpec
) -> Iterator[NDArray[np.float32]]:
    """Features (m, P, F) of `n` patches that `load(slice)` reads, in order, as many at a time as suit the engine."""
    planes = plane_count(spec)
    step = max(engine.images_a_pass // math.gcd(engine.images_a_pass, planes), 1)

    def passes() -> Iterator[Tensor]:
        for start in range(0, n, step):
            images = to_images(load(slice(start, min(start + step, n))), spec)
            yield from torch.split(images.flatten(0, 1), engine.images_a_pass)

    left: list[NDArray[np.float32]] = []
    waiting = 0
    for features in engine.stream(passes()):
        left.append(features)
        waiting += len(features)
        if waiting % planes == 0:
            yield np.concatenate(left).reshape(waiting // planes, planes, -1)
            left, waiting = [], 0


def extract_features(
    engine: Engine, load: Callable[[slice], NDArray[np.generic]], n: int, spec: InputSpec
) -> NDArray[np.float32]:
    """Features (n, P, F) of `n` patches that `load(slice)` reads a batch at a time; n is at least 1."""
    return np.concatenate(list(stream_features(engine, load, n, spec)))


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
