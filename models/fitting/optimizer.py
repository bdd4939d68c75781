"""What is stepped at which rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from data_contracts.params import TrainParams
from models.fitting.learner import Learner


def build_optimizer(learner: Learner, params: TrainParams) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9."""
    groups = parameter_groups(learner, params)
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups)


def parameter_groups(learner: Learner, params: TrainParams) -> list[dict[str, object]]:
    """Stages and the rest at their own rates, each stage `lr_decay` of the one behind it.

    Biases and BatchNorm have no weight decay.
    """
    last = len(learner.trunk.stages) - 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        rate = params.lr_head
        # The stages of a second network (mutual training) learn as those of the first.
        place = name.removeprefix("adaptation.")
        if place.startswith("trunk.stages."):
            stage = int(place.split(".")[2])
            rate = params.lr_backbone * params.lr_decay ** (last - stage)
        decay = params.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": decay, "base_lr": rate}
        for (rate, decay), members in groups.items()
    ]


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group to `factor` of its own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def rate_factor(epochs_done: float, params: TrainParams) -> float:
    """Share of the base learning rate: linear warm-up, then `params.schedule`.

    cosine: half a cosine down to 1 %. annealed: (1 + 10 p)^-0.75, p in 0..1 (Ganin et al. 2016, section 5.2.2).
    """
    if epochs_done < params.warmup_epochs:
        return max(epochs_done / params.warmup_epochs, 0.05)
    left = max(params.epochs - params.warmup_epochs, 1)
    position = min((epochs_done - params.warmup_epochs) / left, 1.0)
    if params.schedule == "annealed":
        return float((1 + 10 * position) ** -0.75)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * position))
