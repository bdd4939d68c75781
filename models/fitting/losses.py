"""What a fit steps on: classification, concepts, masks, and the pull between two sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from data_contracts.params import TrainParams
from models.adaptation.adversary import reversal_strength
from models.adaptation.base import DomainOutputs
from models.compression.distillation import distillation_loss
from models.fitting.learner import Learner
from models.fitting.mask_head import known_masks


@dataclass(frozen=True)
class Batch:
    """Source inputs, their targets (B,), weights (B,), auxiliary targets (B, k) if any; target-site inputs if any.

    from_target: (B,) of labelled patches, which of them are the target site's; None where none is.
    taught: logits (B,) of a teacher, if any.
    masks: (B, c, S, S), share of the readers whose outline covers a pixel, NaN where nobody outlined; None where off.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    auxiliary: Tensor | None = None
    target_inputs: Tensor | None = None
    from_target: Tensor | None = None
    taught: Tensor | None = None
    masks: Tensor | None = None


@dataclass(frozen=True)
class Totals:
    """What the sums over one step's patches are divided by, so that batches joined into a step give its exact mean.

    source, target: sum of the weights of labelled patches of the source, and of the target site in joint training.
    concepts: sum of the weights of known auxiliary targets. batches: how many are joined. masks: patches with a mask.
    """

    source: float
    target: float = 0.0
    concepts: float = 0.0
    batches: int = 1
    masks: int = 0


@dataclass(frozen=True)
class Losses:
    """The total to step on, and its parts as numbers; figures: of the adaptation, such as domain_accuracy."""

    total: Tensor
    classification: float
    concepts: float | None = None
    adaptation: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    masks: float | None = None

    def not_finite(self) -> str:
        """Which part is not a finite number; empty where all are."""
        parts = {"classification": self.classification, "concepts": self.concepts, "masks": self.masks}
        parts["adaptation"] = self.adaptation
        broken = [name for name, value in parts.items() if value is not None and not abs(value) < float("inf")]
        return ", ".join(broken) or ("" if bool(torch.isfinite(self.total)) else "total")


def totals_of(
    weights: Tensor,
    from_target: Tensor | None,
    auxiliary: Tensor | None,
    concept_weights: Tensor | None,
    batches: int,
) -> Totals:
    """The totals of one step from its patches' weights (n,), sites (n,) and auxiliary targets (n, k)."""
    target = 0.0 if from_target is None else float(weights[from_target].sum())
    source = float(weights.sum()) if from_target is None else float(weights[~from_target].sum())
    known = 0.0 if auxiliary is None else float(_known(auxiliary, concept_weights).sum())
    return Totals(source, target, known, batches)


def batch_losses(
    learner: Learner,
    batch: Batch,
    params: TrainParams,
    progress: float,
    concept_weights: Tensor | None = None,
    totals: Totals | None = None,
) -> Losses:
    """This batch's part of its step.

    classification + auxiliary_weight * concepts + mask_weight * masks + adaptation_weight * adaptation.

    With labelled patches of the target, classification is J = J_source + beta J_target, each a mean over its own
    patches, beta = target_label_weight * lambda(p). Of several batches in a step the adaptation's losses are averaged:
    they are statistics of a batch, not sums over patches.

    totals: of the step; of this batch alone where None.
    """
    if totals is None:
        totals = totals_of(batch.weights, batch.from_target, batch.auxiliary, concept_weights, 1)
        totals = replace(totals, masks=0 if batch.masks is None else known_masks(batch.masks))
    features, mask_logits = learner.source_features(batch.inputs)
    representation = learner.head.represent(features)
    logit = learner.head.classify(representation)
    classification = _classification(logit, batch, params, progress, totals)
    if batch.taught is not None:
        share, everyone = params.distillation_weight, totals.source + totals.target
        soft = distillation_loss(logit, batch.taught, params.distillation_temperature, batch.weights, everyone)
        classification = (1 - share) * classification + share * soft
    total, read, outlined = classification, None, None
    if learner.concepts is not None and batch.auxiliary is not None:
        concepts = masked_cross_entropy(learner.concepts(features), batch.auxiliary, concept_weights, totals.concepts)
        total = total + params.auxiliary_weight * concepts
        read = float(concepts.detach())
    if mask_logits is not None and batch.masks is not None:
        pixels = batch.masks[0].numel()
        masks = masked_cross_entropy(mask_logits.flatten(1), batch.masks.flatten(1), total=totals.masks * pixels)
        total = total + params.mask_weight * masks
        outlined = float(masks.detach())
    if learner.adaptation is None or batch.target_inputs is None:
        return Losses(total, float(classification.detach()), read, masks=outlined)
    target_representation = learner.head.represent(learner.target_features(batch.target_inputs))
    source = DomainOutputs(batch.inputs, representation, logit, batch.weights)
    target = DomainOutputs(batch.target_inputs, target_representation, learner.head.classify(target_representation))
    loss, figures = learner.adaptation(source, target, batch.targets, progress)
    loss = loss / totals.batches
    total = total + params.adaptation_weight * loss
    return Losses(total, float(classification.detach()), read, float(loss.detach()), figures, outlined)


