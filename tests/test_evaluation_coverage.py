"""A fast part of `make bench WHAT=evaluation`: the intervals of a report hold the truth about as often as they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))

from bench_evaluation import PARAMS, figures_of
from evaluation_simulation import World, held_out_set

WORLD = World()
SETS = 60


@pytest.mark.slow
def test_intervals_hold_the_truth_about_95_times_in_100_where_nodules_share_patients():
    fast = PARAMS.model_copy(update={"bootstrap": 200})
    parts = [
        {
            name: figure.value
            for name, figure in figures_of(
                held_out_set(WORLD, np.random.default_rng([7, part]), 6000), WORLD, fast, subgroups=False
            )
        }
        for part in range(3)
    ]
    truth = {name: np.mean([part[name] for part in parts]) for name in parts[0]}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for number in range(SETS):
        table = held_out_set(WORLD, np.random.default_rng([13, number]))
        for name, figure in figures_of(table, WORLD, fast, subgroups=False):
            held[name].append(figure.low <= truth[name] <= figure.high)
    shares = {name: float(np.mean(hits)) for name, hits in held.items()}
    # Four standard errors of 60 sets below 95 in 100.
    assert {name: share for name, share in shares.items() if share < 0.84 and "DeLong" not in name} == {}
    assert np.mean(list(shares.values())) == pytest.approx(0.95, abs=0.025)
