"""Losses on the target's predictions alone: minimum class confusion, and batch nuclear-norm maximisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.adaptation.base import Adaptation, DomainOutputs
from models.adaptation.classes import class_entropy, entropy_weights, two_class_logits

#: Jin et al. 2020, section 4.1: the temperature of all their experiments
TEMPERATURE = 2.5


def mcc_loss(logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Minimum class confusion (Jin et al. 2020, ECCV, equations 2 to 6) of logits (N, C).

    Probabilities P at a temperature; samples weighted by how sure they are, W with mean 1; the confusion of classes
    P^T W P with rows that sum to one; the mean over classes of what lies off the diagonal: 0 where every prediction is
    sure, (C - 1) / C where none says anything. A class that no sample has counts for nothing.
    """
    cooled = logits / temperature
    probabilities = functional.softmax(cooled, dim=1)
    confusion = (probabilities * entropy_weights(cooled)[:, None]).T @ probabilities
    confusion = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=torch.finfo(confusion.dtype).tiny)
    return (confusion.sum() - confusion.trace()) / logits.shape[1]


def bnm_loss(logits: Tensor) -> Tensor:
    """Batch nuclear-norm maximisation (Cui et al. 2020, CVPR): -|P|_* / min(N, C), the mean singular value, negated.

    P (N, C) are the class probabilities of logits (N, C). Cui et al. divide by N; for C < N the two differ by the
    factor N / C only. The norm grows where predictions are sure and where they differ from each other.
    """
    return -torch.linalg.svdvals(functional.softmax(logits, dim=1)).mean()


class MinimumClassConfusion(Adaptation):
    """MCC of the target's predictions, at one weight from the first step to the last, as published."""

    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The confusion of the target's two classes; the mean entropy of its predictions for the curve."""
        classes = two_class_logits(target.logit)
        return mcc_loss(classes), {"target_entropy": float(class_entropy(classes.detach()).mean())}
