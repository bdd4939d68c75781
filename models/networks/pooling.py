"""How the planes of a patch become one vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

PoolingKind = Literal["mean", "attention"]
_ATTENTION_WIDTH = 128


class MeanPooling(nn.Module):
    """(N, P, F) -> (N, F), every plane alike."""

    def forward(self, features: Tensor) -> Tensor:
        """The mean over planes."""
        return features.mean(dim=1)


class AttentionPooling(nn.Module):
    """(N, P, F) -> (N, F) by learned weights: gated attention (Ilse, Tomczak & Welling, ICML 2018, equation 9).

    It starts as the mean, so that a fit begins where mean pooling would.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.value = nn.Linear(n_features, _ATTENTION_WIDTH)
        self.gate = nn.Linear(n_features, _ATTENTION_WIDTH)
        self.score = nn.Linear(_ATTENTION_WIDTH, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def weights(self, features: Tensor) -> Tensor:
        """(N, P) that sum to one for each patch."""
        hidden = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        return torch.softmax(self.score(hidden)[..., 0], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """The weighted mean over planes."""
        return (self.weights(features)[..., None] * features).sum(dim=1)


def build_pooling(kind: PoolingKind, n_features: int) -> nn.Module:
    """The pooling called `kind`."""
    return AttentionPooling(n_features) if kind == "attention" else MeanPooling()
