"""Rotated moons, where the answer is known: single networks, joined ones, and what the gate makes of them.

    python tests/benchmarks/bench_moons.py

The seeds are not those of tests/oracles/test_moons.py. Prints a table and writes bench/moons.json.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "benchmarks")]

import numpy as np  # noqa: E402
from oracles.moons import Method, Moons, joined, moons  # noqa: E402
from oracles.test_moons import choices  # noqa: E402
from paired import Row, publish, value_row  # noqa: E402

#: seeds of networks that nothing was chosen on
SEEDS = range(2000, 2040)
#: bounds on the accuracy on the target of every seed
_DANN, _CDAN = 0.90, 0.92


def accuracies(work: str, networks: Moons, bound: float | None = None) -> Row:
    """The least accuracy on the target over seeds, its range, and how many seeds reach the bound."""
    found = networks.target_accuracy
    reached = "" if bound is None else f", {int((found >= bound).sum())} of {len(found)} reach {bound:.2f}"
    span = (float(found.min()), float(found.max()))
    return value_row(work + reached, span[0], "least accuracy", n=len(found), interval=span, at_least=bound)


def refusals(work: str, alone: Moons, adapted: Moons) -> Row:
    """How often the gate stays with source-only; the interval is what the accuracy gains by those that it accepts."""
    first = replace(alone, **{name: getattr(alone, name)[: len(adapted.target_logits)] for name in _PER_SEED})
    refused = np.array([choice == "source-only" for choice in choices(first, adapted)])
    gains = (adapted.target_accuracy - first.target_accuracy)[~refused]
    span = (float(gains.min()), float(gains.max())) if len(gains) else None
    work += f", {int((gains < 0).sum())} of {len(gains)} accepted are worse than source-only"
    return value_row(work, float(refused.mean()), "refused (interval: gains)", n=len(refused), interval=span)


_PER_SEED = ("source_logits", "target_logits", "source_hidden", "target_hidden")


def main() -> int:
    """Train, print, write bench/moons.json."""
    rows = [accuracies("35 degrees: source-only", moons("source-only", 35, SEEDS))]
    methods: tuple[tuple[str, Method, float], ...] = (("DANN", "dann", _DANN), ("CDAN+E", "cdan-e", _CDAN))
    for name, method, bound in methods:
        single = moons(method, 35, SEEDS)
        rows.append(accuracies(f"35 degrees: {name}, one network", single, bound))
        rows += [accuracies(f"35 degrees: {name}, mean of {n} networks", joined(single, n), bound) for n in (4, 8)]
    alone, single = moons("source-only", 50, SEEDS), moons("cdan-e", 50, SEEDS)
    four = joined(single, 4)
    rows += [
        accuracies("50 degrees: source-only", alone),
        accuracies("50 degrees: CDAN+E, one network", single),
        accuracies("50 degrees: CDAN+E, mean of 4 networks", four),
        refusals("50 degrees: the gate on one network", alone, single),
        refusals("50 degrees: the gate on the mean of 4", alone, four),
    ]
    publish("moons", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
