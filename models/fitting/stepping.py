"""One step of a fit: gradients of the batches joined in it, checked, shared between ranks, applied."""

from __future__ import annotations

import torch
from torch import Tensor

from data_contracts.errors import NoduleflowError
from data_contracts.params import TrainParams
from models.fitting.batches import Step
from models.fitting.learner import Learner
from models.fitting.losses import Losses, batch_losses, joined


def take_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    step: Step,
    params: TrainParams,
    progress: float,
    concept_weights: Tensor | None,
    *,
    where: str,
) -> Losses:
    """Step once on the batches of `step` and return its losses.

    Joined batches give the gradient of one large batch: their sums are divided by the totals of the whole step. What is
    a statistic of a batch (adaptation, BatchNorm that learns its statistics) is each batch's own, then averaged.

    Raises
    ------
    NoduleflowError: a loss or a gradient that is not finite; `where` names the batch. Nothing has been changed.
    """
    optimizer.zero_grad(set_to_none=True)
    done: list[Losses] = []
    for batch in step.batches:
        losses = batch_losses(learner, batch, params, progress, concept_weights, step.totals)
        if broken := losses.not_finite():
            raise NoduleflowError(
                "the loss is not finite",
                where=f"{where}, {broken} loss",
                todo="Lower lr_head and lr_backbone, or look for patches that are not finite.",
            )
        losses.total.backward()
        done.append(losses)
    _share_gradients(learner)
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    if not bool(torch.isfinite(torch.stack([gradient.abs().max() for gradient in gradients])).all()):
        raise NoduleflowError(
            "a gradient is not finite",
            where=where,
            todo="Lower lr_head, lr_backbone and adaptation_weight, or set precision=fp32.",
        )
    optimizer.step()
    return joined(done)


def _share_gradients(learner: Learner) -> None:
    """Stages and mask head saw this rank's rows only; head, concepts, adaptation and pooling alone saw them all."""
    shared_out = list(learner.trunk.parameters()) if learner.has_stages else []
    shared_out += [] if learner.mask_head is None else list(learner.mask_head.parameters())
    known = {id(parameter) for parameter in shared_out}
    alike = [parameter for parameter in learner.parameters() if id(parameter) not in known]
    learner.ranks.sum_gradients(shared_out, alike)
