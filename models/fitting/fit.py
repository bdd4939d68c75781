"""Fitting a classifier: frozen stages cached, the rest trained, the same result whether or not it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from data_contracts.errors import NoduleflowError, UsageError
from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from data_contracts.records import digest_of
from models.adaptation.adversary import reversal_strength
from models.engines.heap import give_back, keep_heap
from models.fitting.data import FitData, LabelledPatches
from models.fitting.frozen_prefix import PatchInputs
from models.fitting.learner import Batch, Learner, batch_losses, class_balance
from models.fitting.precision import bf16_agrees, wants_bf16
from models.fitting.schedule import Shuffled, rate_factor
from models.fitting.state import EpochRecord, FitState, load_state, optimizer_tensors, restore_optimizer, save_state
from models.networks.backbones import Backbone, state_digest
from models.networks.inputs import plane_count
from models.networks.network import NoduleNetwork, build_network

#: Fewer patches of a class than this, and the validation loss chooses the epoch instead of the AUC.
_FEWEST_FOR_AUC = 5
_EVALUATION_BATCH = 64


@dataclass(frozen=True, eq=False)
class FitResult:
    """The fitted network in evaluation mode, every epoch's record, and the epoch whose weights were kept.

    precision: what the learning stages were computed in, and why.
    """

    network: NoduleNetwork
    history: tuple[EpochRecord, ...]
    best_epoch: int
    precision: str = "fp32"


def fit_classifier(
    data: FitData,
    params: TrainParams,
    spec: InputSpec,
    backbone: Backbone,
    *,
    state_dir: Path | None = None,
    state_every_s: float = 0.0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> FitResult:
    """Fit head and last `params.unfreeze` stages of `backbone`, whose tensors are changed in place.

    The weights of the epoch with the best validation AUC (loss, where a class is rare) are kept and
    the fit stops after `params.patience` epochs without a better one. With adaptation the last epoch
    is kept: labels of the source say nothing on how far the target has been aligned, and the
    schedule lambda(p) needs its whole length.

    Parameters
    ----------
    state_dir: a folder for the state after each epoch; a fit of the same data, parameters and initial
        weights goes on from it and ends with the same weights, bit for bit.
    state_every_s: save no more often than this; a kill then costs so much work and the epoch it falls into.
    on_epoch: called after every epoch, and after its state was saved where it was.

    Raises
    ------
    NothingUsableError: training patches of one class only.
    UsageError: adaptation without patches of the target, or nothing in the network that it could change.
    NoduleflowError: a loss that is not finite, with its epoch and batch.
    """
    data.check()
    _check_adaptation(data, params)
    keep_heap()
    try:
        with _threads(params.threads):
            return _Fit(data, params, spec, backbone, state_dir, state_every_s).run(on_epoch)
    finally:
        give_back()


def _check_adaptation(data: FitData, params: TrainParams) -> None:
    if params.adaptation == "none":
        return
    if data.target is None or len(data.target) == 0:
        raise UsageError(
            f"adaptation {params.adaptation!r} needs unlabelled patches of a target site",
            todo="Set target_site, or adaptation=none.",
        )
    if params.unfreeze == 0 and params.head == "linear":
        raise UsageError("nothing can adapt: a linear head on frozen features", todo="Set unfreeze=1 or head=mlp.")


class _Fit:
    def __init__(
        self,
        data: FitData,
        params: TrainParams,
        spec: InputSpec,
        backbone: Backbone,
        state_dir: Path | None,
        state_every_s: float,
    ) -> None:
        self.params = params
        self.state_dir = state_dir
        self.state_every_s = state_every_s
        self.digest = "" if state_dir is None else _digest(data, params, spec, backbone)
        train = data.train.rows(~np.isnan(data.train.targets(params.soft_label_weight)))
        prefix, suffix = backbone.split(params.unfreeze)
        prefix.requires_grad_(False)
        suffix.requires_grad_(True)
        self.network = build_network(backbone, params.head, params.dropout, seed=params.seed)
        auxiliary = train.auxiliary if params.auxiliary_weight > 0 else None
        self.learner = Learner(
            suffix,
            self.network.head,
            n_planes=plane_count(spec),
            n_auxiliary=0 if auxiliary is None else auxiliary.shape[1],
            n_patches=len(train) + (0 if data.target is None else len(data.target)),
            params=params,
        )
        self.optimizer = torch.optim.AdamW(self.learner.parameter_groups(params))

        def inputs(patches: np.ndarray, variants: int, seed: int, features: np.ndarray | None = None) -> PatchInputs:
            frozen = prefix if len(prefix) else None
            pooled = len(suffix) == 0
            known = features if pooled and variants == 1 else None
            options = {"pooled": pooled, "variants": variants, "seed": seed, "noise_std": params.noise}
            return PatchInputs(patches, spec, frozen, features=known, **options)

        self.train_inputs = inputs(train.patches, params.augmentations, params.seed, train.features)
        self.target_inputs: PatchInputs | None = None
        if params.adaptation != "none" and data.target is not None:
            self.target_inputs = inputs(data.target, params.augmentations, params.seed + 1)
        known = ~np.isnan(np.asarray(data.validation.labels, dtype=np.float64))
        validation = data.validation.rows(known)
        self.validation_inputs = inputs(validation.patches, 1, params.seed, validation.features)
        self.validation_labels = torch.from_numpy(np.asarray(validation.labels, dtype=np.float32))
        self.targets, self.weights = _targets_and_weights(train, params)
        self.auxiliary = None if auxiliary is None else torch.from_numpy(np.asarray(auxiliary, dtype=np.float32))

        self.precision = self._chosen_precision()

    def _chosen_precision(self) -> str:
        """Switch the learner to bf16 where that is wanted and agrees; decided by the first weights, so always alike."""
        wanted, why = wants_bf16(self.params.precision, learns=self.learner.has_stages)
        if wanted and self.params.precision == "auto":
            index = torch.arange(min(len(self.train_inputs), self.params.batch_size))
            inputs = self.train_inputs.plain().batch(index)
            wanted, why = bf16_agrees(self.learner, inputs, self.targets[index])
        self.learner.bf16 = wanted
        return f"{'bf16' if wanted else 'fp32'}: {why}"

    def run(self, on_epoch: Callable[[EpochRecord], None] | None) -> FitResult:
        state = self._resumed()
        saved_at_s = time.monotonic()
        while not self._finished(state):
            record = self._epoch(len(state.history))
            state.history.append(record)
            if self._is_best(state):
                state.best_epoch = record.epoch
                state.best = self.learner.kept_state()
            if self.state_dir is not None and time.monotonic() - saved_at_s >= self.state_every_s:
                saved_at_s = time.monotonic()
                state.learner = self.learner.state_dict()
                state.optimizer = optimizer_tensors(self.optimizer)
                save_state(self.state_dir, self.digest, state)
            if on_epoch is not None:
                on_epoch(record)
        self.learner.load_state_dict(state.best, strict=False)
        best = 0 if state.best_epoch is None else state.best_epoch
        return FitResult(self.network.eval(), tuple(state.history), best, self.precision)

    def _resumed(self) -> FitState:
        state = None if self.state_dir is None else load_state(self.state_dir, self.digest)
        if state is None:
            return FitState()
        self.learner.load_state_dict(state.learner)
        restore_optimizer(self.optimizer, state.optimizer)
        return state

    def _finished(self, state: FitState) -> bool:
        done = len(state.history)
        if done >= self.params.epochs:
            return True
        return state.best_epoch is not None and done - 1 - state.best_epoch >= self.params.patience

    def _is_best(self, state: FitState) -> bool:
        """Whether the last epoch of the history is the one to keep so far."""
        last = state.history[-1]
        if state.best_epoch is None or last.validation_loss is None or self.params.adaptation != "none":
            return True
        best = state.history[state.best_epoch]
        assert best.validation_loss is not None
        if last.validation_auc is None or best.validation_auc is None:
            return last.validation_loss < best.validation_loss
        return (last.validation_auc, -last.validation_loss) > (best.validation_auc, -best.validation_loss)

    def _epoch(self, epoch: int) -> EpochRecord:
        params = self.params
        generator = torch.Generator().manual_seed(params.seed * 100_003 + epoch)
        source = self.train_inputs.epoch(epoch, generator)
        target = None if self.target_inputs is None else self.target_inputs.epoch(epoch, generator)
        half = params.batch_size if target is None else max(params.batch_size // 2, 1)
        order = torch.randperm(len(self.train_inputs), generator=generator)
        batches = [index for index in order.split(half) if len(index) > 1 or len(order) == 1]
        target_order = Shuffled(0 if self.target_inputs is None else len(self.target_inputs), generator)
        totals: list[tuple[float, float, float | None, float | None]] = []
        self.learner.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed * 100_003 + epoch)
            for number, index in enumerate(batches):
                progress = (epoch + number / len(batches)) / params.epochs
                rate = rate_factor(epoch + number / len(batches), params)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["base_lr"] * rate
                batch = Batch(
                    inputs=source.batch(index),
                    targets=self.targets[index],
                    weights=self.weights[index],
                    auxiliary=None if self.auxiliary is None else self.auxiliary[index],
                    target_inputs=None if target is None else target.batch(target_order.take(half)),
                )
                losses = batch_losses(self.learner, batch, params, reversal_strength(progress, params.dann_gamma))
                if not bool(torch.isfinite(losses.total)):
                    raise NoduleflowError(
                        "the loss is not finite",
                        where=f"epoch {epoch}, batch {number}",
                        todo="Lower lr_head and lr_backbone, or look for patches that are not finite.",
                    )
                self.optimizer.zero_grad(set_to_none=True)
                losses.total.backward()
                self.optimizer.step()
                total = float(losses.total.detach())
                totals.append((total, losses.classification, losses.domain, losses.domain_accuracy))
        loss, auc = self._validate()
        train, classification, domain, accuracy = (_mean(column) for column in zip(*totals, strict=True))
        assert train is not None and classification is not None
        rate = rate_factor(epoch + 1, params) * params.lr_head
        return EpochRecord(epoch, train, classification, domain, accuracy, loss, auc, rate)

    def _validate(self) -> tuple[float | None, float | None]:
        """(loss, AUC) on validation; None where it has no labelled patch, AUC None where a class is rare."""
        labels = self.validation_labels
        if len(labels) == 0:
            return None, None
        self.learner.eval()
        inputs = self.validation_inputs.plain()
        with torch.no_grad():
            parts = torch.arange(len(labels)).split(_EVALUATION_BATCH)
            logits = torch.cat([self.learner.head(self.learner.features(inputs.batch(index))) for index in parts])
        loss = float(functional.binary_cross_entropy_with_logits(logits, labels))
        if min(int(labels.sum()), int((1 - labels).sum())) < _FEWEST_FOR_AUC:
            return loss, None
        return loss, float(roc_auc_score(labels.numpy(), logits.numpy()))


def _targets_and_weights(train: LabelledPatches, params: TrainParams) -> tuple[Tensor, Tensor]:
    targets = torch.from_numpy(train.targets(params.soft_label_weight))
    weights = class_balance(targets)
    if train.weights is not None:
        weights = weights * torch.from_numpy(np.asarray(train.weights, dtype=np.float32))
    return targets, weights


def _digest(data: FitData, params: TrainParams, spec: InputSpec, backbone: Backbone) -> str:
    facts = [data.digest(), params.digest(), spec.model_dump(mode="json"), backbone.name, state_digest(backbone)]
    return digest_of([*facts, torch.__version__], length=32)


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """`count` threads inside the block (0: as it is)."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
