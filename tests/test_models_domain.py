"""The parts of domain-adversarial training do what Ganin et al. (2016) say; oracles/ holds what they do together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.adaptation.adversary import (
    DomainDiscriminator,
    discriminator_width,
    domain_loss,
    reversal_strength,
    reverse_gradient,
)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 10.0])
def test_the_gradient_comes_back_times_minus_lambda(strength):
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 3, dtype=torch.float64)
    (reverse_gradient(values, strength) * weights).sum().backward()
    torch.testing.assert_close(values.grad, -strength * weights, rtol=0, atol=0)


def test_forwards_nothing_changes():
    values = torch.randn(4, 2)
    assert torch.equal(reverse_gradient(values, 3.0), values)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.1, 0.46211716), (0.5, 0.98661430), (1.0, 0.99990920)]
)
def test_the_schedule_is_the_published_one(progress, expected):
    assert reversal_strength(progress, 10.0) == pytest.approx(expected, abs=1e-7)
    assert reversal_strength(progress, 10.0) == pytest.approx(math.tanh(5 * progress), abs=1e-12)


def test_the_discriminator_learns_at_full_rate_whatever_lambda_is():
    torch.manual_seed(0)
    source, target = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4)
    gradients = []
    for strength in (0.0, 1.0):
        discriminator = nn.Linear(4, 1)
        nn.init.constant_(discriminator.weight, 0.3)
        nn.init.zeros_(discriminator.bias)
        loss, _ = domain_loss(discriminator, source, target, strength)
        loss.backward()
        gradients.append(discriminator.weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])


def test_a_discriminator_that_knows_the_domains_is_right_every_time():
    class Knows(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values[:, 0]

    loss, accuracy = domain_loss(Knows(), torch.full((4, 1), -20.0), torch.full((2, 1), 20.0), 1.0)
    assert accuracy == 1.0
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_the_published_width_is_kept_for_large_sets_only():
    assert (discriminator_width(300), discriminator_width(5000)) == (256, 1024)
    assert DomainDiscriminator(7, 16)(torch.zeros(3, 7)).shape == (3,)
