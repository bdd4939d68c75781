"""The part of a network that learns in one fit, and what stands beside it only while it learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data_contracts.params import TrainParams
from models.adaptation.methods import build_adaptation
from models.adaptation.statistics import freeze_statistics, held_statistics
from models.fitting.mask_head import MaskHead
from models.fitting.ranks import Ranks
from models.networks.network import NoduleNetwork, Trunk


class Learner(nn.Module):
    """Unfrozen stages, pooling, head and concepts (shared with the network); an adaptation and a mask head (not kept).

    mask_shape: (c, S) of what a mask head predicts, channels and side in pixels; None where there is none.
    """

    def __init__(
        self,
        network: NoduleNetwork,
        params: TrainParams,
        *,
        n_planes: int,
        n_patches: int,
        mask_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _, suffix = network.backbone.split(params.unfreeze)
        self.trunk = Trunk(suffix, network.pooling, n_planes)
        self.head = network.head
        self.concepts = network.concepts
        self.frozen_statistics = params.batchnorm == "frozen"
        self.statistics_from = params.batchnorm_domain
        #: while learning, the stages are computed in bfloat16 (mixed precision)
        self.bf16 = False
        #: the processes that share the work of the stages
        self.ranks = Ranks()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed + 1)
            self.adaptation = build_adaptation(self.trunk, self.head, n_patches, params)
        self.mask_head: MaskHead | None = None
        if mask_shape is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(params.seed + 2)
                self.mask_head = MaskHead(network.backbone, params.unfreeze, *mask_shape)

    def train(self, mode: bool = True) -> Learner:
        """Training mode; with frozen statistics BatchNorm keeps the means and variances its weights came with."""
        super().train(mode)
        if mode and self.frozen_statistics:
            freeze_statistics(self.trunk)
        return self

    @property
    def has_stages(self) -> bool:
        """Whether a stage of the backbone learns."""
        return len(self.trunk.stages) > 0

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, F) of inputs (B * P, C, h, w), or of features (B, P, F) or (B, F) where no stage learns."""
        return self._passed(inputs)[0]

    def _passed(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of every rank's rows, and this rank's maps behind each stage."""
        n = len(inputs) // self.trunk.n_planes
        shared_out = self.ranks.size > 1 and self.has_stages
        if shared_out:
            rows = self.ranks.share(n)
            inputs = inputs[rows.start * self.trunk.n_planes : rows.stop * self.trunk.n_planes]
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
            features, maps = self.trunk.with_maps(inputs)
        return (self.ranks.gathered(features.float(), n) if shared_out else features.float()), maps

    def source_features(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """`features` of source patches and the logits (B, c, S, S) of their masks, None without a mask head.

        Statistics that are the target's alone do not move.
        """
        with held_statistics(self.trunk, held=self.adaptation is not None and self.statistics_from == "target"):
            features, maps = self._passed(inputs)
        if self.mask_head is None:
            return features, None
        return features, self.mask_head.logits(self.ranks.gathered(self.mask_head(maps), len(features)))

    def target_features(self, inputs: Tensor) -> Tensor:
        """`features` of target patches; statistics that are the source's alone do not move."""
        with held_statistics(self.trunk, held=self.statistics_from == "source"):
            return self.features(inputs)

    def kept_state(self) -> dict[str, Tensor]:
        """A copy of what the network keeps: all but the adaptation and the mask head."""
        return {
            name: value.detach().clone()
            for name, value in self.state_dict().items()
            if not name.startswith(("adaptation.", "mask_head."))
        }
