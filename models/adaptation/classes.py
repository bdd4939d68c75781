"""Predictions as classes: a logit as two of them, how unsure they are, and how much a sure one counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def two_class_logits(logit: Tensor) -> Tensor:
    """Logits (..., N, 2) whose softmax is [1 - p, p], of logits (..., N) whose sigmoid is p."""
    return torch.stack([torch.zeros_like(logit), logit], dim=-1)


def class_entropy(logits: Tensor) -> Tensor:
    """Entropy (..., N) in nats of the softmax of logits (..., N, C); 0 for a sure one, log C for none."""
    logarithm = functional.log_softmax(logits, dim=-1)
    return -(logarithm.exp() * logarithm).sum(dim=-1)


def entropy_weights(logits: Tensor) -> Tensor:
    """Weights (..., N) proportional to 1 + exp(-H), with mean 1 over N; no gradient flows through them.

    Long et al. 2018 (NeurIPS, section 3.3) and Jin et al. 2020 (ECCV, equation 5): sure predictions count up to twice
    as much as unsure ones. Given the logits of one domain, the mean is 1 in that domain.
    """
    weights = 1.0 + torch.exp(-class_entropy(logits.detach()))
    return weights / weights.mean(dim=-1, keepdim=True)
