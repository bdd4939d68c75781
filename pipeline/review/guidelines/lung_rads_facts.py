"""A nodule as the facts that the rows of Lung-RADS ask: its kind, status, rounded sizes and their intervals."""

from __future__ import annotations

from data_contracts.guidelines import GrowthResult, GuidelineNodule, PatientContext
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.matching import Fact, Facts, Measure
from pipeline.review.guidelines.sizes import (
    diameter_interval_mm,
    exact_mean_mm,
    mean_diameter_mm,
    relative_interval,
    round_half_up,
)
from pipeline.review.guidelines.tables import LUNG_RADS, rule_table

#: Facts in the words of a report.
WORDS = {
    "type": "nodule type",
    "status": "comparison with earlier CTs (first, new, growing or stable)",
    "solid_status": "change of the solid part",
    "diameter_mm": "mean diameter",
    "solid_diameter_mm": "diameter of the solid part",
    "volume_mm3": "volume",
    "solid_volume_mm3": "volume of the solid part",
    "cyst_change": "change of the cyst",
    "airway": "place of the airway nodule",
    "cyst": "kind of cyst",
}

#: A property that nobody looked at: no row may rest on it, and the result names it.
NOT_ASSESSED = "not assessed"


def status_of(nodule: GuidelineNodule, context: PatientContext, growth: GrowthResult | None) -> tuple[str | None, str]:
    """The status that rows ask, and a remark on where it comes from; None where it is unknown."""
    measured = (
        None
        if growth is None or growth.grew_by_diameter is None
        else ("growing" if growth.grew_by_diameter else "stable")
    )
    if nodule.status is not None:
        if measured == "growing" and nodule.status == "stable" and growth is not None:
            return nodule.status, f"called stable, though {growth.words}"
        return nodule.status, nodule.status_reason
    if measured is not None and growth is not None:
        return measured, growth.words
    if nodule.prior is None and (context.earlier_ct is False or context.prior_dates == ()):
        return "baseline", ""
    return None, nodule.status_reason


def facts_of(nodule: GuidelineNodule, status: str | None) -> dict[str, Fact]:
    """What rows ask about a nodule; sizes rounded as Lung-RADS rounds them."""
    kind = "nodule"
    if nodule.airway not in (None, "none"):
        kind = "airway"
    elif nodule.cyst not in (None, "none"):
        kind = "cyst"
    return {
        "kind": kind,
        "type": nodule.nodule_type,
        "status": status,
        "solid_status": _solid_status(nodule, status),
        "diameter_mm": mean_diameter_mm(nodule, 0.1),
        "solid_diameter_mm": _rounded(nodule.solid_diameter_mm, 0.1),
        "volume_mm3": _rounded(nodule.volume_mm3, 1.0),
        "solid_volume_mm3": _rounded(nodule.solid_volume_mm3, 1.0),
        "calcification": nodule.calcification or NOT_ASSESSED,
        "fat": _yes_no(nodule.fat),
        "juxtapleural": _yes_no(nodule.juxtapleural),
        "smooth": _yes_no(nodule.smooth),
        "shape": nodule.shape or NOT_ASSESSED,
        "airway": nodule.airway,
        "cyst": nodule.cyst,
        # A cyst that is seen for the first time, or called stable, has not changed.
        "cyst_change": nodule.cyst_change or ("none" if status in ("baseline", "new", "stable") else None),
    }


def intervals_of(
    nodule: GuidelineNodule, facts: Facts, measure: Measure, params: GuidelineParams
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the measured facts, rounded as the facts are."""
    if measure == "volume":
        cv, step = params.reader_volume_cv, 1.0
        names = ("volume_mm3", "solid_volume_mm3")
        intervals = {name: relative_interval(float(facts[name] or 0), cv) for name in names if facts[name] is not None}
    else:
        step = 0.1
        intervals = {}
        if (exact := exact_mean_mm(nodule)) is not None:
            intervals["diameter_mm"] = diameter_interval_mm(nodule, exact, params)
        if nodule.solid_diameter_mm is not None:
            intervals["solid_diameter_mm"] = relative_interval(nodule.solid_diameter_mm, params.reader_diameter_cv)
    return {name: (round_half_up(low, step), round_half_up(high, step)) for name, (low, high) in intervals.items()}


def not_assessed(nodule: GuidelineNodule) -> tuple[str, ...]:
    """Properties nobody looked at that would change the category."""
    looked_at: dict[str, object] = {
        "calcification": nodule.calcification,
        "fat": nodule.fat,
        "spiculation": nodule.spiculation,
        "airway": nodule.airway,
        "cyst": nodule.cyst,
        "juxtapleural place": nodule.juxtapleural,
    }
    if nodule.juxtapleural:
        looked_at |= {"smooth margin": nodule.smooth, "shape": nodule.shape}
    if nodule.prior is not None or nodule.status == "stable":
        looked_at["category of the earlier CT"] = nodule.prior.lung_rads if nodule.prior else None
    return tuple(name for name, value in looked_at.items() if value is None)


def _solid_status(nodule: GuidelineNodule, status: str | None) -> str | None:
    growth_mm = rule_table(LUNG_RADS).figures["growth_mm"]
    if nodule.solid_status is not None:
        return nodule.solid_status
    if status in ("baseline", "new"):
        return status
    prior = nodule.prior
    if nodule.nodule_type != "part_solid":
        return None
    if prior is not None and prior.nodule_type == "ground_glass":
        return "new"
    if prior is not None and prior.solid_diameter_mm is not None and nodule.solid_diameter_mm is not None:
        change = round(round_half_up(nodule.solid_diameter_mm, 0.1) - round_half_up(prior.solid_diameter_mm, 0.1), 1)
        return "growing" if change > growth_mm else "stable"
    # A reader who calls the nodule stable has looked at its solid part; two mean diameters have not.
    return "stable" if nodule.status == "stable" else None


def _rounded(value: float | None, step: float) -> float | None:
    return None if value is None else round_half_up(value, step)


def _yes_no(value: bool | None) -> str:
    return NOT_ASSESSED if value is None else ("yes" if value else "no")
