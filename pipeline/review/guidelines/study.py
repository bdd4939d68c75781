"""All guidelines about one study: of each nodule, and of the most suspicious one."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.guidelines import (
    GuidelineNodule,
    NoduleGuidelines,
    PatientContext,
    PriorNodule,
    StudyGuidelines,
)
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines import bts as bts_rules
from pipeline.review.guidelines import fleischner as fleischner_rules
from pipeline.review.guidelines import lung_rads as lung_rads_rules
from pipeline.review.guidelines.brock import brock
from pipeline.review.guidelines.fleischner import SEVERAL, Others
from pipeline.review.guidelines.growth import days_between, measure_growth
from pipeline.review.guidelines.lung_rads_study import lung_rads_of_study
from pipeline.review.guidelines.most_suspicious import most_suspicious
from pipeline.review.guidelines.sizes import mean_diameter_mm


def assess_study(
    nodules: Sequence[GuidelineNodule],
    context: PatientContext,
    prior: StudyGuidelines | None = None,
    params: GuidelineParams | None = None,
) -> StudyGuidelines:
    """Lung-RADS v2022, Fleischner 2017, BTS 2015 and Brock for the nodules of one CT.

    prior: what this function said about the earlier CT; categories of matched nodules (`nodule.prior.nodule_id`) that
    a nodule's own prior does not name are taken from it. Nothing unknown is imputed: a guideline that needs it is
    refused and names it. With an empty list Lung-RADS is 1 only if the context says that the lungs were searched.
    """
    params = params or GuidelineParams()
    nodules = [_with_prior_category(nodule, prior) for nodule in nodules]
    others = _others(nodules, context)
    assessed = tuple(_assess(nodule, context, others, params) for nodule in nodules)
    deciding: dict[str, str] = {}
    lung_rads = lung_rads_of_study(assessed, context, deciding)
    exclusion = fleischner_rules.exclusions(context)
    fleischner = exclusion or most_suspicious(
        fleischner_rules.TABLE, [(each.nodule_id, each.fleischner) for each in assessed], deciding, context
    )
    bts = most_suspicious(bts_rules.TABLE, [(each.nodule_id, each.bts) for each in assessed], deciding, context)
    return StudyGuidelines(
        lung_rads=lung_rads, fleischner=fleischner, bts=bts, nodules=assessed, deciding_nodules=deciding
    )


def _assess(
    nodule: GuidelineNodule, context: PatientContext, others: Others, params: GuidelineParams
) -> NoduleGuidelines:
    figures = lung_rads_rules.TABLE.figures
    growth, days = None, None
    if nodule.prior is not None:
        days = days_between(context.study_date, nodule.prior)
        if days is not None:
            growth = measure_growth(
                nodule,
                nodule.prior,
                days,
                params,
                growth_mm=figures["growth_mm"],
                within_days=figures["growth_within_days"],
            )
    risks = brock(nodule, context, others.n_nodules, params)
    return NoduleGuidelines(
        nodule_id=nodule.nodule_id,
        mean_diameter_mm=mean_diameter_mm(nodule, 0.1),
        lung_rads=lung_rads_rules.lung_rads_of_nodule(nodule, context, params, growth, days),
        fleischner=fleischner_rules.fleischner_of_nodule(nodule, context, others, params),
        bts=bts_rules.bts_of_nodule(nodule, context, risks, params, growth),
        brock=risks,
        growth=growth,
    )


def _others(nodules: Sequence[GuidelineNodule], context: PatientContext) -> Others:
    """Counts of nodules as a person stated them; the list says no more than that there are several."""
    marked = [nodule for nodule in nodules if not nodule.is_candidate]
    count, subsolid = context.nodule_count, context.subsolid_count
    if subsolid is None:
        subsolid = sum(nodule.nodule_type in ("ground_glass", "part_solid") for nodule in marked)
        is_whole = len(marked) == count and all(nodule.nodule_type is not None for nodule in marked)
        if count is not None and count <= 1:
            subsolid = min(subsolid, count)
        elif subsolid < SEVERAL and not is_whole:
            subsolid = None
    are_several = count >= SEVERAL if count is not None else (len(marked) >= SEVERAL or None)
    return Others(count, are_several, None if subsolid is None else subsolid >= SEVERAL)


def _with_prior_category(nodule: GuidelineNodule, prior: StudyGuidelines | None) -> GuidelineNodule:
    if prior is None or nodule.prior is None or nodule.prior.lung_rads is not None or not nodule.prior.nodule_id:
        return nodule
    category = next(
        (each.lung_rads.category for each in prior.nodules if each.nodule_id == nodule.prior.nodule_id), None
    )
    if category is None:
        return nodule
    before = PriorNodule.model_validate({**nodule.prior.model_dump(), "lung_rads": category})
    return nodule.model_copy(update={"prior": before})
