"""The steps of an epoch and their batches: half source, half target where there is an adaptation, alike for a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from models.adaptation.methods import WITHOUT_LOSS
from models.augmentation.style import is_styled, variant_count
from models.compression.teacher import TeacherInputs
from models.fitting.data import FitData, LabelledPatches
from models.fitting.frozen_prefix import EpochInputs, PatchInputs
from models.fitting.losses import Batch, Totals, class_balance, totals_of
from models.fitting.shuffled import Shuffled


class Batches:
    """What a fit learns from, as tensors.

    Parameters
    ----------
    train: the rows of `data.train` that have a target.
    prefix: the frozen stages, None where every stage learns.
    """

    def __init__(
        self, data: FitData, train: LabelledPatches, spec: InputSpec, prefix: nn.Sequential | None, params: TrainParams
    ) -> None:
        self._params = params

        def inputs(
            patches: np.ndarray,
            variants: int,
            seed: int,
            features: np.ndarray | None = None,
            masks: np.ndarray | None = None,
        ) -> PatchInputs:
            pooled = params.unfreeze == 0
            known = features if pooled and variants == 1 else None
            options = {"pooled": pooled, "variants": variants, "seed": seed, "noise_std": params.noise}
            return PatchInputs(patches, spec, prefix, features=known, styled=is_styled(params), masks=masks, **options)

        outlined = train.masks if params.mask_weight > 0 else None
        self._outlined = None if outlined is None else outlined.reshape(len(outlined), -1).any(axis=1)
        self._source = inputs(train.patches, variant_count(params), params.seed, train.features, outlined)
        self._teacher: TeacherInputs | None = None
        if data.teacher is not None:
            data.teacher.check(spec, params)
            self._teacher = TeacherInputs(data.teacher, train.patches, params, frozen=prefix is not None)
        self._target: PatchInputs | None = None
        if data.target is not None and set(params.adaptation) - set(WITHOUT_LOSS):
            self._target = inputs(data.target, variant_count(params), params.seed + 1)
        self._targets = torch.from_numpy(train.targets(params.soft_label_weight))
        self._weights = class_balance(self._targets)
        if params.class_weights != "balanced":  # "size" came with the weights of the patches
            self._weights = torch.ones_like(self._targets)
        if train.weights is not None:
            self._weights = self._weights * torch.from_numpy(np.asarray(train.weights, dtype=np.float32))
        self._auxiliary = _tensor(train.auxiliary, np.float32)
        self._from_target = _tensor(train.from_target, np.bool_)
        #: (k,), how much each concept counts; None where none is learned
        self.concept_weights: Tensor | None = None
        if train.auxiliary is not None and data.concepts:
            self.concept_weights = torch.tensor([params.auxiliary_weights.get(name, 1.0) for name in data.concepts])
        known = ~np.isnan(np.asarray(data.validation.labels, dtype=np.float64))
        validation = data.validation.rows(known)
        self.validation = inputs(validation.patches, 1, params.seed, validation.features)
        self.validation_labels = torch.from_numpy(np.asarray(validation.labels, dtype=np.float32))

    def first(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first patches, without augmentation."""
        index = torch.arange(min(len(self._source), self._params.batch_size))
        return self._source.plain().batch(index), self._targets[index]

    def of_epoch(self, epoch: int) -> EpochSteps:
        """All steps of an epoch, each patch of the source in one of them."""
        seed = self._params.seed * 100_003 + epoch
        generator = torch.Generator().manual_seed(seed)
        source = self._source.epoch(epoch, generator)
        taught = None if self._teacher is None else self._teacher.epoch(epoch, torch.Generator().manual_seed(seed))
        target = None if self._target is None else self._target.epoch(epoch, generator)
        size = self._params.batch_size if target is None else max(self._params.batch_size // 2, 1)
        order = torch.randperm(len(self._source), generator=generator)
        rows = _parts(order, size * self._params.accumulate)
        shuffled = Shuffled(0 if self._target is None else len(self._target), generator)
        return EpochSteps(self, rows, source, target, shuffled, size, taught)

    def totals(self, index: Tensor, batches: int) -> Totals:
        """What sums over the patches `index` of one step are divided by."""
        site = None if self._from_target is None else self._from_target[index]
        auxiliary = None if self._auxiliary is None else self._auxiliary[index]
        totals = totals_of(self._weights[index], site, auxiliary, self.concept_weights, batches)
        return totals if self._outlined is None else replace(totals, masks=int(self._outlined[index.numpy()].sum()))

    def batch(
        self,
        index: Tensor,
        inputs: Tensor,
        target_inputs: Tensor | None,
        taught: Tensor | None,
        masks: Tensor | None,
    ) -> Batch:
        """The patches `index` with all that is known of them."""
        return Batch(
            inputs=inputs,
            targets=self._targets[index],
            weights=self._weights[index],
            auxiliary=None if self._auxiliary is None else self._auxiliary[index],
            target_inputs=target_inputs,
            from_target=None if self._from_target is None else self._from_target[index],
            taught=taught,
            masks=masks,
        )


@dataclass(frozen=True)
class Step:
    """The batches that are joined into one step, made as they are asked for, and their totals."""

    totals: Totals
    batches: Iterator[Batch]


class EpochSteps:
    """The steps of one epoch."""

    def __init__(
        self,
        owner: Batches,
        rows: list[Tensor],
        source: EpochInputs,
        target: EpochInputs | None,
        target_order: Shuffled,
        size: int,
        taught: EpochInputs | None,
    ) -> None:
        self._owner = owner
        self._rows = rows
        self._source = source
        self._target = target
        self._target_order = target_order
        self._size = size
        self._taught = taught

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Step]:
        for rows in self._rows:
            parts = _parts(rows, self._size)
            yield Step(self._owner.totals(rows, len(parts)), map(self._batch, parts))

    def _batch(self, index: Tensor) -> Batch:
        target = None if self._target is None else self._target.batch(self._target_order.take(self._size))
        taught = None if self._taught is None else self._taught.batch(index)
        return self._owner.batch(index, self._source.batch(index), target, taught, self._source.masks(index))


def _parts(order: Tensor, size: int) -> list[Tensor]:
    """`size` rows each; a last one by itself, which BatchNorm could not learn from, goes with those before it."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _tensor(values: np.ndarray | None, dtype: type) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.asarray(values, dtype=dtype))