def joined(parts: Sequence[Losses]) -> Losses:
    """The losses of a step from those of its batches."""
    return Losses(
        torch.stack([part.total.detach() for part in parts]).sum(),
        sum(part.classification for part in parts),
        _sum_of_known([part.concepts for part in parts]),
        _sum_of_known([part.adaptation for part in parts]),
        {name: sum(part.figures[name] for part in parts) / len(parts) for name in parts[0].figures},
        _sum_of_known([part.masks for part in parts]),
    )


def _sum_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _classification(logit: Tensor, batch: Batch, params: TrainParams, progress: float, totals: Totals) -> Tensor:
    smoothing = params.label_smoothing
    if batch.from_target is None:
        return weighted_cross_entropy(logit, batch.targets, batch.weights, smoothing, totals.source)
    beta = params.target_label_weight * reversal_strength(progress, params.adaptation_gamma)
    loss = logit.sum() * 0
    for rows, factor, total in ((~batch.from_target, 1.0, totals.source), (batch.from_target, beta, totals.target)):
        if bool(rows.any()):
            part = weighted_cross_entropy(logit[rows], batch.targets[rows], batch.weights[rows], smoothing, total)
            loss = loss + factor * part
    return loss


def weighted_cross_entropy(
    logit: Tensor, target: Tensor, weight: Tensor, smoothing: float = 0.0, total: float | None = None
) -> Tensor:
    """Weighted mean cross-entropy of logits (B,) with targets (B,) in 0..1; `total`: divided by in place of the sum."""
    smoothed = target * (1 - smoothing) + 0.5 * smoothing
    loss = functional.binary_cross_entropy_with_logits(logit, smoothed, reduction="none")
    return (loss * weight).sum() / (weight.sum() if total is None else total)


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, total: float | None = None
) -> Tensor:
    """Mean cross-entropy of (B, k) logits with targets in 0..1 where they are known (not NaN); 0 where none is.

    weights: (k,), how much each of the k counts; alike where None. total: divided by in place of the sum of weights.
    """
    known = _known(targets, weights)
    filled = torch.where(torch.isnan(targets), 0.5, targets)
    loss = functional.binary_cross_entropy_with_logits(logits, filled, reduction="none")
    divisor = float(known.sum()) if total is None else total
    return (loss * known).sum() / max(divisor, 1e-12)


def _known(targets: Tensor, weights: Tensor | None) -> Tensor:
    known = (~torch.isnan(targets)).to(torch.float32)
    return known if weights is None else known * weights


def class_balance(targets: Tensor) -> Tensor:
    """Weights (n,) that let both classes count alike; a soft target counts as its share of each; at most 5 to 1."""
    share = float(targets.mean().clamp(1 / 6, 5 / 6))
    return targets * (0.5 / share) + (1 - targets) * (0.5 / (1 - share))
