"""Whatever is known of a patient and nodules: an answer comes, nothing is imputed, and the document is true."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.guidelines import GuidelineNodule, PatientContext, PriorNodule, StudyGuidelines
from pipeline.review.guidelines.study import assess_study
from pipeline.review.guidelines.tables import BTS, FLEISCHNER, LUNG_RADS, brock_table, rule_table

TODAY = date(2026, 11, 21)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guidelines.md"


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


CONTEXTS = st.fixed_dictionaries(
    {
        "age_years": maybe(20, 34, 35, 65),
        "sex": maybe("female", "male"),
        "emphysema": maybe(True, False),
        "pulmonary_fibrosis": maybe(True, False),
        "family_history": maybe(True, False),
        "smoking": maybe("never", "former", "current"),
        "pack_years": maybe(0, 30),
        "quit_years": maybe(1, 20),
        "carcinogens": maybe(True, False),
        "screening": maybe(True, False),
        "cancer_history": maybe(True, False),
        "immunosuppression": maybe(True, False),
        "study_date": maybe(TODAY),
        "prior_dates": maybe((), (TODAY - timedelta(days=200),)),
        "lungs_searched": maybe(True, False),
        "lungs_evaluable": maybe(True, False),
        "other_significant_finding": maybe(True, False),
        "earlier_ct": maybe(True, False),
        "nodule_count": maybe(0, 1, 3),
        "subsolid_count": maybe(0),
    }
).filter(lambda facts: facts["prior_dates"] is None or facts["earlier_ct"] in (None, bool(facts["prior_dates"])))
SIZES = {
    "nodule_type": maybe("solid", "part_solid", "ground_glass"),
    "mean_diameter_mm": maybe(3.0, 5.95, 7.0, 9.9, 31.0),
    "long_axis_mm": maybe(3.2, 8.0, 20.0),
    "volume_mm3": maybe(20.0, 113.0, 280.0, 15000.0),
    "solid_diameter_mm": maybe(1.0, 3.0),
    "slice_thickness_mm": maybe(1.0, 5.0),
    "measured_by": st.sampled_from(["software", "reader"]),
}
PRIORS = st.fixed_dictionaries(
    {
        **SIZES,
        "study_date": maybe(TODAY - timedelta(days=200)),
        "lung_rads": maybe("0", "1", "2", "3", "4A", "4B", "4X"),
    }
)
NODULES = st.fixed_dictionaries(
    {
        **SIZES,
        "status": maybe("baseline", "new", "growing", "slow_growing", "stable"),
        "solid_status": maybe("baseline", "new", "growing", "stable"),
        "prior": st.none() | PRIORS.map(lambda values: PriorNodule.model_validate(values)),
        "calcification": maybe("none", "popcorn", "eccentric"),
        "fat": maybe(True, False),
        "juxtapleural": maybe(True, False),
        "smooth": maybe(True, False),
        "shape": maybe("oval", "round"),
        "spiculation": maybe(True, False),
        "upper_lobe": maybe(True, False),
        "airway": maybe("none", "subsegmental", "segmental_or_proximal"),
        "cyst": maybe("none", "thin_walled", "thick_walled", "multilocular"),
        "cyst_change": maybe("none", "wall_growing", "became_multilocular"),
        "proven_benign": maybe(True, False),
    }
)


def study_of(context: dict[str, Any], nodules: list[dict[str, Any]]) -> StudyGuidelines:
    return assess_study(
        [GuidelineNodule.model_validate({"nodule_id": str(number), **each}) for number, each in enumerate(nodules)],
        PatientContext.model_validate(context),
    )


@settings(deadline=None, max_examples=150)
@given(CONTEXTS, st.lists(NODULES, max_size=3))
def test_whatever_is_known_there_is_an_answer_that_explains_itself(
    context: dict[str, Any], nodules: list[dict[str, Any]]
) -> None:
    study = study_of(context, nodules)
    every = [study.lung_rads, study.fleischner, study.bts]
    every += [result for each in study.nodules for result in (each.lung_rads, each.fleischner, each.bts)]
    for result in every:
        assert result.reason
        assert result.source
        assert result.words
        if result.status == "refused":
            assert result.category is None
            assert not result.management
        else:
            assert result.category in result.possible
            assert result.management
            assert result.rule
            assert (result.status == "conditional") == bool(result.condition)
            assert not result.missing or result.condition
    assert StudyGuidelines.from_json(study.to_json()) == study


@settings(deadline=None, max_examples=100)
@given(CONTEXTS, NODULES, st.data())
def test_a_patient_fact_that_becomes_unknown_changes_no_category_into_another(
    context: dict[str, Any], nodule: dict[str, Any], data: st.DataObject
) -> None:
    known = study_of(context, [nodule])
    forgotten = data.draw(st.sampled_from(sorted(context)))
    unknown = study_of({**context, forgotten: None}, [nodule])
    for before, after in (
        (known.lung_rads, unknown.lung_rads),
        (known.fleischner, unknown.fleischner),
        (known.bts, unknown.bts),
        *zip(known.nodules[0].brock, unknown.nodules[0].brock, strict=True),
    ):
        value = "category" if hasattr(before, "category") else "probability"
        same = getattr(after, value) in (None, getattr(before, value))
        # A lung that is known not to be evaluable is a reader's statement; without it the nodule speaks.
        assert same or forgotten == "lungs_evaluable" or getattr(after, "status", "") == "conditional"


@settings(deadline=None, max_examples=100)
@given(CONTEXTS, NODULES, st.data())
def test_a_property_of_a_nodule_that_becomes_unknown_is_asked_for_where_it_mattered(
    context: dict[str, Any], nodule: dict[str, Any], data: st.DataObject
) -> None:
    names = {
        "calcification": "calcification",
        "fat": "fat",
        "juxtapleural": "juxtapleural place",
        "spiculation": "spiculation",
        "airway": "airway",
        "cyst": "cyst",
    }
    forgotten = data.draw(st.sampled_from(sorted(names)))
    before = study_of(context, [nodule]).nodules[0].lung_rads
    after = study_of(context, [{**nodule, forgotten: None}]).nodules[0].lung_rads
    if after.category is not None and after.category != before.category:
        assert names[forgotten] in after.not_assessed


def test_a_nodule_that_nobody_compared_is_told_what_it_would_be_at_first() -> None:
    result = assess_study([GuidelineNodule(nodule_id="a", nodule_type="solid", mean_diameter_mm=7.0)], PatientContext())
    assert result.lung_rads.category is None
    assert result.lung_rads.possible == ("2", "3", "4A", "4B")
    assert result.lung_rads.notes == ("nodule a: at first detection it would be category 3",)


def test_a_nodule_whose_volume_alone_grew_is_stable_with_a_warning() -> None:
    day = TODAY - timedelta(days=190)
    prior = PriorNodule(mean_diameter_mm=6.1, volume_mm3=120, study_date=day, lung_rads="3")
    nodule = GuidelineNodule(nodule_id="a", nodule_type="solid", mean_diameter_mm=7.2, volume_mm3=190, prior=prior)
    context = PatientContext(screening=True, study_date=TODAY, prior_dates=(day,), age_years=60)
    result = assess_study([nodule], context)
    assert (result.lung_rads.category, result.lung_rads.rule) == ("2", "step-3-to-2")
    assert "4A" in result.lung_rads.possible
    assert any("volume grew by 58 %" in note for note in result.lung_rads.notes)
    assert result.bts.category == "further investigation"


def test_a_benign_calcification_outweighs_the_category_of_the_earlier_ct() -> None:
    prior = PriorNodule(mean_diameter_mm=9.0, study_date=TODAY - timedelta(days=30), lung_rads="4A")
    values = {"nodule_type": "solid", "mean_diameter_mm": 9.0, "calcification": "popcorn", "prior": prior}
    context = {"screening": True, "study_date": TODAY, "prior_dates": (prior.study_date,)}
    assert study_of(context, [values]).lung_rads.category == "1"


@pytest.mark.parametrize("name", [LUNG_RADS, FLEISCHNER, BTS])
def test_every_rule_that_was_not_checked_stands_in_the_document(name: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    unverified = [rule.id for rule in rule_table(name).rules() if rule.checked == "unverified"]
    assert unverified
    assert [rule_id for rule_id in unverified if f"`{rule_id}`" not in text] == []


def test_the_brock_variant_that_was_not_checked_stands_in_the_document() -> None:
    unverified = [model.variant for model in brock_table().models if model.checked == "unverified"]
    assert unverified == ["without spiculation"]
    assert "Brock without spiculation" in DOCUMENT.read_text(encoding="utf-8")
