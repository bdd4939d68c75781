"""Learning from a teacher's logits beside the labels (Hinton, Vinyals & Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def distillation_loss(logit: Tensor, teacher: Tensor, temperature: float, weight: Tensor, total: float) -> Tensor:
    """T^2 sum_i w_i CE(sigmoid(z_i / T), sigmoid(s_i / T)) / total, of student logits s (B,) and teacher logits z (B,).

    The gradient of a soft target shrinks with 1 / T^2 (section 2.1); T^2 keeps its size beside that of a label. Large T
    gives (s - z) / 4: the student matches logits.
    """
    loss = functional.binary_cross_entropy_with_logits(
        logit / temperature, torch.sigmoid(teacher / temperature), reduction="none"
    )
    return temperature**2 * (loss * weight).sum() / total
