"""Lung-RADS v2022 of a study: category 0, category 1 without nodules, else the most suspicious nodule; modifier S."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.guidelines import GuidelineResult, NoduleGuidelines, PatientContext
from pipeline.review.guidelines.lung_rads import TABLE, not_screening
from pipeline.review.guidelines.most_suspicious import most_suspicious, possible_of_study
from pipeline.review.guidelines.tables import checked_against


def lung_rads_of_study(
    nodules: Sequence[NoduleGuidelines], context: PatientContext, deciding: dict[str, str]
) -> GuidelineResult:
    """One category for the CT. deciding: gets guideline -> nodule that decided."""
    if context.screening is False:
        return not_screening()
    results = [(nodule.nodule_id, nodule.lung_rads) for nodule in nodules]
    if incomplete := _incomplete(context):
        seen = most_suspicious(TABLE, results, {}, context) if results else None
        result = _study_wide(context, "0", "incomplete-0", incomplete)
        notes = () if seen is None else (f"of what was seen: {seen.category or 'no category'} ({seen.reason})",)
        possible = ("0", *possible_of_study(TABLE, [each for _, each in results]))
        return _with_modifier(result.model_copy(update={"notes": notes, "possible": possible}), context)
    if not results and context.lungs_searched:
        return _with_modifier(_study_wide(context, "1", "no-nodule-1", "no nodule found"), context)
    return _with_modifier(most_suspicious(TABLE, results, deciding, context), context)


def _incomplete(context: PatientContext) -> str:
    """Why the category is 0, or ""."""
    reasons = [
        words
        for holds, words in (
            (context.prior_being_located, "an earlier chest CT is being located"),
            (context.lungs_evaluable is False, "part or all of the lungs cannot be evaluated"),
            (context.infection_suspected, "findings that suggest infection or inflammation"),
        )
        if holds
    ]
    return "; ".join(reasons)


def _study_wide(context: PatientContext, category: str, rule_id: str, reason: str) -> GuidelineResult:
    rule = TABLE.rule(rule_id)
    unknown = context.screening is None
    return GuidelineResult(
        guideline=TABLE.name,
        status="conditional" if unknown else "given",
        category=category,
        possible=(category,),
        rule=rule_id,
        reason=reason,
        management=TABLE.management[category],
        condition="this is a CT of a screening programme" if unknown else "",
        missing=("screening",) if unknown else (),
        source=TABLE.source,
        verified=rule.checked != "unverified",
        checked_against=checked_against(TABLE, rule),
    )


def _with_modifier(result: GuidelineResult, context: PatientContext) -> GuidelineResult:
    if result.category is None:
        return result
    if context.other_significant_finding is None:
        return result.model_copy(update={"not_assessed": (*result.not_assessed, "other significant findings (S)")})
    return result.model_copy(update={"modifier": "S"}) if context.other_significant_finding else result
