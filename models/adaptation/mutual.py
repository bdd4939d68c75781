"""Mutual training: two networks teach each other on the target, and only where both are sure the same label."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.adaptation.adversary import reversal_strength
from models.adaptation.base import Adaptation, DomainOutputs
from models.adaptation.statistics import freeze_statistics, held_statistics
from models.networks.network import Head, Trunk

#: both networks must be so sure of a class before it becomes a label
CONFIDENCE = 0.9


def kl_from(teacher: Tensor, learner: Tensor) -> Tensor:
    """Mean KL(teacher || learner) in nats of logits (N,), the teacher fixed (Zhang et al. 2018, CVPR, equation 2)."""
    teacher = teacher.detach()
    p = torch.sigmoid(teacher)
    malignant = p * (functional.logsigmoid(teacher) - functional.logsigmoid(learner))
    benign = (1 - p) * (functional.logsigmoid(-teacher) - functional.logsigmoid(-learner))
    return (malignant + benign).mean()


def agreed_labels(one: Tensor, other: Tensor, confidence: float = CONFIDENCE) -> tuple[Tensor, Tensor]:
    """(labels (N,) in {0, 1}, gate (N,) in {0, 1}) of two networks' logits (N,); no gradient flows through either.

    The gate is open where both give the same class a probability of at least `confidence`.
    """
    p, q = torch.sigmoid(one.detach()), torch.sigmoid(other.detach())
    malignant = (p >= confidence) & (q >= confidence)
    benign = (p <= 1 - confidence) & (q <= 1 - confidence)
    return malignant.to(one.dtype), (malignant | benign).to(one.dtype)


class MutualTraining(Adaptation):
    """Deep mutual learning (Zhang et al. 2018) between sites, with the agreement gate of co-training.

    The peer starts from the same stages with another head, learns the source's labels beside the network that is
    kept, and is thrown away. On the target each learns the other's probabilities (KL) and, where both are sure of the
    same class, that class as a label; both terms grow with lambda(p).

    Parameters
    ----------
    trunk, head: of the network that is kept; copied here. The copied head is drawn anew from torch's generator.
    frozen: BatchNorm of the peer keeps its statistics.
    statistics_from: whose patches move them where they are not frozen: joint, source or target.
    """

    def __init__(self, trunk: Trunk, head: Head, gamma: float, *, frozen: bool, statistics_from: str) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(trunk).requires_grad_(True)
        self.head = copy.deepcopy(head).requires_grad_(True)
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        self.gamma = gamma
        self.frozen = frozen
        self.statistics_from = statistics_from

    def train(self, mode: bool = True) -> MutualTraining:
        """Training mode; frozen statistics stay."""
        super().train(mode)
        if mode and self.frozen:
            freeze_statistics(self.trunk)
        return self

    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """What the peer learns on the source, and lambda(p) times KL both ways and the agreed labels' cross-entropy."""
        peer_source = self._logit(source.inputs, held=self.statistics_from == "target")
        peer_target = self._logit(target.inputs, held=self.statistics_from == "source")
        taught = functional.binary_cross_entropy_with_logits(peer_source, source_targets, reduction="none")
        weights = torch.ones_like(taught) if source.weights is None else source.weights
        supervised = (taught * weights).sum() / weights.sum()
        labels, gate = agreed_labels(target.logit, peer_target)
        divergence = kl_from(peer_target, target.logit) + kl_from(target.logit, peer_target)
        agreed = sum(
            functional.binary_cross_entropy_with_logits(logit, labels, weight=gate)
            for logit in (target.logit, peer_target)
        )
        strength = reversal_strength(progress, self.gamma)
        figures = {"agreed_share": float(gate.mean()), "peer_divergence": float(divergence.detach()) / 2}
        return supervised + strength * (divergence + agreed), figures

    def _logit(self, inputs: Tensor, *, held: bool) -> Tensor:
        with held_statistics(self.trunk, held=held):
            return self.head(self.trunk(inputs))
