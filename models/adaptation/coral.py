"""Deep CORAL (Sun and Saenko 2016, ECCV workshops): representations of both sites get the same covariance."""

from __future__ import annotations

from torch import Tensor

from models.adaptation.base import Adaptation, DomainOutputs


def covariance(values: Tensor) -> Tensor:
    """(d, d) of representations (N, d), divided by N - 1 (equations 2 and 3); 0 for a single one."""
    centred = values - values.mean(dim=0, keepdim=True)
    return centred.T @ centred / max(len(values) - 1, 1)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """|C_s - C_t|_F^2 / (4 d^2) of representations (N, d) and (M, d) (equation 1)."""
    difference = covariance(source) - covariance(target)
    return (difference**2).sum() / (4 * source.shape[1] ** 2)


class DeepCoral(Adaptation):
    """The distance of the two covariances, at one weight from the first step to the last, as published."""

    def forward(
        self, source: DomainOutputs, target: DomainOutputs, source_targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The CORAL loss of the representations."""
        loss = coral_loss(source.representation, target.representation)
        return loss, {"covariance_distance": float(loss.detach())}
