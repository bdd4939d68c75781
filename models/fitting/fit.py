"""Fitting a classifier: frozen stages cached, the rest trained, the same result whether or not it was interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from data_contracts.errors import NoduleflowError, UsageError
from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from data_contracts.records import digest_of
from models.adaptation.methods import check_reach
from models.adaptation.statistics import adapt_to_patches
from models.engines.heap import give_back, keep_heap
from models.fitting.batches import Batches
from models.fitting.data import FitData, LabelledPatches
from models.fitting.learner import Learner
from models.fitting.losses import Losses
from models.fitting.optimizer import build_optimizer, rate_factor, set_rates
from models.fitting.precision import bf16_agrees, wants_bf16
from models.fitting.ranks import Ranks
from models.fitting.state import EpochRecord, FitState, load_state, optimizer_tensors, restore_optimizer, save_state
from models.fitting.stepping import take_step
from models.fitting.switches import deterministic, threads
from models.networks.backbones import Backbone, state_digest
from models.networks.inputs import plane_count
from models.networks.network import NetworkPlan, NoduleNetwork, build_network

#: Fewer patches of a class than this, and the validation loss chooses the epoch instead of the AUC.
_FEWEST_FOR_AUC = 5
_EVALUATION_BATCH = 64
#: writing the state may take one part in this many of the time, where `state_every_s` is longer
_SAVING_SHARE = 20


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
    schedule lambda(p) needs its whole length. AdaBN learns what source-only learns, then every BatchNorm layer gets
    the target's statistics: the source is to be judged by the network with its own.

    In a process group of torch (`torchrun`) the ranks share every batch and end with the same weights as one process,
    but for rounding; a backbone that drops paths at random (efficientnet) draws them by rank. They must see the same
    `state_dir`, which only the first writes.

    Parameters
    ----------
    state_dir: a folder for the state after each epoch; a fit of the same data, parameters and initial
        weights goes on from it and ends with the same weights, bit for bit.
    state_every_s: save no more often than this, or, where saving is quick, than 20 times what it takes; a kill costs
        so much work and the epoch it falls into.
    on_epoch: called after every epoch, and after its state was saved where it was.

    Raises
    ------
    NothingUsableError: training patches of one class only.
    UsageError: adaptation without patches of the target, or nothing in the network that it could change; a mask target
        without masks, or without a stage that learns.
    NoduleflowError: a loss or gradient that is not finite, with its epoch and batch; an operation that `deterministic`
        refuses.
    """
    data.check()
    _check_adaptation(data, params)
    if params.mask_weight > 0 and (data.train.masks is None or params.unfreeze == 0):
        lacking = (
            "outlines of readers to learn" if data.train.masks is None else "learning stage whose maps could outline"
        )
        raise UsageError(f"there is no {lacking}", where=f"mask_weight={params.mask_weight:g}", todo="Set it to 0.")
    if params.teacher and data.teacher is None:
        raise UsageError("the teacher is not at hand here", where=f"teacher={params.teacher}", todo="Use `train`.")
    keep_heap()
    try:
        with threads(params.threads), deterministic(params.deterministic):
            result = _Fit(data, params, spec, backbone, state_dir, state_every_s).run(on_epoch)
            if "adabn" in params.adaptation:
                adapt_to_patches(result.network, data.target, spec)
            return result
    finally:
        give_back()


def network_plan(data: FitData, params: TrainParams) -> NetworkPlan:
    """What the fit puts on the backbone."""
    concepts = data.concepts if params.auxiliary_weight > 0 and data.train.auxiliary is not None else ()
    return NetworkPlan(params.head, params.pooling, concepts, params.dropout)


