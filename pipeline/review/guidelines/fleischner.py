"""Fleischner 2017 of one nodule: refused where the guideline does not apply, else its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_contracts.guidelines import GuidelineNodule, GuidelineResult, PatientContext
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.asking import COUNT, SUBSOLID_COUNT, needs
from pipeline.review.guidelines.growth import fleischner_growth_mm
from pipeline.review.guidelines.matching import Fact, Measure, bounds_asked, categories_of, match, reachable
from pipeline.review.guidelines.sizes import (
    diameter_interval_mm,
    exact_mean_mm,
    mean_diameter_mm,
    relative_interval,
    round_half_up,
)
from pipeline.review.guidelines.tables import FLEISCHNER, checked_against, rule_table

TABLE = rule_table(FLEISCHNER)

_WORDS = {
    "type": "nodule type",
    "diameter_mm": "mean diameter",
    "solid_diameter_mm": "diameter of the solid part",
    "volume_mm3": "volume",
    "multiple": COUNT,
}

BENIGN_CALCIFICATION = ("complete", "central", "popcorn", "concentric")


#: From how many nodules on the guideline speaks of several.
SEVERAL = 2


class Others(NamedTuple):
    """Nodules in both lungs as a person counted them, and whether they, and the subsolid ones, are several; None is
    unknown."""

    n_nodules: int | None
    are_several: bool | None
    are_several_subsolid: bool | None


def fleischner_of_nodule(
    nodule: GuidelineNodule, context: PatientContext, others: Others, params: GuidelineParams
) -> GuidelineResult:
    """Management of one nodule found by chance."""
    refused = exclusions(context)
    if refused is not None:
        return refused
    if (diameter := exact_mean_mm(nodule)) is not None and diameter > TABLE.figures["largest_mm"]:
        return _refused(f"larger than {TABLE.figures['largest_mm']:g} mm: a mass, not a nodule")
    risk, unknown_risks, why = risk_of(nodule, context)
    facts = _facts(nodule, others, risk)
    measure: Measure = "volume" if facts["diameter_mm"] is None and facts["volume_mm3"] is not None else "diameter"
    found = match(TABLE, facts, measure)
    spread = reachable(TABLE, facts, _intervals(nodule, facts, params), TABLE.diameter_step_mm, measure)
    possible = categories_of(TABLE, spread)
    if found.row is None:
        words = {**_WORDS, "multiple_subsolid": COUNT if others.n_nodules is None else SUBSOLID_COUNT}
        missing = list(dict.fromkeys(words.get(name, name) for name in found.missing if name != "risk"))
        missing += list(unknown_risks) if "risk" in found.missing else []
        return _refused(needs("Fleischner", missing), tuple(missing), possible)
    row = found.row
    figures = [
        f"{_WORDS[name]} {float(facts[name] or 0):.0f} {'mm3' if name.endswith('mm3') else 'mm'} ({bound.words('')})"
        for name, bound in bounds_asked(row, facts, measure).items()
    ]
    return GuidelineResult(
        guideline=TABLE.name,
        status="given",
        category=row.category,
        possible=possible,
        rule=row.id,
        reason="; ".join([row.finding, *figures, *([why] if "risk" in row.when else [])]),
        management=row.management,
        not_assessed=_not_assessed(nodule),
        notes=_notes(nodule, facts, row.category, row.note),
        source=TABLE.source,
        verified=row.checked != "unverified",
        checked_against=checked_against(TABLE, row),
    )


def exclusions(context: PatientContext) -> GuidelineResult | None:
    """The refusal of a patient whom the guideline is not for, or of whom that is not known; None where it applies."""
    youngest = TABLE.figures["youngest_years"]
    reasons = [
        words
        for holds, words in (
            (context.screening, "a CT of a screening programme"),
            (context.age_years is not None and context.age_years < youngest, f"a patient below {youngest:g} years"),
            (context.cancer_history, "a patient with a history of cancer"),
            (context.immunosuppression, "an immunosuppressed patient"),
        )
        if holds
    ]
    if reasons:
        return _refused(f"Fleischner 2017 is not for {', '.join(reasons)}")
    asked = {
        "screening": context.screening,
        "age": context.age_years,
        "history of cancer": context.cancer_history,
        "immunosuppression": context.immunosuppression,
    }
    missing = tuple(name for name, value in asked.items() if value is None)
    return _refused(f"Fleischner needs: {', '.join(missing)}", missing) if missing else None


def risk_of(nodule: GuidelineNodule, context: PatientContext) -> tuple[str | None, tuple[str, ...], str]:
    """("high" | "low" | None, inputs that decide it and are unknown, the reason in words).

    High with any one factor, low without any; the paper names the factors and leaves their weight to the reader.
    """
    factors = {
        "smoking": _heavy_smoking(context),
        "emphysema": context.emphysema,
        "pulmonary fibrosis": context.pulmonary_fibrosis,
        "family history": context.family_history,
        "carcinogens": context.carcinogens,
        "spiculation": nodule.spiculation,
        "upper lobe": nodule.upper_lobe,
    }
    present = [name for name, value in factors.items() if value]
    if present:
        return "high", (), f"high risk: {', '.join(present)}"
    unknown = tuple(name for name, value in factors.items() if value is None)
    return (None, unknown, "") if unknown else ("low", (), "low risk: no risk factor")


def _heavy_smoking(context: PatientContext) -> bool | None:
    figures = TABLE.figures
    if context.smoking == "never":
        return False
    if context.pack_years is None:
        return None
    if context.pack_years < figures["heavy_smoking_pack_years"]:
        return False
    if context.smoking == "current":
        return True
    return None if context.quit_years is None else context.quit_years <= figures["quit_within_years"]


def is_benign(nodule: GuidelineNodule) -> bool:
    """Benign calcification or fat; what was not assessed is not benign."""
    return nodule.calcification in BENIGN_CALCIFICATION or bool(nodule.fat)


def looks_like_lymph_node(nodule: GuidelineNodule, shapes: Sequence[str]) -> bool:
    """A solid, smooth nodule of such a shape at a fissure or the pleura."""
    return bool(nodule.nodule_type == "solid" and nodule.juxtapleural and nodule.smooth and nodule.shape in shapes)


def _facts(nodule: GuidelineNodule, others: Others, risk: str | None) -> dict[str, Fact]:
    return {
        "benign": "yes" if is_benign(nodule) else "no",
        "lymph_node": "yes" if looks_like_lymph_node(nodule, ("oval", "lentiform", "triangular")) else "no",
        "type": nodule.nodule_type,
        "juxtapleural": "yes" if nodule.juxtapleural else "no",
        "smooth": "yes" if nodule.smooth else "no",
        "shape": nodule.shape or "not assessed",
        "risk": risk,
        "multiple": _yes_no(others.are_several),
        "multiple_subsolid": _yes_no(others.are_several_subsolid),
        "diameter_mm": mean_diameter_mm(nodule, TABLE.diameter_step_mm),
        "solid_diameter_mm": None
        if nodule.solid_diameter_mm is None
        else round_half_up(nodule.solid_diameter_mm, TABLE.diameter_step_mm),
        "volume_mm3": None if nodule.volume_mm3 is None else round_half_up(nodule.volume_mm3),
    }


def _yes_no(value: bool | None) -> Fact:
    return None if value is None else ("yes" if value else "no")


def _intervals(
    nodule: GuidelineNodule, facts: dict[str, Fact], params: GuidelineParams
) -> dict[str, tuple[float, float]]:
    intervals = {}
    if (exact := exact_mean_mm(nodule)) is not None:
        intervals["diameter_mm"] = diameter_interval_mm(nodule, exact, params)
    elif facts["volume_mm3"] is not None:
        intervals["volume_mm3"] = relative_interval(float(facts["volume_mm3"]), params.reader_volume_cv)
    if nodule.solid_diameter_mm is not None:
        intervals["solid_diameter_mm"] = relative_interval(nodule.solid_diameter_mm, params.reader_diameter_cv)
    return {name: (round_half_up(low), round_half_up(high)) for name, (low, high) in intervals.items()}


def _notes(nodule: GuidelineNodule, facts: dict[str, Fact], category: str, note: str) -> tuple[str, ...]:
    notes = [note] if note else []
    if facts["diameter_mm"] is not None and facts["volume_mm3"] is not None:
        row = match(TABLE, facts, "volume").row
        if row is not None and row.category != category:
            notes.append(f"by its volume of {facts['volume_mm3']:.0f} mm3: {row.category}")
    if nodule.prior is not None:
        change = fleischner_growth_mm(nodule, nodule.prior)
        if change is not None and change >= TABLE.figures["growth_mm"]:
            notes.append(f"grew by {change:g} mm since the earlier CT; the table is for the first CT of a nodule")
    return tuple(notes)


def _not_assessed(nodule: GuidelineNodule) -> tuple[str, ...]:
    looked_at = {
        "calcification": nodule.calcification,
        "fat": nodule.fat,
        "juxtapleural place": nodule.juxtapleural,
    }
    return tuple(name for name, value in looked_at.items() if value is None)


def _refused(reason: str, missing: tuple[str, ...] = (), possible: tuple[str, ...] = ()) -> GuidelineResult:
    return GuidelineResult(
        guideline=TABLE.name, status="refused", reason=reason, missing=missing, possible=possible, source=TABLE.source
    )
