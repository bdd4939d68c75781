"""Two lines of points with another shift each: the conditional adversary carries the classes over, plain training not.

Rewritten from tests/test_cdan.py of adapt-python/adapt (BSD): its two-class data, a linear encoder of ten values, an
adversary of ten units, lambda standing still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracles.many import ManyLinear, generators, many_sequential
from sklearn.datasets import make_classification
from torch import nn
from torch.nn import functional

from models.adaptation.classes import class_entropy, entropy_weights, two_class_logits
from models.adaptation.conditional import MultilinearMap, conditional_domain_loss

SEEDS = range(5)


def two_sites() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(source (100, 2), labels, target (100, 2), labels), each axis of each site from 0 to 1."""
    rng = np.random.RandomState(2)
    drawn = []
    for _ in range(2):
        points, labels = make_classification(
            100, 2, n_informative=2, n_redundant=0, n_clusters_per_class=1, shuffle=False, random_state=rng
        )
        drawn += [(points - points.min(axis=0)) / np.ptp(points, axis=0), labels]
    source, labels, target, _ = drawn
    return source, labels, target, np.repeat([1, 0], 50)


@dataclass(frozen=True)
class Carried:
    """Of each seed: accuracies (S,), entropies of predictions and the adversary's logit of "target" (S, 100)."""

    source_accuracy: np.ndarray
    target_accuracy: np.ndarray
    entropy: tuple[np.ndarray, np.ndarray]
    called_target: tuple[np.ndarray, np.ndarray]


def train(strength: float, seeds: range, *, entropy: bool, frozen: bool = False, n_steps: int = 600) -> Carried:
    """Adam over all points, every seed at once; `frozen`: the encoder stays as it was drawn."""
    draw = generators(seeds)
    points, labels, other, other_labels = two_sites()
    source, target = (torch.tensor(v, dtype=torch.float32).expand(len(seeds), 100, 2) for v in (points, other))
    truth = torch.tensor(labels, dtype=torch.float32).expand(len(seeds), 100)
    encoder, task = ManyLinear(draw, 2, 10), ManyLinear(draw, 10, 1)
    product, discriminator = MultilinearMap(10, 2), many_sequential(draw, (20, 10, 1), nn.ReLU())
    learning = [*task.parameters(), *discriminator.parameters(), *([] if frozen else encoder.parameters())]
    optimizer = torch.optim.Adam(learning, lr=0.003)

    def outputs() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        hidden = [encoder(site) for site in (source, target)]
        logits = [task(values)[..., 0] for values in hidden]
        return hidden, logits, [two_class_logits(logit) for logit in logits]

    for _ in range(n_steps):
        hidden, logits, classes = outputs()
        loss = functional.binary_cross_entropy_with_logits(logits[0], truth) * len(seeds)
        domain, _ = conditional_domain_loss(
            lambda values: discriminator(values)[..., 0],
            product(hidden[0], classes[0]),
            product(hidden[1], classes[1]),
            (entropy_weights(classes[0]), entropy_weights(classes[1])) if entropy else None,
            strength,
        )
        optimizer.zero_grad()
        (loss + domain * len(seeds)).backward()
        optimizer.step()
    with torch.no_grad():
        hidden, logits, classes = outputs()
        right = [
            ((logit.numpy() > 0) == known).mean(axis=1)
            for logit, known in zip(logits, (labels == 1, other_labels == 1), strict=True)
        ]
        called = [discriminator(product(*site))[..., 0].numpy() for site in zip(hidden, classes, strict=True)]
        unsure = [class_entropy(values).numpy() for values in classes]
    return Carried(right[0], right[1], (unsure[0], unsure[1]), (called[0], called[1]))


def test_without_reversal_the_target_stays_wrong():
    plain = train(0.0, SEEDS, entropy=False)
    assert float(plain.source_accuracy.min()) > 0.9 and float(plain.target_accuracy.max()) < 0.9


@pytest.mark.parametrize("entropy", [False, True])
def test_with_reversal_the_classes_are_carried_over_for_every_seed(entropy):
    adapted = train(1.0, SEEDS, entropy=entropy)
    assert float(adapted.source_accuracy.min()) > 0.8 and float(adapted.target_accuracy.min()) > 0.8
