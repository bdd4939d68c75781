"""The tables of the guidelines as records: rows with conditions, bounds, management, and how each was checked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data_contracts.records import Record

#: How a row was checked: in the paper, against at least two transcriptions of it, or not at all.
Checked = Literal["original", "secondary", "unverified"]


class Bound(Record):
    """One side or both sides of a size class."""

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if all(value is None for value in self.edges_or_none()):
            raise ValueError("a bound names at least one edge")
        return self

    def edges_or_none(self) -> tuple[float | None, ...]:
        return (self.at_least, self.above, self.below, self.at_most)

    def edges(self) -> tuple[float, ...]:
        """The values at which the class begins or ends."""
        return tuple(edge for edge in self.edges_or_none() if edge is not None)

    def holds(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def words(self, unit: str) -> str:
        """The bound as a reader expects it: ">= 6 and < 8 mm"."""
        signs = (">=", ">", "<", "<=")
        parts = [f"{sign} {edge:g}" for sign, edge in zip(signs, self.edges_or_none(), strict=True) if edge is not None]
        return f"{' and '.join(parts)} {unit}".strip()


class Rule(Record):
    """What a guideline says in one place, and how that was checked. against: short names of the table's sources."""

    id: str
    finding: str
    checked: Checked
    against: tuple[str, ...]
    note: str = ""


class RuleStep(Rule):
    """A sentence of a guideline that code applies between rows or examinations."""


class RuleRow(Rule):
    """One row of a guideline: it applies where every word of `when` and every bound holds.

    when: fact -> the words that it may have.
    bounds: measured fact -> its size class. volume: the paper's equivalents in mm3, asked where there is no diameter.
    volume_first: bounds of which the volume is asked where it is known, else the diameter.
    disputed: value of a fact at which sources differ about the row.
    """

    category: str
    management: str = ""
    when: dict[str, tuple[str, ...]] = {}
    bounds: dict[str, Bound] = {}
    volume: dict[str, Bound] = {}
    volume_first: dict[str, Bound] = {}
    disputed: dict[str, float] = {}


class RuleTable(Record):
    """A whole guideline. sources: short name of `against` -> what was read."""

    name: str
    applies_to: str
    source: str
    diameter_step_mm: float = Field(gt=0)
    categories: tuple[str, ...]
    sources: dict[str, str]
    management: dict[str, str] = {}
    probability_of_malignancy: dict[str, str] = {}
    figures: dict[str, float] = {}
    rows: tuple[RuleRow, ...]
    steps: tuple[RuleStep, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        ids = [rule.id for rule in self.rules()]
        if len(set(ids)) < len(ids):
            raise ValueError("two rules have the same id")
        for rule in self.rules():
            if unknown := set(rule.against) - set(self.sources):
                raise ValueError(f"rule {rule.id} names the source {sorted(unknown)[0]!r}, which is not listed")
            if rule.checked == "secondary" and len(set(rule.against)) < 2:
                raise ValueError(f"rule {rule.id} is checked against fewer than two sources")
        if unknown := {row.category for row in self.rows} - set(self.categories):
            raise ValueError(f"unknown category {sorted(unknown)[0]!r}")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """Rows and steps."""
        return (*self.rows, *self.steps)

    def rule(self, rule_id: str) -> Rule:
        """The row or step of that id; KeyError where there is none."""
        for rule in self.rules():
            if rule.id == rule_id:
                return rule
        raise KeyError(rule_id)

    def rank(self, category: str) -> int:
        """Place of a category in the order of suspicion."""
        return self.categories.index(category)


class BrockModel(Record):
    """Coefficients of one variant of the Brock model, as printed."""

    variant: str
    centred_intercept: float
    intercept: float | None = None
    age: float
    female: float
    family_history: float
    emphysema: float
    size: float
    part_solid: float
    ground_glass: float
    upper_lobe: float
    count: float
    spiculation: float | None = None
    checked: Checked
    against: tuple[str, ...]
    note: str = ""


class BrockTable(Record):
    name: str
    source: str
    models: tuple[BrockModel, ...]
    figures: dict[str, float]


class Variability(Record):
    """Where the default of one parameter of the error bars comes from."""

    parameter: str
    value: float
    finding: str
    source: str
    checked: Checked


class VariabilityTable(Record):
    figures: tuple[Variability, ...]
