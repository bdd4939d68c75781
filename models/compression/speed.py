"""How much faster: variants take turns in one process, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from data_contracts.export_card import SpeedRatio

#: a round of one variant lasts at least so long, else the clock and the scheduler are what is measured
_LEAST_ROUND_S = 0.03
_DRAWS = 2000


def take_turns(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, all variants once a round, in turning order."""
    repeats = {}
    for name, run in variants.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, math.ceil(_LEAST_ROUND_S / max(time.perf_counter() - started, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            for _ in range(repeats[name]):
                variants[name]()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return seconds


def speed_ratio(batch: int, reference_s: list[float], form_s: list[float]) -> SpeedRatio:
    """Median over rounds of reference / form, with the 95 % interval of a bootstrap over rounds (seed 0)."""
    each = np.array(reference_s) / np.array(form_s)
    drawn = np.random.default_rng(0).integers(0, len(each), (_DRAWS, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), [0.025, 0.975])
    return SpeedRatio(batch=batch, ratio=float(np.median(each)), low=float(low), high=float(high), rounds=len(each))
