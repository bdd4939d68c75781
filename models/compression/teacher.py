"""A fitted network that teaches another: its logits on the very patches, augmented alike, that the student sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from models.augmentation.style import is_styled, variant_count
from models.fitting.frozen_prefix import EpochInputs, PatchInputs
from models.networks.inputs import axes_of, plane_count
from models.networks.network import NoduleNetwork, Trunk


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network and what it expects of a patch."""

    network: NoduleNetwork
    spec: InputSpec

    def check(self, spec: InputSpec, params: TrainParams) -> None:
        """Raises UsageError where it cannot teach a student that sees `spec`."""
        ours, theirs = ((part.kind, tuple(part.patch_shape), part.value_unit) for part in (self.spec, spec))
        if ours != theirs:
            raise UsageError("the teacher was trained on patches of another kind", where="teacher")
        if (plane_count(self.spec), axes_of(self.spec)) != (plane_count(spec), axes_of(spec)):
            raise UsageError(
                "teacher and student see a patch as planes and as a volume", where="teacher", todo="Set volumetric."
            )
        if params.members > 1:
            raise UsageError("several members cannot be taught at once", where="teacher", todo="Set members=1.")
        if params.adaptation:
            raise UsageError(
                "a student learns from its teacher or adapts to a site, not both", where="teacher", todo="Choose one."
            )

    def digest(self) -> str:
        """sha256 over its tensors and its specification."""
        total = hashlib.sha256(self.spec.model_dump_json().encode())
        for name, value in sorted(self.network.state_dict().items()):
            total.update(name.encode())
            total.update(memoryview(value.contiguous().numpy().reshape(-1).view(np.uint8)))
        return total.hexdigest()


class TeacherInputs:
    """The teacher before the patches that a student is fitted on.

    frozen: whether the student has frozen stages, whose outputs are kept for a number of augmented variants; the
        teacher's features of the same variants are kept then, too.
    """

    def __init__(self, teacher: Teacher, patches: NDArray[np.generic], params: TrainParams, *, frozen: bool) -> None:
        network = teacher.network.eval().requires_grad_(False)
        stages = nn.Sequential(*network.backbone.stages)
        self._trunk = Trunk(stages, network.pooling, plane_count(teacher.spec)).eval()
        self._head = network.head
        self._inputs = PatchInputs(
            patches,
            teacher.spec,
            stages if frozen else None,
            pooled=frozen,
            variants=variant_count(params),
            seed=params.seed,
            noise_std=params.noise,
            styled=is_styled(params),
        )

    def epoch(self, epoch: int, generator: torch.Generator) -> EpochInputs:
        """`batch(index)`: the teacher's logits (B,); `generator` as it was when the student's inputs were drawn."""
        inputs = self._inputs.epoch(epoch, generator)
        return EpochInputs(lambda index: self._logits(inputs.batch(index)))

    def _logits(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._head(self._trunk(inputs))
