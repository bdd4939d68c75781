"""What every adaptation is: a loss over one batch of the source and one of the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class DomainOutputs:
    """What a network makes of the patches of one site.

    Attributes
    ----------
    inputs: what the learning stages saw, (B * P, C, h, w), or features (B, F).
    representation: (B, F), what an adversary looks at.
    logit: (B,), of malignant.
    weights: (B,), how much each patch counts where its label is learned; alike where None.
    """

    inputs: Tensor
    representation: Tensor
    logit: Tensor
    weights: Tensor | None = None


class Adaptation(nn.Module, ABC):
    """A loss that pulls source and target together; its own parameters, if any, learn beside the network's."""

    @abstractmethod
    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss to add, ramped where its paper does, and figures for the learning curve ("domain_accuracy", ...).

        source_targets: (B,) in 0..1, labels of the source batch. progress: p in 0..1, the share of the fit done.
        """
