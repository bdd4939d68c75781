"""Whether the stages that learn are computed in bfloat16: mixed precision as torch's autocast does it.

Weights, optimiser, head, losses and validation stay in float32, so the figure that chooses an epoch is that of the
network as it is served. What frozen stages give is computed and kept in float32 as before.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from models.engines.processor import has_bf16_units
from models.fitting.learner import Learner
from models.fitting.ranks import Ranks

#: Cosine between the gradients of the first batch in bfloat16 and in float32, and how far apart their losses may be.
LEAST_GRADIENT_COSINE = 0.98
MOST_LOSS_CHANGE = 0.01


def wants_bf16(precision: str, *, learns: bool) -> tuple[bool, str]:
    """(whether bf16 is to be tried, why) for the wish fp32, bf16 or auto."""
    if not learns:
        return False, "no stage learns"
    if precision != "auto":
        return precision == "bf16", f"{precision} was asked for"
    if has_bf16_units():
        return True, "the processor multiplies bf16 in hardware"
    return False, "the processor has no bf16 units"


def bf16_agrees(learner: Learner, inputs: Tensor, targets: Tensor) -> tuple[bool, str]:
    """(whether bf16 gives the gradients of fp32 on one batch, the cosine in words); the learner is left as it was."""
    trial = copy.deepcopy(learner)
    trial.ranks = Ranks()  # every rank decides by the whole batch, so all decide alike
    # Dropout would draw other numbers in each pass, and running statistics would move; gradients need training mode.
    trial.train()
    for module in trial.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses, gradients = [], []
    for trial.bf16 in (False, True):
        trial.zero_grad(set_to_none=True)
        loss = functional.binary_cross_entropy_with_logits(trial.head(trial.features(inputs)), targets)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in trial.trunk.parameters() if p.grad is not None]))
    cosine = float(functional.cosine_similarity(gradients[0], gradients[1], dim=0))
    change = abs(losses[1] - losses[0]) / max(abs(losses[0]), 1e-6)
    agrees = cosine >= LEAST_GRADIENT_COSINE and change <= MOST_LOSS_CHANGE
    words = f"gradients of the first batch have cosine {cosine:.4f} to those of fp32, its loss differs by {change:.2%}"
    return agrees, words if agrees else f"{words}, too far for bf16"
