"""Rotated moons: adversaries put right what source-only gets wrong, and the gate refuses what no one could trust."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.moons import Moons, joined, moons, rotated_moons

from data_contracts.params import AdaptationGateParams
from pipeline.scoring.shift.evidence import NetworkOutputs
from pipeline.scoring.shift.gate import decide_adaptation

SEEDS = range(5)
#: networks whose logits are averaged for one answer: of single ones some end below the bound (docs/adaptation.md)
MEMBERS = 8


def outputs(networks: Moons, number: int) -> NetworkOutputs:
    return NetworkOutputs(
        networks.source_logits[number],
        networks.target_logits[number],
        networks.source_hidden[number],
        networks.target_hidden[number],
    )


def choices(alone: Moons, adapted: Moons) -> list[str]:
    """What the gate takes, a seed a time."""
    labels = alone.source_labels.astype(float)
    return [
        decide_adaptation(
            labels, {"source-only": outputs(alone, n), "adapted": outputs(adapted, n)}, AdaptationGateParams()
        ).chosen
        for n in range(len(alone.source_logits))
    ]


def test_the_target_is_the_source_drawn_anew_and_turned():
    source, labels, target, target_labels = rotated_moons(35)
    assert source.shape == target.shape == (150, 2) and labels.sum() == target_labels.sum() == 75
    np.testing.assert_allclose(source.mean(axis=0), 0, atol=1e-12)
    upper = [points[site == 0].mean(axis=0) for points, site in ((source, labels), (target, target_labels))]
    turned = np.degrees(np.arctan2(upper[1][1], upper[1][0]) - np.arctan2(upper[0][1], upper[0][0]))
    assert turned == pytest.approx(35, abs=3)


@pytest.mark.slow
def test_dann_recovers_a_target_that_source_only_gets_wrong_for_every_seed():
    alone, single = moons("source-only", 35, SEEDS), moons("dann", 35, range(MEMBERS * len(SEEDS)))
    assert float(alone.source_accuracy.min()) == 1.0 and float(alone.target_accuracy.max()) <= 0.84
    adapted = joined(single, MEMBERS)
    assert float(adapted.source_accuracy.min()) >= 0.98
    assert float(adapted.target_accuracy.min()) >= 0.90


@pytest.mark.slow
def test_single_networks_of_dann_recover_the_target_for_the_first_five_seeds():
    adapted = moons("dann", 35, range(5))
    assert float(adapted.source_accuracy.min()) >= 0.98
    assert float(adapted.target_accuracy.min()) >= 0.90


@pytest.mark.slow
def test_joined_networks_of_cdan_with_entropy_recover_the_target_for_every_seed():
    adapted = joined(moons("cdan-e", 35, range(MEMBERS * len(SEEDS))), MEMBERS)
    assert float(adapted.source_accuracy.min()) >= 0.98
    assert float(adapted.target_accuracy.min()) >= 0.92


@pytest.mark.slow
def test_at_50_degrees_the_gate_keeps_source_only_because_half_of_the_calls_are_turned_round():
    members = MEMBERS // 2
    alone, adapted = moons("source-only", 50, SEEDS), joined(moons("cdan-e", 50, range(members * len(SEEDS))), members)
    assert float(alone.target_accuracy.max()) < 0.5
    assert choices(alone, adapted) == ["source-only"] * len(SEEDS)
