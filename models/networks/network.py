"""The classifier: one backbone shared by all planes, their pooling, a head, and read-outs of concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError
from models.networks.backbones import Backbone, pool
from models.networks.inputs import as_batch
from models.networks.pooling import PoolingKind, build_pooling

HeadKind = Literal["linear", "mlp"]
MLP_WIDTH = 512


@dataclass(frozen=True)
class NetworkPlan:
    """What stands on a backbone.

    concepts: names of what is read out of the features beside malignancy, each one output in 0..1.
    """

    head: HeadKind = "mlp"
    pooling: PoolingKind = "mean"
    concepts: tuple[str, ...] = ()
    dropout: float = 0.0


class Head(nn.Module):
    """Features (N, F) -> logit (N,).

    linear: dropout, one layer. mlp: dropout, F-512 with ReLU, dropout, 512-1. What an adversary of
    the domain looks at is `represent`: the 512 hidden values, or the features themselves.
    """

    def __init__(self, kind: HeadKind, n_features: int, dropout: float) -> None:
        super().__init__()
        if kind not in ("linear", "mlp"):
            raise UsageError(f"unknown head {kind!r}", todo="Known: linear, mlp.")
        self.kind = kind
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(n_features, MLP_WIDTH) if kind == "mlp" else None
        self.width = MLP_WIDTH if kind == "mlp" else n_features
        self.logit = nn.Linear(self.width, 1)

    def represent(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, width)."""
        features = self.dropout(features)
        return features if self.hidden is None else torch.relu(self.hidden(features))

    def classify(self, representation: Tensor) -> Tensor:
        """(N, width) -> logit (N,)."""
        if self.hidden is not None:
            representation = self.dropout(representation)
        return self.logit(representation)[:, 0]

    def forward(self, features: Tensor) -> Tensor:
        """Logit (N,) of features (N, F)."""
        return self.classify(self.represent(features))


class Trunk(nn.Module):
    """The last stages of a backbone and the pooling of planes: (N * P, C, [d,] h, w) -> (N, F).

    Without a stage it takes the features of the planes, (N, P, F), or of whole patches, (N, F), as they are.
    """

    def __init__(self, stages: nn.Sequential, pooling: nn.Module, n_planes: int) -> None:
        super().__init__()
        self.stages = stages
        self.pooling = pooling
        self.n_planes = n_planes

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, F)."""
        return self.with_maps(inputs)[0]

    def with_maps(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(features (N, F), the maps behind each stage); no maps where features come in."""
        maps: list[Tensor] = []
        if inputs.ndim == 2:
            return inputs, maps
        if inputs.ndim > 3:
            for stage in self.stages:
                inputs = stage(inputs)
                maps.append(inputs)
            inputs = by_plane(pool(inputs).float(), self.n_planes)
        return self.pooling(inputs), maps


class NoduleNetwork(nn.Module):
    """Images (N, P, C, S, S), or volumes (N, 1, C, S, S, S) -> logit (N,) of malignancy."""

    def __init__(self, backbone: Backbone, head: Head, pooling: nn.Module, concepts: nn.Linear | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pooling = pooling
        self.concepts = concepts

    def forward(self, images: Tensor) -> Tensor:
        """Logit (N,)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Features (N, F): those of the planes, joined."""
        return self.pooling(by_plane(self.backbone(as_batch(images)), images.shape[1]))

    def with_concepts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logit (N,), logits of the concepts (N, k)); k is 0 where the network reads none out."""
        features = self.features(images)
        none = features.new_zeros(len(features), 0)
        return self.head(features), none if self.concepts is None else self.concepts(features)


def by_plane(features: Tensor, n_planes: int) -> Tensor:
    """(N * P, F) -> (N, P, F)."""
    return features.unflatten(0, (-1, n_planes))


def build_network(backbone: Backbone, plan: NetworkPlan, *, seed: int) -> NoduleNetwork:
    """A network around `backbone` (shared, not copied) whose other parts are drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(plan.head, backbone.n_features, plan.dropout)
        pooling = build_pooling(plan.pooling, backbone.n_features)
        concepts = nn.Linear(backbone.n_features, len(plan.concepts)) if plan.concepts else None
    return NoduleNetwork(backbone, head, pooling, concepts).eval()
