"""Conditional adversarial adaptation (Long et al. 2018, NeurIPS): CDAN, and CDAN+E with entropy weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.adaptation.adversary import DomainDiscriminator, discriminator_width, reversal_strength, reverse_gradient
from models.adaptation.base import Adaptation, DomainOutputs
from models.adaptation.classes import entropy_weights, two_class_logits

#: A wider product of representation and classes is replaced by a randomised map so wide (Long et al. 2018, equation 8;
#: 4096 is their limit, 1024 the width of their experiments).
LARGEST_PRODUCT = 4096
RANDOM_WIDTH = 1024


class MultilinearMap(nn.Module):
    """Representations (..., N, F) and class logits (..., N, C) -> what CDAN's discriminator sees, (..., N, width).

    The outer product of representation and class probabilities where F * C is at most 4096, else the randomised map
    (R_f f * R_g g) / sqrt(width), whose two matrices are drawn once, are saved with the module, and never learn.
    No gradient flows through the class probabilities.
    """

    random_features: Tensor
    random_classes: Tensor

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.randomised = n_features * n_classes > LARGEST_PRODUCT
        self.width = RANDOM_WIDTH if self.randomised else n_features * n_classes
        if self.randomised:
            self.register_buffer("random_features", torch.randn(n_features, self.width))
            self.register_buffer("random_classes", torch.randn(n_classes, self.width))

    def forward(self, representation: Tensor, logits: Tensor) -> Tensor:
        """(..., N, width); value f * C + c of the outer product belongs to feature f and class c."""
        probabilities = functional.softmax(logits.detach(), dim=-1)
        if self.randomised:
            product = (representation @ self.random_features) * (probabilities @ self.random_classes)
            return product / math.sqrt(self.width)
        return (representation[..., :, None] * probabilities[..., None, :]).flatten(-2)


def conditional_domain_loss(
    discriminator: nn.Module, source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor] | None, strength: float
) -> tuple[Tensor, float]:
    """Weighted cross-entropy of the discriminator on reversed maps (..., N, width), and its accuracy.

    weights: of source and target, each (..., N) with mean 1 over N; alike where None. Both domains count alike,
    whatever their N. `strength` scales what flows back into the extractor, never the discriminator's own rate.
    """
    losses, right = [], []
    for values, is_target in ((source, 0.0), (target, 1.0)):
        logit = discriminator(reverse_gradient(values, strength))
        weight = None if weights is None else weights[int(is_target)]
        truth = torch.full_like(logit, is_target)
        losses.append(functional.binary_cross_entropy_with_logits(logit, truth, weight=weight))
        right.append(((logit.detach() > 0) == (is_target > 0.5)).float().flatten())
    return (losses[0] + losses[1]) / 2, float(torch.cat(right).mean())


class ConditionalAdversarial(Adaptation):
    """CDAN: a discriminator of representation x classes, reversed into the extractor; CDAN+E with `entropy`."""

    def __init__(self, width: int, n_patches: int, gamma: float, *, entropy: bool) -> None:
        super().__init__()
        self.map = MultilinearMap(width, 2)
        self.discriminator = DomainDiscriminator(self.map.width, discriminator_width(n_patches))
        self.gamma = gamma
        self.entropy = entropy

    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The discriminator's cross-entropy; lambda(p) scales what flows back."""
        classes = [two_class_logits(outputs.logit) for outputs in (source, target)]
        loss, accuracy = conditional_domain_loss(
            self.discriminator,
            self.map(source.representation, classes[0]),
            self.map(target.representation, classes[1]),
            (entropy_weights(classes[0]), entropy_weights(classes[1])) if self.entropy else None,
            reversal_strength(progress, self.gamma),
        )
        return loss, {"domain_accuracy": accuracy}
