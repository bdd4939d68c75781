"""What a fit steps on: classification, concepts, and the pull between two sites."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from data_contracts.params import TrainParams
from models.adaptation.adversary import reversal_strength
from models.adaptation.base import DomainOutputs
from models.fitting.learner import Learner


@dataclass(frozen=True)
class Batch:
    """Source inputs, their targets (B,), weights (B,), auxiliary targets (B, k) if any; target-site inputs if any.

    from_target: (B,) of labelled patches, which of them are the target site's; None where none is.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    auxiliary: Tensor | None = None
    target_inputs: Tensor | None = None
    from_target: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """The total to step on, and its parts as numbers; figures: of the adaptation, such as domain_accuracy."""

    total: Tensor
    classification: float
    adaptation: float | None = None
    figures: dict[str, float] = field(default_factory=dict)


def batch_losses(
    learner: Learner, batch: Batch, params: TrainParams, progress: float, concept_weights: Tensor | None = None
) -> Losses:
    """classification + auxiliary_weight * concepts + adaptation_weight * adaptation.

    With labelled patches of the target, classification is J = J_source + beta J_target, each a mean over its own
    patches, beta = target_label_weight * lambda(p).
    """
    features = learner.source_features(batch.inputs)
    representation = learner.head.represent(features)
    logit = learner.head.classify(representation)
    classification = _classification(logit, batch, params, progress)
    total = classification
    if learner.concepts is not None and batch.auxiliary is not None:
        concepts = masked_cross_entropy(learner.concepts(features), batch.auxiliary, concept_weights)
        total = total + params.auxiliary_weight * concepts
    if learner.adaptation is None or batch.target_inputs is None:
        return Losses(total, float(classification.detach()))
    target_representation = learner.head.represent(learner.target_features(batch.target_inputs))
    source = DomainOutputs(batch.inputs, representation, logit)
    target = DomainOutputs(batch.target_inputs, target_representation, learner.head.classify(target_representation))
    loss, figures = learner.adaptation(source, target, batch.targets, progress)
    total = total + params.adaptation_weight * loss
    return Losses(total, float(classification.detach()), float(loss.detach()), figures)


def _classification(logit: Tensor, batch: Batch, params: TrainParams, progress: float) -> Tensor:
    smoothing = params.label_smoothing
    if batch.from_target is None:
        return weighted_cross_entropy(logit, batch.targets, batch.weights, smoothing)
    beta = params.target_label_weight * reversal_strength(progress, params.adaptation_gamma)
    total = logit.sum() * 0
    for rows, factor in ((~batch.from_target, 1.0), (batch.from_target, beta)):
        if bool(rows.any()):
            part = weighted_cross_entropy(logit[rows], batch.targets[rows], batch.weights[rows], smoothing)
            total = total + factor * part
    return total


def weighted_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Weighted mean cross-entropy of logits (B,) with targets (B,) in 0..1."""
    smoothed = target * (1 - smoothing) + 0.5 * smoothing
    loss = functional.binary_cross_entropy_with_logits(logit, smoothed, reduction="none")
    return (loss * weight).sum() / weight.sum()


def masked_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (B, k) logits with targets in 0..1 where they are known (not NaN); 0 where none is.

    weights: (k,), how much each of the k counts; alike where None.
    """
    known = (~torch.isnan(targets)).to(logits.dtype)
    if weights is not None:
        known = known * weights
    filled = torch.where(torch.isnan(targets), 0.5, targets)
    loss = functional.binary_cross_entropy_with_logits(logits, filled, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1e-12)


def class_balance(targets: Tensor) -> Tensor:
    """Weights (n,) that let both classes count alike; a soft target counts as its share of each; at most 5 to 1."""
    share = float(targets.mean().clamp(1 / 6, 5 / 6))
    return targets * (0.5 / share) + (1 - targets) * (0.5 / (1 - share))
