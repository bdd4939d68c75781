"""Two inputs, the second of which is the site: an adversary must make the encoder forget it, or it stays.

Rewritten from tests/test_dann.py of adapt-python/adapt (BSD): Xs = (t, 0), Xt = (t, 1), y = 0.2 t.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from oracles.many import ManyLinear, generators, many_domain_loss, many_sequential
from torch import nn

SEEDS = range(5)


@dataclass(frozen=True)
class Forgotten:
    """Of each seed: weights (S, 2) of the encoder, and the summed absolute errors (S,) on both sites."""

    weights: torch.Tensor
    source_error: torch.Tensor
    target_error: torch.Tensor


def train(strength: float, seeds: range) -> Forgotten:
    """1000 steps of Adam over all 100 pairs, for every seed at once; lambda stands still, as there."""
    draw = generators(seeds)
    t = torch.linspace(0, 1, 100).expand(len(seeds), 100)[..., None]
    source, target = torch.cat([t, torch.zeros_like(t)], 2), torch.cat([t, torch.ones_like(t)], 2)
    encoder = nn.Parameter(torch.ones(len(seeds), 2, 1))
    task, discriminator = ManyLinear(draw, 1, 1), many_sequential(draw, (1, 10, 1), nn.ReLU())
    parameters = [encoder, task.weight, *discriminator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(1000):
        hidden, hidden_target = source @ encoder, target @ encoder
        loss = ((hidden @ task.weight - 0.2 * t) ** 2).mean((1, 2)).sum()
        loss = loss + many_domain_loss(discriminator, hidden, hidden_target, strength)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        errors = [(site @ encoder @ task.weight - 0.2 * t).abs().sum((1, 2)) for site in (source, target)]
    return Forgotten(encoder.detach()[..., 0], *errors)


def test_without_reversal_the_encoder_keeps_the_site():
    kept = train(0.0, SEEDS)
    assert kept.weights[:, 1].tolist() == pytest.approx([1.0] * len(SEEDS), abs=1e-6)
    assert bool((kept.source_error < 0.5).all())
    assert bool((kept.target_error > 10).all())


def test_with_reversal_the_encoder_forgets_the_site_for_every_seed():
    forgotten = train(1.0, SEEDS)
    assert bool(((forgotten.weights[:, 1] / forgotten.weights[:, 0]).abs() < 0.15).all())
    assert bool((forgotten.source_error < 1).all())
    assert bool((forgotten.target_error < 2).all())
