"""Several networks of one plan as a single one, whose logit is the mean of theirs.

A linear head on features that stand side by side is the mean of the heads on each, so the joined network is an ordinary
one: it has stages, one feature vector and one head, and is saved, exported and explained like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data_contracts.errors import UsageError
from models.networks.backbones import Backbone, build_backbone
from models.networks.network import NetworkPlan, NoduleNetwork, build_network


class SideBySide(nn.Module):
    """Modules whose outputs stand side by side in the channels; each sees all of the input, or its share of channels.

    Maps (N, C, h, w) -> (N, members * C', h', w').
    """

    def __init__(self, members: Sequence[nn.Module], *, shared_input: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shared_input = shared_input

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs of all members."""
        count = len(self.members)
        parts = (maps,) * count if self.shared_input else maps.chunk(count, dim=1)
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)], dim=1)


class JoinedBackbone(Backbone):
    """Backbones of one name side by side, sharing their tensors: images (N, 3, H, W) -> features (N, members * F)."""

    def __init__(self, members: Sequence[Backbone]) -> None:
        first = members[0]
        width = sum(member.n_features for member in members)
        super().__init__(first.name, [], width, axes=first.axes, channels=first.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(SideBySide([member.stages[stage] for member in members], shared_input=stage == 0))
            for stage in range(len(first.stages))
        )


def build_backbones(name: str, members: int, *, seed: int) -> Backbone:
    """`members` backbones of one name side by side, with random weights; one of them as it is."""
    if members == 1:
        return build_backbone(name, seed=seed)
    return JoinedBackbone([build_backbone(name, seed=seed + member) for member in range(members)])


def join_networks(
    networks: Sequence[NoduleNetwork], plan: NetworkPlan, weights: Sequence[float] | None = None
) -> NoduleNetwork:
    """One network whose logit, and whose every concept, is the mean of those of `networks`.

    weights: what each counts, 1 in all; alike by default.

    Raises
    ------
    UsageError: a head that is not linear, or planes joined by more than their mean: no linear layer is their mean.
    """
    if plan.head != "linear" or plan.pooling != "mean":
        raise UsageError(
            f"several networks with a {plan.head} head and {plan.pooling} pooling are not one network",
            todo="Set head=linear and pooling=mean, or members=1.",
        )
    weights = [1 / len(networks)] * len(networks) if weights is None else weights
    joined = build_network(JoinedBackbone([network.backbone for network in networks]), plan, seed=0)
    with torch.no_grad():
        _mean_layer(joined.head.logit, [network.head.logit for network in networks], weights)
        if joined.concepts is not None:
            layers = [network.concepts for network in networks if network.concepts is not None]
            _mean_layer(joined.concepts, layers, weights)
    return joined.eval()


def blend_concepts(network: NoduleNetwork, weights: Sequence[float]) -> None:
    """Change the logit of a linear head, in place, to weights[0] * logit + weights[1:] * logits of the concepts.

    Raises
    ------
    UsageError: a head that is not linear, or weights for other than the network's concepts.
    """
    concepts = network.concepts
    if network.head.kind != "linear" or concepts is None or len(weights) != 1 + concepts.out_features:
        raise UsageError("concepts are blended into a linear head, one weight each", todo="Set head=linear.")
    share = torch.tensor(weights[1:], dtype=concepts.weight.dtype)
    with torch.no_grad():
        layer = network.head.logit
        layer.weight.mul_(weights[0]).add_((share @ concepts.weight)[None])
        layer.bias.mul_(weights[0]).add_(share @ concepts.bias)


def _mean_layer(layer: nn.Linear, members: Sequence[nn.Linear], weights: Sequence[float]) -> None:
    shares = list(zip(weights, members, strict=True))
    layer.weight.copy_(torch.cat([weight * member.weight for weight, member in shares], dim=1))
    layer.bias.copy_(torch.stack([weight * member.bias for weight, member in shares]).sum(dim=0))
