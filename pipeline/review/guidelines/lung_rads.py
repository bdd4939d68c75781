"""Lung-RADS v2022 of one nodule: its row, the steps between examinations, and what the error of its size allows."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.guideline_tables import RuleRow
from data_contracts.guidelines import GrowthResult, GuidelineNodule, GuidelineResult, PatientContext
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.lung_rads_facts import WORDS, facts_of, intervals_of, not_assessed, status_of
from pipeline.review.guidelines.lung_rads_hints import hints_of_bounds, hints_of_growth, raised_by_features
from pipeline.review.guidelines.lung_rads_steps import Decision, by_step, row_of_stable, stepped
from pipeline.review.guidelines.matching import Fact, Facts, Match, Measure, bounds_asked, match, reachable
from pipeline.review.guidelines.tables import LUNG_RADS, checked_against, rule_table

TABLE = rule_table(LUNG_RADS)


def lung_rads_of_nodule(
    nodule: GuidelineNodule,
    context: PatientContext,
    params: GuidelineParams,
    growth: GrowthResult | None = None,
    days: int | None = None,
) -> GuidelineResult:
    """Category of one nodule. growth, days: against its prior, where there is one with a date."""
    if context.screening is False:
        return not_screening()
    if nodule.proven_benign:
        decision = by_step("2", "step-4B-to-2", "proven benign by diagnostic workup")
        return _result(context, decision, {"2"}, nodule)
    status, status_note = status_of(nodule, context, growth)
    facts = facts_of(nodule, status)
    unchanged = status == "stable" and facts["solid_status"] not in ("new", "growing") and facts["kind"] != "airway"
    if unchanged and facts["type"] == "part_solid" and facts["solid_status"] is None:
        return _solid_part_unknown(nodule, context, params, growth, days)
    measure: Measure = "volume" if facts["diameter_mm"] is None and facts["volume_mm3"] is not None else "diameter"
    asked = as_at_first_detection(facts) if unchanged else facts
    found = match(TABLE, asked, measure)
    step = TABLE.diameter_step_mm if measure == "diameter" else 1.0
    rows = reachable(TABLE, asked, intervals_of(nodule, asked, measure, params), step, measure)
    if found.row is None:
        return _unmatched(found, rows, facts, measure, nodule)
    size = Decision(found.row.category, found.row, _reason(found.row, asked, measure))
    decision = stepped(nodule, size, days) if unchanged else size
    possible = {row.category for row in rows}
    if unchanged:
        possible = {stepped(nodule, Decision(row.category, row, ""), days).category for row in rows}
    placed = {**facts, "status": "stable"} if unchanged and row_of_stable(nodule, found.row) else asked
    hinted, notes = hints_of_bounds(placed, measure, decision.category if placed is not asked else size.category)
    if unchanged and growth is not None:
        more, words = hints_of_growth(facts, measure, growth)
        hinted, notes = hinted | more, [*notes, *words]
    decision = decision._replace(notes=(*decision.notes, *([status_note] if status_note else []), *notes))
    decision, possible = raised_by_features(nodule, decision, possible | hinted, growth)
    return _result(context, decision, possible, nodule)


def as_at_first_detection(facts: Facts) -> dict[str, Fact]:
    """The facts of a nodule whose size class alone is asked."""
    return {**facts, "status": "baseline", "solid_status": "baseline"}


def not_screening() -> GuidelineResult:
    """The refusal of a CT that belongs to no screening programme."""
    reason = "Lung-RADS is for CTs of a screening programme; this one is not"
    return GuidelineResult(guideline=TABLE.name, status="refused", reason=reason, source=TABLE.source)


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
    possible = {each for result in either for each in result.possible}
    return _refusal(Match(None, (), ("solid_status",)), possible, nodule)


def _unmatched(
    found: Match, rows: Sequence[RuleRow], facts: Facts, measure: Measure, nodule: GuidelineNodule
) -> GuidelineResult:
    """The refusal of a nodule that lacks an input; of one that nobody compared with what its size alone would say."""
    possible = {row.category for row in rows}
    notes: tuple[str, ...] = ()
    if "status" in found.missing:
        # Stable since an earlier CT it may have been stepped down.
        possible.add("2")
        first = match(TABLE, as_at_first_detection(facts), measure).row
        notes = (f"at first detection it would be category {first.category}",) if first else ()
    return _refusal(found, possible, nodule).model_copy(update={"notes": notes})


def _refusal(found: Match, possible: set[str], nodule: GuidelineNodule) -> GuidelineResult:
    ordered = tuple(sorted(possible, key=TABLE.rank))
    missing = tuple(WORDS.get(name, name) for name in found.missing)
    if nodule.prior is not None and "status" in found.missing:
        missing += ("dates and sizes of both CTs",)
    reason = "no row of the table names such a finding"
    if missing:
        reason = f"Lung-RADS needs: {', '.join(missing)}"
        reason += f" (possible: {', '.join(ordered)})" if ordered else ""
        reason += f"; {nodule.status_reason}" if "status" in found.missing and nodule.status_reason else ""
    return GuidelineResult(
        guideline=TABLE.name,
        status="refused",
        possible=ordered,
        reason=reason,
        missing=missing,
        not_assessed=not_assessed(nodule),
        source=TABLE.source,
    )


def _result(
    context: PatientContext, decision: Decision, possible: set[str], nodule: GuidelineNodule
) -> GuidelineResult:
    unknown = context.screening is None
    rule = decision.rule
    own = (rule.note,) if rule.note and rule.note not in decision.notes else ()
    return GuidelineResult(
        guideline=TABLE.name,
        status="conditional" if unknown else "given",
        category=decision.category,
        possible=tuple(sorted(possible | {decision.category}, key=TABLE.rank)),
        rule=rule.id,
        reason=decision.reason,
        management=TABLE.management[decision.category],
        condition="this is a CT of a screening programme" if unknown else "",
        missing=("screening",) if unknown else (),
        not_assessed=not_assessed(nodule),
        notes=(*decision.notes, *own),
        source=TABLE.source,
        verified=rule.checked != "unverified",
        checked_against=checked_against(TABLE, rule),
    )


def _reason(row: RuleRow, facts: Facts, measure: Measure) -> str:
    """The row and the figures it was asked about: mm to one decimal, whole mm3."""
    parts = [row.finding]
    for name, bound in bounds_asked(row, facts, measure).items():
        value = float(facts[name] or 0)
        size = f"{value:.0f} mm3" if name.endswith("mm3") else f"{value:.1f} mm"
        parts.append(f"{WORDS[name]} {size} ({bound.words('')})")
    return "; ".join(parts)
