"""The part of a network that learns in one fit, what stands beside it only while it learns, and its losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_contracts.params import TrainParams
from models.adaptation.adversary import DomainDiscriminator, discriminator_width, domain_loss
from models.networks.backbones import pool
from models.networks.network import Head, mean_over_planes

_BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Learner(nn.Module):
    """Unfrozen stages and head (shared with the network), auxiliary outputs and domain discriminator (not kept)."""

    def __init__(
        self,
        suffix: nn.Sequential,
        head: Head,
        *,
        n_planes: int,
        n_auxiliary: int,
        n_patches: int,
        params: TrainParams,
    ) -> None:
        super().__init__()
        self.suffix = suffix
        self.head = head
        self.n_planes = n_planes
        self.frozen_statistics = params.batchnorm == "frozen"
        #: while learning, the stages are computed in bfloat16 (mixed precision)
        self.bf16 = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed + 1)
            n_features = head.hidden.in_features if head.hidden is not None else head.width
            self.auxiliary = nn.Linear(n_features, n_auxiliary) if n_auxiliary else None
            adversarial = params.adaptation == "dann"
            width = discriminator_width(n_patches)
            self.discriminator = DomainDiscriminator(head.width, width) if adversarial else None

    def train(self, mode: bool = True) -> Learner:
        """Training mode; with frozen statistics BatchNorm keeps the means and variances its weights came with."""
        super().train(mode)
        if mode and self.frozen_statistics:
            for module in self.suffix.modules():
                if isinstance(module, _BATCHNORM):
                    module.eval()
        return self

    @property
    def has_stages(self) -> bool:
        """Whether a stage of the backbone learns."""
        return len(self.suffix) > 0

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, F) of inputs (B * P, C, h, w), or of features themselves where no stage learns."""
        if not self.has_stages:
            return inputs
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
            maps = self.suffix(inputs)
        return mean_over_planes(pool(maps.float()), self.n_planes)

    def kept_state(self) -> dict[str, Tensor]:
        """A copy of what the network keeps: unfrozen stages and head."""
        return {
            name: value.detach().clone()
            for name, value in self.state_dict().items()
            if name.startswith(("suffix.", "head."))
        }

    def parameter_groups(self, params: TrainParams) -> list[dict[str, object]]:
        """Optimiser groups: backbone and the rest at their own rates; biases and BatchNorm without weight decay."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            rate = params.lr_backbone if name.startswith("suffix.") else params.lr_head
            decay = params.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": members, "lr": rate, "weight_decay": decay, "base_lr": rate}
            for (rate, decay), members in groups.items()
        ]


@dataclass(frozen=True)
class Batch:
    """Source inputs, their targets (B,), weights (B,), auxiliary targets (B, k) if any; target-site inputs if any."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    auxiliary: Tensor | None
    target_inputs: Tensor | None


@dataclass(frozen=True)
class Losses:
    """The total to step on, and its parts as numbers."""

    total: Tensor
    classification: float
    domain: float | None
    domain_accuracy: float | None


def batch_losses(learner: Learner, batch: Batch, params: TrainParams, strength: float) -> Losses:
    """classification + auxiliary_weight * auxiliary + dann_weight * domain; `strength` is lambda(p) of the reversal."""
    features = learner.features(batch.inputs)
    representation = learner.head.represent(features)
    logit = learner.head.classify(representation)
    classification = weighted_cross_entropy(logit, batch.targets, batch.weights, params.label_smoothing)
    total = classification
    if learner.auxiliary is not None and batch.auxiliary is not None:
        total = total + params.auxiliary_weight * masked_cross_entropy(learner.auxiliary(features), batch.auxiliary)
    domain: Tensor | None = None
    accuracy: float | None = None
    if learner.discriminator is not None and batch.target_inputs is not None:
        target = learner.head.represent(learner.features(batch.target_inputs))
        domain, accuracy = domain_loss(learner.discriminator, representation, target, strength)
        total = total + params.dann_weight * domain
    return Losses(total, float(classification.detach()), None if domain is None else float(domain.detach()), accuracy)


def weighted_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Weighted mean cross-entropy of logits (B,) with targets (B,) in 0..1."""
    smoothed = target * (1 - smoothing) + 0.5 * smoothing
    loss = functional.binary_cross_entropy_with_logits(logit, smoothed, reduction="none")
    return (loss * weight).sum() / weight.sum()


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (B, k) logits with targets in 0..1 where they are known (not NaN); 0 where none is."""
    known = ~torch.isnan(targets)
    loss = functional.binary_cross_entropy_with_logits(logits, torch.where(known, targets, 0.5), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def class_balance(targets: Tensor) -> Tensor:
    """Weights (n,) that let both classes count alike; a soft target counts as its share of each; at most 5 to 1."""
    share = float(targets.mean().clamp(1 / 6, 5 / 6))
    return targets * (0.5 / share) + (1 - targets) * (0.5 / (1 - share))
