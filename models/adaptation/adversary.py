"""Domain-adversarial training (Ganin et al. 2016, JMLR 17:59): gradient reversal, its schedule, the discriminator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.adaptation.base import Adaptation, DomainOutputs


class GradientReversal(torch.autograd.Function):
    """Identity forwards; backwards the gradient times -lambda."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        """The values themselves."""
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """-lambda times the gradient; none for lambda."""
        return -ctx.strength * gradient, None


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """`values`, whose gradient comes back multiplied by -strength."""
    reversed_values: Tensor = GradientReversal.apply(values, strength)
    return reversed_values


def reversal_strength(progress: float, gamma: float) -> float:
    """lambda(p) = 2 / (1 + exp(-gamma p)) - 1 for p in [0, 1]: 0 at the start, near 1 at the end."""
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


class DomainDiscriminator(nn.Module):
    """Representation (N, F) -> logit (N,) of "comes from the target": F-width-width-1 with ReLU and dropout."""

    def __init__(self, n_features: int, width: int = 1024, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def forward(self, representation: Tensor) -> Tensor:
        """Logit (N,)."""
        return self.layers(representation)[:, 0]


def discriminator_width(n_patches: int) -> int:
    """1024 as published, 256 below two thousand patches, where the wide one learns them by heart."""
    return 1024 if n_patches >= 2000 else 256


def domain_loss(discriminator: nn.Module, source: Tensor, target: Tensor, strength: float) -> tuple[Tensor, float]:
    """Cross-entropy of the discriminator on reversed representations, and its accuracy.

    The discriminator learns at full rate; only what flows back into the extractor is scaled.
    """
    joined = reverse_gradient(torch.cat([source, target]), strength)
    is_target = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).to(joined.device)
    logit = discriminator(joined)
    if logit.ndim > 1:
        logit = logit[:, 0]
    accuracy = float(((logit.detach() > 0) == (is_target > 0.5)).float().mean())
    return functional.binary_cross_entropy_with_logits(logit, is_target), accuracy


class DomainAdversarial(Adaptation):
    """DANN (Ganin et al. 2016): a discriminator of the representations, whose reversed gradient the extractor gets."""

    def __init__(self, width: int, n_patches: int, gamma: float) -> None:
        super().__init__()
        self.discriminator = DomainDiscriminator(width, discriminator_width(n_patches))
        self.gamma = gamma

    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The discriminator's cross-entropy; lambda(p) scales what flows back, never the discriminator's own rate."""
        strength = reversal_strength(progress, self.gamma)
        loss, accuracy = domain_loss(self.discriminator, source.representation, target.representation, strength)
        return loss, {"domain_accuracy": accuracy}
