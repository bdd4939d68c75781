"""Measuring beside a peer: variants take turns in one process, and figures are ratios of their times.

A row of bench/<what>.json is {work, peer, ratio or value, at_least or at_most, interval, n, machine}.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def machine() -> str:
    """Processor, cores and Python of this machine."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def take_turns(variants: dict[str, Callable[[], object]], rounds: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each variant in each round, all variants once a round, so that load falls on all alike."""
    for _ in range(warm_up):
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio_row(
    work: str,
    peer: str,
    seconds: dict[str, list[float]],
    *,
    own: str,
    of: str,
    at_least: float | None = None,
    **more: object,
) -> Row:
    """How many times faster `own` is than `of`: ratio of minima; interval: smallest and largest ratio of a round."""
    ours, theirs = np.array(seconds[own]), np.array(seconds[of])
    each = theirs / ours
    row: Row = {
        "work": work,
        "peer": peer,
        "ratio": round(float(theirs.min() / ours.min()), 2),
        "median_ratio": round(float(np.median(theirs) / np.median(ours)), 2),
        "interval": [round(float(each.min()), 2), round(float(each.max()), 2)],
        "own_ms": round(1e3 * float(ours.min()), 2),
        "peer_ms": round(1e3 * float(theirs.min()), 2),
        "n": len(ours),
        **more,
    }
    if at_least is not None:
        row["at_least"] = at_least
    return row


def value_row(
    work: str,
    value: float,
    unit: str,
    *,
    n: int = 1,
    interval: tuple[float, float] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    **more: object,
) -> Row:
    """A figure that is no ratio to a peer."""
    row: Row = {"work": work, "peer": "", "value": round(value, 4), "unit": unit, "n": n, **more}
    row["interval"] = None if interval is None else [round(bound, 4) for bound in interval]
    row |= {name: bound for name, bound in (("at_least", at_least), ("at_most", at_most)) if bound is not None}
    return row


def reached(row: Row) -> bool | None:
    """Whether the row keeps its bars; None where it has none."""
    figure = row.get("ratio", row.get("value"))
    kept = [figure >= row["at_least"]] if "at_least" in row else []
    kept += [figure <= row["at_most"]] if "at_most" in row else []
    return all(kept) if kept else None


def publish(what: str, rows: list[Row]) -> Path:
    """Print the table and write bench/<what>.json; a bar that is not reached is said, and is no error."""
    for row in rows:
        row["machine"] = machine()
    width = max(len(row["work"]) for row in rows)
    for row in rows:
        figure = f"{row['ratio']:.2f}x {row['peer']}" if "ratio" in row else f"{row['value']:g} {row['unit']}"
        bar = " ".join(f"{word} {row[key]:g}" for key, word in (("at_least", ">="), ("at_most", "<=")) if key in row)
        verdict = {True: "reached", False: "NOT REACHED", None: ""}[reached(row)]
        spread = "" if row["interval"] is None else f"[{row['interval'][0]:g}, {row['interval'][1]:g}]"
        print(f"{row['work']:<{width}}  {figure:<34} {spread:<18} {bar:<10} {verdict}")
    path = REPOSITORY / "bench" / f"{what}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return path
