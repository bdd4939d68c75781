"""Which rows of a table hold for a set of facts, and which could, were the unknown facts known.

A fact is a word, a number, or None where it is unknown. A row whose condition asks an unknown fact neither holds nor
fails: it could hold, and the fact is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple

from data_contracts.guideline_tables import Bound, RuleRow, RuleTable

Fact = str | float | None
Facts = Mapping[str, Fact]
#: Which bounds of a row are asked: those in mm, or the paper's equivalents in mm3.
Measure = Literal["diameter", "volume"]


class Match(NamedTuple):
    """The first row that holds (None: none does for certain), the rows that could hold, and the facts they lack."""

    row: RuleRow | None
    could: tuple[RuleRow, ...]
    missing: tuple[str, ...]


def match(table: RuleTable, facts: Facts, measure: Measure = "diameter") -> Match:
    """Rows in their order: the first that holds decides, unless an earlier one could hold."""
    could: list[RuleRow] = []
    missing: dict[str, None] = {}
    for row in table.rows:
        lacking = _lacking(row, facts, measure)
        if lacking is None:
            continue
        if not lacking:
            return Match(None if could else row, (*could, row), tuple(missing))
        could.append(row)
        missing.update(dict.fromkeys(lacking))
    return Match(None, tuple(could), tuple(missing))


def reachable(
    table: RuleTable, facts: Facts, intervals: Mapping[str, tuple[float, float]], step: float, measure: Measure
) -> tuple[RuleRow, ...]:
    """Rows that hold or could hold for any values of the measured facts within their intervals.

    Classes are constant between the edges of the bounds, so that the ends of the intervals and both sides of every
    edge between them are all that need be asked. step: to what the facts are rounded.
    """
    names = sorted(name for name in intervals if facts.get(name) is not None)
    samples = [_samples(table, name, intervals[name], step, measure) for name in names]
    found: dict[str, RuleRow] = {}
    for values in product(*samples):
        for row in match(table, {**facts, **dict(zip(names, values, strict=True))}, measure).could:
            found[row.id] = row
    return tuple(found.values())


def disputed(table: RuleTable, facts: Facts) -> tuple[RuleRow, ...]:
    """Rows about which sources differ at exactly these values."""
    return tuple(
        row
        for row in table.rows
        if row.disputed
        and all(facts.get(name) == value for name, value in row.disputed.items())
        and all(facts.get(name) in words for name, words in row.when.items())
    )


def categories_of(table: RuleTable, rows: Sequence[RuleRow]) -> tuple[str, ...]:
    """Their categories, each once, in order of suspicion."""
    return tuple(sorted({row.category for row in rows}, key=table.rank))


def bounds_asked(row: RuleRow, facts: Facts, measure: Measure) -> dict[str, Bound]:
    """The bounds of a row that these facts answer."""
    bounds = dict(row.volume if measure == "volume" and row.volume else row.bounds)
    if row.volume_first:
        name = "volume_mm3" if facts.get("volume_mm3") is not None else "long_axis_mm"
        if name in row.volume_first:
            bounds[name] = row.volume_first[name]
    return bounds


def _lacking(row: RuleRow, facts: Facts, measure: Measure) -> tuple[str, ...] | None:
    """The unknown facts that a row asks; () where it holds, None where a known fact rules it out."""
    lacking = []
    for name, words in row.when.items():
        if (word := facts.get(name)) is None:
            lacking.append(name)
        elif word not in words:
            return None
    for name, bound in bounds_asked(row, facts, measure).items():
        value = facts.get(name)
        if value is None:
            lacking.append(name)
        elif not bound.holds(float(value)):
            return None
    return tuple(lacking)


def _samples(
    table: RuleTable, name: str, interval: tuple[float, float], step: float, measure: Measure
) -> tuple[float, ...]:
    low, high = interval
    edges = {
        edge
        for row in table.rows
        for bounds in ((row.volume if measure == "volume" and row.volume else row.bounds), row.volume_first)
        if name in bounds
        for edge in bounds[name].edges()
    }
    beside = {value for edge in edges for value in (edge - step, edge, edge + step) if low <= value <= high}
    return tuple(sorted({low, high, *beside}))
