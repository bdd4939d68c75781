"""What else Lung-RADS v2022 could say of a nodule: disputed bounds, slow growth, growth in volume only, 4X."""

from __future__ import annotations

from data_contracts.guidelines import GrowthResult, GuidelineNodule
from pipeline.review.guidelines.lung_rads_steps import Decision, by_step
from pipeline.review.guidelines.matching import Facts, Measure, disputed, match
from pipeline.review.guidelines.tables import LUNG_RADS, rule_table

_TABLE = rule_table(LUNG_RADS)

Hints = tuple[set[str], list[str]]


def hints_of_bounds(asked: Facts, measure: Measure, category: str) -> Hints:
    """Categories and words about bounds that sources dispute, and about volumes of another size class."""
    rows = disputed(_TABLE, asked)
    notes = [row.note for row in rows]
    if measure == "diameter" and asked["volume_mm3"] is not None:
        row = match(_TABLE, asked, "volume").row
        if row is not None and row.category != category:
            volume = f"by its volume of {asked['volume_mm3']:.0f} mm3"
            notes.append(f"{volume} the same size class would be category {row.category}")
    return {row.category for row in rows}, notes


def hints_of_growth(facts: Facts, measure: Measure, growth: GrowthResult) -> Hints:
    """Categories and words about a nodule that counts as stable though its diameter or volume rose."""
    possible: set[str] = set()
    notes: list[str] = []
    slowly = (growth.diameter_change_mm or 0.0) > _TABLE.figures["growth_mm"]
    if slowly and growth.grew_by_diameter is False and facts["type"] in ("solid", "part_solid"):
        possible.add("4B")
        notes.append(
            f"{growth.words}: growth, but not by more than {_TABLE.figures['growth_mm']:g} mm in 12 months; "
            "over several screening CTs it would be category 4B"
        )
    if growth.doublings_interval is not None and growth.doublings_interval[0] > 0:
        row = match(_TABLE, {**facts, "status": "growing", "solid_status": "growing"}, measure).row
        called = f"; called growing it would be category {row.category}" if row else ""
        possible |= {row.category} if row else set()
        notes.append(
            f"its volume grew by {growth.volume_change_percent:.0f} %, more than two measurements of one nodule "
            f"differ, while its diameter counts as stable{called}"
        )
    return possible, notes


def raised_by_features(
    nodule: GuidelineNodule, decision: Decision, possible: set[str], growth: GrowthResult | None
) -> tuple[Decision, set[str]]:
    """4X: a category 3 or 4 with features that raise suspicion; of a category 1 or 2 they are said."""
    features = [*(["spiculation"] if nodule.spiculation else []), *nodule.suspicious_features]
    if nodule.nodule_type == "ground_glass" and growth is not None and _doubled_within_a_year(growth):
        features.append("ground glass that doubled within a year")
    if not features or decision.category == "4X":
        return decision, possible
    named = ", ".join(features)
    if decision.category not in ("3", "4A", "4B"):
        note = f"{named}: 4X is for categories 3 and 4; a reader decides"
        return decision._replace(notes=(*decision.notes, note)), possible | {"4X"}
    raised = by_step("4X", "suspicious-4X", f"category {decision.category} ({decision.reason}) with {named}")
    return raised._replace(notes=decision.notes), {"4X" if each in ("3", "4A", "4B") else each for each in possible}


def _doubled_within_a_year(growth: GrowthResult) -> bool:
    within = growth.days <= _TABLE.figures["growth_within_days"] + 1
    return within and (growth.volume_change_percent or 0.0) >= 100
