"""Lung-RADS v2022 of one nodule: its row, the steps between examinations, and what the error of its size allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_contracts.guideline_tables import Rule, RuleRow
from data_contracts.guidelines import GrowthResult, GuidelineNodule, GuidelineResult, PatientContext, PriorNodule
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.lung_rads_facts import WORDS, facts_of, intervals_of, not_assessed, status_of
from pipeline.review.guidelines.matching import (
    Facts,
    Match,
    Measure,
    bounds_asked,
    categories_of,
    disputed,
    match,
    reachable,
)
from pipeline.review.guidelines.sizes import mean_diameter_mm
from pipeline.review.guidelines.tables import LUNG_RADS, checked_against, rule_table

TABLE = rule_table(LUNG_RADS)

#: Statuses of a nodule that was there before and did not grow: placed by its earlier category and its size class.
_UNCHANGED = "stable"


class _Decision(NamedTuple):
    category: str
    rule: Rule
    reason: str
    notes: tuple[str, ...] = ()


def lung_rads_of_nodule(
    nodule: GuidelineNodule,
    context: PatientContext,
    params: GuidelineParams,
    growth: GrowthResult | None = None,
    days: int | None = None,
) -> GuidelineResult:
    """Category of one nodule. growth, days: against its prior, where there is one with a date."""
    status, status_note = status_of(nodule, context, growth)
    facts = facts_of(nodule, status)
    measure: Measure = "volume" if facts["diameter_mm"] is None and facts["volume_mm3"] is not None else "diameter"
    if nodule.proven_benign:
        return _result(context, _step("2", "step-4B-to-2", "proven benign by diagnostic workup"), ("2",), nodule)
    stepped = status == _UNCHANGED and facts["solid_status"] not in ("new", "growing") and facts["kind"] != "airway"
    if stepped and facts["type"] == "part_solid" and facts["solid_status"] is None:
        return _solid_part_unknown(nodule, context, params, growth, days)
    asked = {**facts, "status": "baseline", "solid_status": "baseline"} if stepped else facts
    found = match(TABLE, asked, measure)
    spread = reachable(TABLE, asked, intervals_of(nodule, asked, measure, params), _step_of(measure), measure)
    if found.row is None:
        return _refusal(found, categories_of(TABLE, spread), context, nodule)
    size = _Decision(found.row.category, found.row, _reason(found.row, asked, measure))
    decision = _stepped(nodule, size, days) if stepped else size
    possible = (
        {_stepped(nodule, size._replace(category=row.category, rule=row), days).category for row in spread}
        if (stepped)
        else {row.category for row in spread}
    )
    notes = [*decision.notes, *([status_note] if status_note else [])]
    for row in disputed(TABLE, asked):
        possible.add(row.category)
        notes.append(row.note)
    if growth and _grew_slowly(growth) and facts["type"] in ("solid", "part_solid") and status == _UNCHANGED:
        possible.add("4B")
        notes.append(
            f"{growth.words}: growth, but not by more than {TABLE.figures['growth_mm']:g} mm in 12 months; "
            "over several screening CTs it would be category 4B"
        )
    notes += _volume_note(asked, measure, size.category)
    decision, possible = _suspicious(nodule, decision, possible, growth, notes)
    ordered = tuple(sorted(possible | {decision.category}, key=TABLE.rank))
    return _result(context, decision, ordered, nodule, tuple(notes))


def _solid_part_unknown(
    nodule: GuidelineNodule,
    context: PatientContext,
    params: GuidelineParams,
    growth: GrowthResult | None,
    days: int | None,
) -> GuidelineResult:
    """A part-solid nodule that is stable as a whole: without the change of its solid part there is no category."""
    either = [
        lung_rads_of_nodule(nodule.model_copy(update={"solid_status": change}), context, params, growth, days)
        for change in ("stable", "growing")
    ]
    possible = tuple(sorted({each for result in either for each in result.possible}, key=TABLE.rank))
    return _refusal(Match(None, (), ("solid_status",)), possible, context, nodule)


def _stepped(nodule: GuidelineNodule, size: _Decision, days: int | None) -> _Decision:
    """Stepped management of a nodule that is stable or smaller; `size` is its class as at first detection."""
    prior = nodule.prior or PriorNodule()
    before = prior.lung_rads
    figures = TABLE.figures
    if before is None or before == "0":
        note = "without the category of the earlier CT no step down is taken"
        return size._replace(notes=(note,) if before is None else ())
    if _reached_higher_class(nodule, prior, size):
        return _step(size.category, "size-class", f"reached a higher size class: {size.reason}")
    if before in ("1", "2"):
        return _step(
            before if size.category == "1" else "2", "stable-2", f"category {before} before, stable or smaller"
        )
    if before in ("4B", "4X"):
        kept = _step(before, "stable-4B", f"category {before} before, stable or smaller, not proven benign")
        return kept._replace(notes=(f"by its size alone it would be category {size.category}",))
    needed, lower, rule = (
        (figures["step_3_to_2_days"], "2", "step-3-to-2")
        if before == "3"
        else (figures["step_4a_to_3_days"], "3", "step-4A-to-3")
    )
    if days is None:
        note = f"without the dates of both CTs category {before} is not lowered"
        return _step(before, rule, f"category {before} before, stable or smaller")._replace(notes=(note,))
    if days < needed:
        return _step(before, rule, f"category {before} before, stable or smaller, but only {days} days later")
    return _step(lower, rule, f"category {before} before, stable or smaller {days} days later")


def _reached_higher_class(nodule: GuidelineNodule, prior: PriorNodule, size: _Decision) -> bool:
    """Whether the size class is higher than that of the prior's size; False where that size is unknown."""
    before = GuidelineNodule.model_validate(
        {
            **nodule.model_dump(include={"nodule_id", "nodule_type", "calcification", "fat", "juxtapleural", "smooth"}),
            **nodule.model_dump(include={"shape", "airway", "cyst", "cyst_change"}),
            **{
                name: getattr(prior, name)
                for name in ("mean_diameter_mm", "long_axis_mm", "short_axis_mm", "volume_mm3", "solid_diameter_mm")
            },
        }
    )
    measure: Measure = "diameter" if mean_diameter_mm(prior, 0.1) is not None else "volume"
    row = match(TABLE, facts_of(before, "baseline"), measure).row
    return row is not None and TABLE.rank(size.category) > TABLE.rank(row.category)


