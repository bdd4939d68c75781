"""Stepped management of Lung-RADS v2022: a nodule that is stable or smaller, by its category on the earlier CT."""

from __future__ import annotations

from typing import NamedTuple

from data_contracts.guideline_tables import Rule, RuleRow
from data_contracts.guidelines import GuidelineNodule, PriorNodule
from pipeline.review.guidelines.lung_rads_facts import facts_of
from pipeline.review.guidelines.matching import Measure, match
from pipeline.review.guidelines.sizes import mean_diameter_mm
from pipeline.review.guidelines.tables import LUNG_RADS, rule_table

_TABLE = rule_table(LUNG_RADS)

#: What decides the size class of a nodule beside its sizes.
_PROPERTIES = {
    "nodule_id",
    "nodule_type",
    "calcification",
    "fat",
    "juxtapleural",
    "smooth",
    "shape",
    "cyst",
    "cyst_change",
}
_SIZES = {
    "mean_diameter_mm",
    "long_axis_mm",
    "short_axis_mm",
    "volume_mm3",
    "solid_diameter_mm",
    "solid_volume_mm3",
}


class Decision(NamedTuple):
    """A category, the rule that gave it, and why."""

    category: str
    rule: Rule
    reason: str
    notes: tuple[str, ...] = ()


def by_step(category: str, rule_id: str, reason: str) -> Decision:
    """A decision by one of the table's steps."""
    return Decision(category, _TABLE.rule(rule_id), reason)


def stepped(nodule: GuidelineNodule, size: Decision, days: int | None) -> Decision:
    """Category of a nodule that is stable or smaller; `size` is its class as at first detection.

    days: since the earlier CT; None is unknown, and nothing is lowered then.
    """
    prior = nodule.prior or PriorNodule()
    before = prior.lung_rads
    if (row := row_of_stable(nodule, size.rule)) is not None:
        return Decision(row.category, row, size.reason.replace(size.rule.finding, row.finding, 1))
    if size.category == "1" or before == "0":
        return size
    if before is None:
        return size._replace(notes=("without the category of the earlier CT no step down is taken",))
    if _reached_higher_class(nodule, prior, size):
        return by_step(size.category, "size-class", f"reached a higher size class: {size.reason}")
    stable = f"category {before} before, stable or smaller"
    if before in ("1", "2"):
        return by_step("2", "stable-2", stable)
    if before in ("4B", "4X"):
        note = f"by its size alone it would be category {size.category}"
        return by_step(before, "stable-4B", f"{stable}, not proven benign")._replace(notes=(note,))
    lower, rule_id, figure = (
        ("2", "step-3-to-2", "step_3_to_2_days") if before == "3" else ("3", "step-4A-to-3", "step_4a_to_3_days")
    )
    if days is None:
        note = f"without the dates of both CTs category {before} is not lowered"
        return by_step(before, rule_id, stable)._replace(notes=(note,))
    if days < _TABLE.figures[figure]:
        return by_step(before, rule_id, f"{stable}, but only {days} days later")
    return by_step(lower, rule_id, f"{stable} {days} days later")


def row_of_stable(nodule: GuidelineNodule, at_first: Rule) -> RuleRow | None:
    """The table's own row for a stable nodule of the size class of `at_first`; None where only a step places it.

    None too after a category 4: size alone never gives one to ground glass, so that the row says nothing of what did.
    """
    if not isinstance(at_first, RuleRow) or (nodule.prior and nodule.prior.lung_rads in ("4A", "4B", "4X")):
        return None
    facts = facts_of(nodule, "stable")
    return next(
        (
            row
            for row in _TABLE.rows
            if "stable" in row.when.get("status", ())
            and (row.bounds, row.volume) == (at_first.bounds, at_first.volume)
            and all(facts.get(name) in words for name, words in row.when.items())
        ),
        None,
    )


def _reached_higher_class(nodule: GuidelineNodule, prior: PriorNodule, size: Decision) -> bool:
    """Whether the size class is higher than that of the prior's size; False where that size is unknown."""
    before = GuidelineNodule.model_validate(
        {**nodule.model_dump(include=_PROPERTIES), **prior.model_dump(include=_SIZES)}
    )
    measure: Measure = "diameter" if mean_diameter_mm(prior, 0.1) is not None else "volume"
    row = match(_TABLE, facts_of(before, "baseline"), measure).row
    return row is not None and _TABLE.rank(size.category) > _TABLE.rank(row.category)
