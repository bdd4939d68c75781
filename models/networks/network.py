"""The classifier: one backbone shared by all planes, the mean over planes, and a head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError
from models.networks.backbones import Backbone
from models.networks.inputs import as_batch

HeadKind = Literal["linear", "mlp"]
MLP_WIDTH = 512


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


class NoduleNetwork(nn.Module):
    """Images (N, P, 3, S, S) -> logit (N,) of malignancy."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logit (N,)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Features (N, F): the mean over the planes of a patch."""
        return mean_over_planes(self.backbone(as_batch(images)), images.shape[1])


def mean_over_planes(features: Tensor, n_planes: int) -> Tensor:
    """(N * P, F) -> (N, F)."""
    return features.reshape(-1, n_planes, features.shape[-1]).mean(dim=1)


def build_network(backbone: Backbone, head: HeadKind, dropout: float, *, seed: int) -> NoduleNetwork:
    """A network around `backbone` (shared, not copied) whose head is drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = Head(head, backbone.n_features, dropout)
    return NoduleNetwork(backbone, built).eval()