def _suspicious(
    nodule: GuidelineNodule,
    decision: _Decision,
    possible: set[str],
    growth: GrowthResult | None,
    notes: list[str],
) -> tuple[_Decision, set[str]]:
    """4X: a category 3 or 4 with features that raise suspicion."""
    features = [*(["spiculation"] if nodule.spiculation else []), *nodule.suspicious_features]
    doubled = (
        growth is not None
        and growth.days <= TABLE.figures["growth_within_days"]
        and ((growth.volume_change_percent or 0) >= 100)
    )
    if nodule.nodule_type == "ground_glass" and doubled:
        features.append("ground glass that doubled within a year")
    if not features or decision.category == "4X":
        return decision, possible
    if decision.category not in ("3", "4A", "4B"):
        notes.append(f"{', '.join(features)}: 4X is for categories 3 and 4; a reader decides")
        return decision, possible | {"4X"}
    raised = _step(
        "4X", "suspicious-4X", f"category {decision.category} ({decision.reason}) with {', '.join(features)}"
    )
    return raised._replace(notes=decision.notes), {"4X" if each in ("3", "4A", "4B") else each for each in possible}


def _grew_slowly(growth: GrowthResult) -> bool:
    return growth.grew_by_diameter is False and (growth.diameter_change_mm or 0.0) > TABLE.figures["growth_mm"]


def _volume_note(facts: Facts, measure: Measure, category: str) -> list[str]:
    """What the paper's volumes say, where they say something else."""
    if measure == "volume" or facts["volume_mm3"] is None:
        return []
    row = match(TABLE, facts, "volume").row
    if row is None or row.category == category:
        return []
    return [f"by its volume of {facts['volume_mm3']:.0f} mm3 the same size class would be category {row.category}"]


def _reason(row: RuleRow, facts: Facts, measure: Measure) -> str:
    figures = [
        f"{WORDS.get(name, name)} {float(facts[name] or 0):g} {_unit(name)} ({bound.words('')})"
        for name, bound in bounds_asked(row, facts, measure).items()
    ]
    return "; ".join([row.finding, *figures])


def _unit(name: str) -> str:
    return "mm3" if name.endswith("mm3") else "mm"


def _step_of(measure: Measure) -> float:
    return TABLE.diameter_step_mm if measure == "diameter" else 1.0


def _step(category: str, rule: str, reason: str) -> _Decision:
    return _Decision(category, TABLE.rule(rule), reason)


def _refusal(
    found: Match, possible: Sequence[str], context: PatientContext, nodule: GuidelineNodule
) -> GuidelineResult:
    missing = tuple(WORDS.get(name, name) for name in found.missing)
    if nodule.prior is not None and "status" in found.missing:
        missing += ("dates and sizes of both CTs",)
    if missing:
        reason = f"Lung-RADS needs: {', '.join(missing)}"
        if len(possible) > 1:
            reason += f" (possible: {', '.join(possible)})"
    else:
        reason = "no row of the table names such a finding"
    return GuidelineResult(
        guideline=TABLE.name,
        status="refused",
        possible=tuple(possible),
        reason=reason if context.screening is not False else not_screening(),
        missing=missing,
        not_assessed=not_assessed(nodule),
        source=TABLE.source,
    )


def not_screening() -> str:
    return "Lung-RADS is for CTs of a screening programme; this one is not"


def _result(
    context: PatientContext,
    decision: _Decision,
    possible: tuple[str, ...],
    nodule: GuidelineNodule,
    notes: tuple[str, ...] = (),
) -> GuidelineResult:
    if context.screening is False:
        return GuidelineResult(guideline=TABLE.name, status="refused", reason=not_screening(), source=TABLE.source)
    unknown = context.screening is None
    own = (decision.rule.note,) if decision.rule.note and decision.rule.note not in notes else ()
    return GuidelineResult(
        guideline=TABLE.name,
        status="conditional" if unknown else "given",
        category=decision.category,
        possible=possible,
        rule=decision.rule.id,
        reason=decision.reason,
        management=TABLE.management[decision.category],
        condition="this is a CT of a screening programme" if unknown else "",
        missing=("screening",) if unknown else (),
        not_assessed=not_assessed(nodule),
        notes=(*notes, *own),
        source=TABLE.source,
        verified=decision.rule.checked != "unverified",
        checked_against=checked_against(TABLE, decision.rule),
    )