def _check_adaptation(data: FitData, params: TrainParams) -> None:
    if not params.adaptation:
        return
    if data.target is None or len(data.target) == 0:
        raise UsageError(
            f"adaptation {params.adaptation[0]!r} needs unlabelled patches of a target site",
            todo="Set target_site, or adaptation=none.",
        )
    check_reach(params)


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
        self.network = build_network(backbone, network_plan(data, params), seed=params.seed)
        self.learner = Learner(
            self.network,
            params,
            n_planes=plane_count(spec),
            n_patches=len(train) + (0 if data.target is None else len(data.target)),
            mask_shape=_mask_shape(train, params, spec),
        )
        backbone.requires_grad_(False)
        self.learner.trunk.requires_grad_(True)
        self.optimizer = build_optimizer(self.learner, params)
        prefix, _ = backbone.split(params.unfreeze)
        self.batches = Batches(data, train, spec, prefix if len(prefix) else None, params)
        self.learner.ranks = self.ranks = Ranks.current()
        self.precision = self._chosen_precision()

    def _chosen_precision(self) -> str:
        """Switch the learner to bf16 where that is wanted and agrees; decided by the first weights, so always alike."""
        wanted, why = wants_bf16(self.params.precision, learns=self.learner.has_stages)
        if wanted and self.params.precision == "auto":
            wanted, why = bf16_agrees(self.learner, *self.batches.first())
        self.learner.bf16 = wanted
        return f"{'bf16' if wanted else 'fp32'}: {why}"

    def run(self, on_epoch: Callable[[EpochRecord], None] | None) -> FitResult:
        state = self._resumed()
        self.ranks.wait()  # no rank reads a state that another has written since
        saved_at_s, saving_s = time.monotonic(), 0.0
        with self.ranks.synchronised(self.learner.trunk):
            while not self._finished(state):
                record = self._epoch(len(state.history))
                state.history.append(record)
                if self._is_best(state):
                    state.best_epoch = record.epoch
                    state.best = self.learner.kept_state()
                now_s = time.monotonic()
                if self._saves and now_s - saved_at_s >= min(self.state_every_s, _SAVING_SHARE * saving_s):
                    self._save(state)
                    saved_at_s = time.monotonic()
                    saving_s = saved_at_s - now_s
                if on_epoch is not None:
                    on_epoch(record)
        self.learner.load_state_dict(state.best, strict=False)
        best = 0 if state.best_epoch is None else state.best_epoch
        return FitResult(self.network.eval(), tuple(state.history), best, self.precision)

    @property
    def _saves(self) -> bool:
        return self.state_dir is not None and self.ranks.first

    def _save(self, state: FitState) -> None:
        assert self.state_dir is not None
        state.learner = self.learner.state_dict()
        state.optimizer = optimizer_tensors(self.optimizer)
        save_state(self.state_dir, self.digest, state)

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
        if state.best_epoch is None or last.validation_loss is None or self.learner.adaptation is not None:
            return True
        best = state.history[state.best_epoch]
        assert best.validation_loss is not None
        if last.validation_auc is None or best.validation_auc is None:
            return last.validation_loss < best.validation_loss
        return (last.validation_auc, -last.validation_loss) > (best.validation_auc, -best.validation_loss)

    def _epoch(self, epoch: int) -> EpochRecord:
        params = self.params
        steps = self.batches.of_epoch(epoch)
        done: list[Losses] = []
        self.learner.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed * 100_003 + epoch)
            for number, step in enumerate(steps):
                position = epoch + number / len(steps)
                set_rates(self.optimizer, rate_factor(position, params))
                where = f"epoch {epoch}, batch {number}"
                weights, progress = self.batches.concept_weights, position / params.epochs
                done.append(take_step(self.learner, self.optimizer, step, params, progress, weights, where=where))
        loss, auc = self._validate(epoch)
        figures = {name: _mean([losses.figures[name] for losses in done]) for name in done[0].figures}
        outlined = _mean_of_known([losses.masks for losses in done])
        if outlined is not None:
            figures["mask_loss"] = outlined
        return EpochRecord(
            epoch=epoch,
            train_loss=_mean([float(losses.total) for losses in done]),
            classification_loss=_mean([losses.classification for losses in done]),
            adaptation_loss=_mean_of_known([losses.adaptation for losses in done]),
            validation_loss=loss,
            validation_auc=auc,
            learning_rate=rate_factor(epoch + 1, params) * params.lr_head,
            figures=figures,
        )

    def _validate(self, epoch: int) -> tuple[float | None, float | None]:
        """(loss, AUC) on validation; None where it has no labelled patch, AUC None where a class is rare."""
        labels = self.batches.validation_labels
        if len(labels) == 0:
            return None, None
        self.learner.eval()
        inputs = self.batches.validation.plain()
        with torch.no_grad():
            parts = torch.arange(len(labels)).split(_EVALUATION_BATCH)
            logits = torch.cat([self.learner.head(self.learner.features(inputs.batch(index))) for index in parts])
        loss = float(functional.binary_cross_entropy_with_logits(logits, labels))
        if not math.isfinite(loss):
            raise NoduleflowError(
                "the validation loss is not finite", where=f"epoch {epoch}", todo="Lower lr_head and lr_backbone."
            )
        if min(int(labels.sum()), int((1 - labels).sum())) < _FEWEST_FOR_AUC:
            return loss, None
        return loss, float(roc_auc_score(labels.numpy(), logits.numpy()))


def _mask_shape(train: LabelledPatches, params: TrainParams, spec: InputSpec) -> tuple[int, int] | None:
    if params.mask_weight == 0 or train.masks is None:
        return None
    return train.masks.shape[1], spec.input_size_px


def _digest(data: FitData, params: TrainParams, spec: InputSpec, backbone: Backbone) -> str:
    facts = [data.digest(), params.digest(), spec.model_dump(mode="json"), backbone.name, state_digest(backbone)]
    return digest_of([*facts, torch.__version__], length=32)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
