"""The tables of the guidelines, read once from TOML and checked."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from data_contracts.guideline_tables import BrockTable, Rule, RuleTable, VariabilityTable

LUNG_RADS = "lung_rads_2022"
FLEISCHNER = "fleischner_2017"
BTS = "bts_2015"
BROCK = "brock_2013"
VARIABILITY = "variability"


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("pipeline.review.guidelines") / "tables" / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def rule_table(name: str) -> RuleTable:
    """The table LUNG_RADS, FLEISCHNER or BTS."""
    return RuleTable.model_validate(_read(name))


@cache
def brock_table() -> BrockTable:
    return BrockTable.model_validate(_read(BROCK))


@cache
def variability_table() -> VariabilityTable:
    return VariabilityTable.model_validate(_read(VARIABILITY))


def checked_against(table: RuleTable, rule: Rule) -> tuple[str, ...]:
    """What a rule was checked against, in full words."""
    return tuple(table.sources[name] for name in rule.against)
