"""Moons rotated by 35 degrees: what source-only gets wrong, an adversary of its representation puts right."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.moons import moons, rotated_moons

SEEDS = range(5)


def test_the_target_is_the_source_drawn_anew_and_turned():
    source, labels, target, target_labels = rotated_moons(35)
    assert source.shape == target.shape == (150, 2) and labels.sum() == target_labels.sum() == 75
    np.testing.assert_allclose(source.mean(axis=0), 0, atol=1e-12)
    upper = [points[site == 0].mean(axis=0) for points, site in ((source, labels), (target, target_labels))]
    turned = np.degrees(np.arctan2(upper[1][1], upper[1][0]) - np.arctan2(upper[0][1], upper[0][0]))
    assert turned == pytest.approx(35, abs=3)


@pytest.mark.slow
def test_dann_recovers_a_target_that_source_only_gets_wrong_for_every_seed():
    alone, adapted = moons("source-only", 35, SEEDS), moons("dann", 35, SEEDS)
    assert float(alone.source_accuracy.min()) == 1.0 and float(alone.target_accuracy.max()) <= 0.84
    assert float(adapted.source_accuracy.min()) >= 0.98
    assert float(adapted.target_accuracy.min()) >= 0.90
