"""Boundary cases that were written from the papers before anybody looked at the tables, a line each."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from data_contracts.guidelines import GuidelineNodule, PatientContext, PriorNodule, StudyGuidelines
from pipeline.review.guidelines.study import assess_study

TODAY = date(2026, 6, 1)
SCREENED = PatientContext(age_years=63, sex="male", screening=True, study_date=TODAY)
#: low risk: every factor is known and absent
FOUND = PatientContext(
    age_years=55, sex="female", screening=False, cancer_history=False, immunosuppression=False, smoking="never",
    emphysema=False, pulmonary_fibrosis=False, family_history=False, carcinogens=False, study_date=TODAY,
    nodule_count=1, subsolid_count=0,
)  # fmt: skip
PLAIN: dict[str, Any] = {"calcification": "none", "fat": False, "spiculation": False, "upper_lobe": False}


def of(context: PatientContext, *nodules: dict[str, Any], **changed: Any) -> StudyGuidelines:
    return assess_study(
        [GuidelineNodule(**{**PLAIN, "nodule_id": str(n), **each}) for n, each in enumerate(nodules)],
        context.model_copy(update=changed),
        None,
    )


def solid(mm: float, status: str | None = "baseline", **more: Any) -> dict[str, Any]:
    return {"nodule_type": "solid", "mean_diameter_mm": mm, "status": status, **more}


def part(mm: float, core_mm: float, status: str = "baseline", **more: Any) -> dict[str, Any]:
    return {"nodule_type": "part_solid", "mean_diameter_mm": mm, "solid_diameter_mm": core_mm, "status": status, **more}


def glass(mm: float, status: str = "baseline", **more: Any) -> dict[str, Any]:
    return {"nodule_type": "ground_glass", "mean_diameter_mm": mm, "status": status, **more}


def before(days: int, **more: Any) -> PriorNodule:
    return PriorNodule(study_date=TODAY - timedelta(days=days), **more)


def followed(now_mm: float, then_mm: float, days: int, category: str, **more: Any) -> dict[str, Any]:
    then = before(days, nodule_type="solid", mean_diameter_mm=then_mm, lung_rads=category)
    return solid(now_mm, None, prior=then, **more)


SMOOTH = {"juxtapleural": True, "smooth": True, "shape": "lentiform"}
LUNG_RADS = [
    # rounding: axes to 0.1 mm, then their mean to 0.1 mm, halves up
    (solid(5.94), "2"), (solid(5.95), "3"), (solid(7.94), "3"), (solid(7.95), "4A"), (solid(14.95), "4B"),
    ({"nodule_type": "solid", "long_axis_mm": 6.1, "short_axis_mm": 5.8, "status": "baseline"}, "3"),
    ({"nodule_type": "solid", "long_axis_mm": 6.1, "short_axis_mm": 5.7, "status": "baseline"}, "2"),
    ({"nodule_type": "solid", "long_axis_mm": 6.0, "short_axis_mm": 5.84, "status": "baseline"}, "2"),
    # volumes where there is no diameter
    ({"nodule_type": "solid", "volume_mm3": 112.4, "status": "baseline"}, "2"),
    ({"nodule_type": "solid", "volume_mm3": 112.5, "status": "baseline"}, "3"),
    ({"nodule_type": "solid", "volume_mm3": 268, "status": "baseline"}, "4A"),
    ({"nodule_type": "solid", "volume_mm3": 1767, "status": "baseline"}, "4B"),
    ({"nodule_type": "solid", "volume_mm3": 33.4, "status": "new"}, "2"),
    ({"nodule_type": "solid", "volume_mm3": 34, "status": "new"}, "3"),
    # new and growing
    (solid(3.9, "new"), "2"), (solid(4.0, "new"), "3"), (solid(6.0, "new"), "4A"), (solid(8.0, "new"), "4B"),
    (solid(3.0, "growing"), "4A"), (solid(7.9, "growing"), "4A"), (solid(8.0, "growing"), "4B"),
    (solid(5.0, "slow_growing"), "4B"),
    # part-solid: the solid part decides, total below 6 mm first
    (part(5.9, 5.9), "2"), (part(6.0, 5.9), "3"), (part(6.0, 6.0), "4A"), (part(30.0, 7.9), "4A"),
    (part(9.0, 8.0), "4B"),
    (part(5.9, 5.0, "new"), "3"), (part(6.0, 3.9, "new"), "4A"), (part(6.0, 4.0, "new"), "4B"),
    (part(12.0, 3.9, "stable", solid_status="growing"), "4A"), (part(12.0, 4.0, "stable", solid_status="new"), "4B"),
    # ground glass
    (glass(29.9), "2"), (glass(29.95), "3"), (glass(30.0, "new"), "3"), (glass(29.9, "growing"), "2"),
    (glass(45.0, "slow_growing"), "2"), (glass(30.0, "stable"), "2"),
    # juxtapleural: the shape, the surface and the type must be known, and growth takes it out
    (solid(9.9, **SMOOTH), "2"), (solid(10.0, **SMOOTH), "4A"), (solid(9.9, **{**SMOOTH, "smooth": None}), "4A"),
    (solid(9.9, **{**SMOOTH, "shape": "round"}), "4A"), (solid(9.9, "new", **SMOOTH), "2"),
    (solid(9.9, "growing", **SMOOTH), "4B"), (part(9.9, 2.0, **SMOOTH), "3"),
    # growth: more than 1.5 mm in 12 months, not 1.5 mm
    (followed(7.5, 6.0, 365, "3"), "2"), (followed(7.6, 6.0, 365, "3"), "4A"), (followed(8.1, 6.5, 180, "3"), "4B"),
    (followed(9.0, 6.0, 730, "3"), "4A"), (followed(9.2, 6.0, 730, "3"), "4B"),
    # a size class that was reached without growth; steps down
    (followed(6.0, 5.9, 365, "2"), "3"), (followed(8.0, 7.9, 180, "3"), "4A"), (followed(5.9, 5.9, 365, "2"), "2"),
    (followed(7.0, 7.0, 180, "3"), "2"), (followed(10.0, 10.0, 90, "4A"), "3"), (followed(9.0, 10.0, 90, "4A"), "3"),
    (followed(10.0, 10.0, 30, "4A"), "4A"), (followed(16.0, 16.0, 90, "4B"), "4B"),
    (followed(16.0, 16.0, 90, "4B", proven_benign=True), "2"),
    # benign, airway, cysts, 4X
    (solid(25.0, calcification="popcorn"), "1"), (solid(25.0, calcification="eccentric"), "4B"),
    (solid(25.0, fat=True), "1"),
    (solid(7.0, airway="segmental_or_proximal"), "4A"), (solid(7.0, "stable", airway="segmental_or_proximal"), "4B"),
    (solid(20.0, airway="subsegmental"), "2"),
    (solid(12.0, cyst="thick_walled"), "4A"), (solid(12.0, cyst="thin_walled"), "1"),
    (solid(12.0, "stable", cyst="thin_walled", cyst_change="became_multilocular"), "4A"),
    (solid(12.0, "stable", cyst="thick_walled", cyst_change="cystic_part_growing"), "3"),
    (solid(12.0, "stable", cyst="multilocular", cyst_change="cystic_part_growing"), "4B"),
    (solid(6.0, spiculation=True), "4X"), (solid(5.9, spiculation=True), "2"),
    (part(8.0, 2.0, suspicious_features=("lymphadenopathy",)), "4X"),
]  # fmt: skip


@pytest.mark.parametrize(("nodule", "category"), LUNG_RADS)
def test_lung_rads(nodule: dict[str, Any], category: str) -> None:
    result = of(SCREENED, nodule)
    assert result.nodules[0].lung_rads.category == category
    assert result.lung_rads.category == category


SOLID_LOW = {"nodule_type": "solid"}
FLEISCHNER = [
    # to the nearest mm, halves up: 6-8 mm is 5.5 to below 8.5 mm
    ({"mean_diameter_mm": 5.4}, {}, "none"), ({"mean_diameter_mm": 5.5}, {}, "CT at 6-12 months"),
    ({"mean_diameter_mm": 8.4}, {}, "CT at 6-12 months"),
    ({"mean_diameter_mm": 8.5}, {}, "CT at 3 months, PET/CT or tissue sampling"),
    ({"mean_diameter_mm": 30.0}, {}, "CT at 3 months, PET/CT or tissue sampling"),
    ({"mean_diameter_mm": 31.0}, {}, None),
    ({"volume_mm3": 99.4}, {}, "none"), ({"volume_mm3": 100}, {}, "CT at 6-12 months"),
    ({"volume_mm3": 250}, {}, "CT at 6-12 months"),
    ({"volume_mm3": 251}, {}, "CT at 3 months, PET/CT or tissue sampling"),
    # risk
    ({"mean_diameter_mm": 5.4}, {"emphysema": True}, "optional CT at 12 months"),
    ({"mean_diameter_mm": 5.4, "upper_lobe": True}, {}, "optional CT at 12 months"),
    ({"mean_diameter_mm": 5.4}, {"emphysema": None}, None),
    ({"mean_diameter_mm": 9.0}, {"emphysema": None}, "CT at 3 months, PET/CT or tissue sampling"),
    ({"mean_diameter_mm": 5.4}, {"smoking": "former", "pack_years": 30, "quit_years": 15}, "optional CT at 12 months"),
    ({"mean_diameter_mm": 5.4}, {"smoking": "former", "pack_years": 30, "quit_years": 16}, "none"),
    ({"mean_diameter_mm": 5.4}, {"smoking": "former", "pack_years": 29.9, "quit_years": 1}, "none"),
    # several
    ({"mean_diameter_mm": 9.0}, {"nodule_count": 2}, "CT at 3-6 months"),
    ({"mean_diameter_mm": 5.4}, {"nodule_count": 2}, "none"),
    ({"mean_diameter_mm": 9.0}, {"nodule_count": None}, None),
    # subsolid
    ({"nodule_type": "ground_glass", "mean_diameter_mm": 5.4}, {}, "none"),
    ({"nodule_type": "ground_glass", "mean_diameter_mm": 5.5}, {}, "CT at 6-12 months"),
    ({"nodule_type": "part_solid", "mean_diameter_mm": 5.4, "solid_diameter_mm": 5}, {}, "none"),
    ({"nodule_type": "part_solid", "mean_diameter_mm": 6, "solid_diameter_mm": 5.4}, {}, "CT at 3-6 months"),
    ({"nodule_type": "part_solid", "mean_diameter_mm": 9, "solid_diameter_mm": 6}, {}, "CT at 3-6 months"),
    ({"nodule_type": "part_solid", "mean_diameter_mm": 9}, {}, None),
    ({"nodule_type": "ground_glass", "mean_diameter_mm": 5.4}, {"subsolid_count": 2, "nodule_count": 2},
     "CT at 3-6 months"),
    # lymph nodes and benign ones at any size
    ({"mean_diameter_mm": 9.0, "juxtapleural": True, "smooth": True, "shape": "triangular"}, {}, "none"),
    ({"mean_diameter_mm": 9.0, "calcification": "central"}, {}, "none"),
    # whom it is not for
    ({"mean_diameter_mm": 9.0}, {"age_years": 34.9}, None),
    ({"mean_diameter_mm": 9.0}, {"age_years": 35.0}, "CT at 3 months, PET/CT or tissue sampling"),
    ({"mean_diameter_mm": 9.0}, {"screening": True}, None), ({"mean_diameter_mm": 9.0}, {"screening": None}, None),
    ({"mean_diameter_mm": 9.0}, {"cancer_history": True}, None),
    ({"mean_diameter_mm": 9.0}, {"immunosuppression": None}, None),
]  # fmt: skip


@pytest.mark.parametrize(("nodule", "changed", "category"), FLEISCHNER)
def test_fleischner(nodule: dict[str, Any], changed: dict[str, Any], category: str | None) -> None:
    subsolid = nodule.get("nodule_type", "solid") != "solid"
    counts = {"subsolid_count": 1} if subsolid else {}
    result = of(FOUND, {**SOLID_LOW, **nodule}, **{**counts, **changed}).nodules[0].fleischner
    assert result.category == category
    assert result.category is not None or result.reason


def grown(then_mm3: float, now_mm3: float, days: int, kind: str = "solid") -> dict[str, Any]:
    return {
        "nodule_type": kind, "volume_mm3": now_mm3, "long_axis_mm": 9.0,
        "prior": before(days, nodule_type=kind, volume_mm3=then_mm3),
    }  # fmt: skip


BTS = [
    ({"volume_mm3": 79.4}, "discharge"), ({"volume_mm3": 80}, "CT at 3 months"),
    ({"volume_mm3": 299.4}, "CT at 3 months"),
    ({"long_axis_mm": 4.9}, "discharge"), ({"long_axis_mm": 5.0}, "CT at 1 year"),
    ({"long_axis_mm": 5.94}, "CT at 1 year"),
    ({"long_axis_mm": 5.95}, "CT at 3 months"), ({"long_axis_mm": 7.9}, "CT at 3 months"),
    # 8 mm and more: Brock, low for a woman of 55 without any factor, high with all
    ({"long_axis_mm": 8.0}, "CT at 3 months"),
    ({"long_axis_mm": 20.0, "upper_lobe": True, "spiculation": True}, "Brock 10 % or more"),
    ({"long_axis_mm": 20.0, "spiculation": None}, None),
    ({"long_axis_mm": 9.9, "juxtapleural": True, "smooth": True, "shape": "lentiform"}, "discharge"),
    ({"nodule_type": "ground_glass", "long_axis_mm": 4.9}, "discharge"),
    ({"nodule_type": "ground_glass", "long_axis_mm": 5.0}, "CT at 3 months"),
    # followed: 25 % is growth, 400 and 600 days are intermediate
    (grown(100, 124.9, 90), "CT at 1 year"), (grown(100, 125, 90), "further investigation"),
    (grown(100, 200, 399), "further investigation"), (grown(100, 200, 400), "surveillance or biopsy"),
    (grown(100, 200, 600), "surveillance or biopsy"), (grown(100, 200, 601), "CT at 1 year"),
    (grown(100, 80, 90), "CT at 1 year"), (grown(100, 126, 90, "ground_glass"), "further investigation"),
]  # fmt: skip


@pytest.mark.parametrize(("nodule", "category"), BTS)
def test_bts(nodule: dict[str, Any], category: str | None) -> None:
    assert of(FOUND, {**SOLID_LOW, **nodule}).nodules[0].bts.category == category


def test_bts_is_for_adults() -> None:
    assert of(FOUND, {**SOLID_LOW, "long_axis_mm": 6.0}, age_years=17.9).nodules[0].bts.category is None
    assert of(FOUND, {**SOLID_LOW, "long_axis_mm": 6.0}, age_years=18.0).nodules[0].bts.category == "CT at 3 months"


#: (age, female, family, emphysema, mm, type, upper, count, spiculated) and the logit with spiculation, by hand
BROCK = [
    # -6.7892 - 0.0574 + 0.6011 + 5.3854 * 0.58113883 + 0.2472
    ((60, True, False, False, 10.0, "solid", False, 1, False), -2.8686),
    # -6.7892 + 0 + 0 + 0.2961 + 0.2953 + 0 - 0.1276 + 0.6581 + 0 : a size of 4 mm and 4 nodules are the centre
    ((62, False, True, True, 4.0, "ground_glass", True, 4, False), -5.6673),
    # -6.7892 + 0.3731 + 5.3854 * 0.87403202 + 0.377 + 0.7729 + 0.2472
    ((75, False, False, False, 20.0, "part_solid", False, 1, True), -0.3120),
    # -6.7892 - 0.2009 + 0.6011 + 5.3854 * 1.00378850 - 0.4944
    ((55, True, False, False, 30.0, "solid", False, 10, False), -1.4776),
]


@pytest.mark.parametrize(("case", "logit"), BROCK)
def test_brock(case: tuple[Any, ...], logit: float) -> None:
    age, female, family, emphysema, mm, kind, upper, count, spiculated = case
    nodule = {"nodule_type": kind, "long_axis_mm": mm, "upper_lobe": upper, "spiculation": spiculated}
    result = of(
        FOUND, nodule, age_years=age, sex="female" if female else "male", family_history=family, emphysema=emphysema,
        nodule_count=count,
    ).nodules[0].brock[0]  # fmt: skip
    assert result.logit == pytest.approx(logit, abs=2e-4)


@pytest.mark.parametrize("unknown", ["age_years", "sex", "family_history", "emphysema", "nodule_count"])
def test_brock_imputes_nothing(unknown: str) -> None:
    nodule = {"nodule_type": "solid", "long_axis_mm": 8.0}
    assert of(FOUND, nodule, **{unknown: None}).nodules[0].brock[0].probability is None


def test_the_most_suspicious_nodule_decides_the_study_and_one_that_could_exceed_it_stops_it() -> None:
    assert of(SCREENED, solid(5.0), solid(15.0), glass(20.0)).lung_rads.category == "4B"
    assert of(SCREENED, solid(5.0), {"mean_diameter_mm": 20.0, "status": "baseline"}).lung_rads.category is None
    assert (
        of(SCREENED, solid(16.0, spiculation=True), {"mean_diameter_mm": 5.0, "status": "baseline"}).lung_rads.category
        == "4X"
    )


def test_what_is_not_of_a_screening_has_no_lung_rads_and_what_may_be_has_one_with_the_condition() -> None:
    assert of(SCREENED, solid(9.0), screening=False).lung_rads.category is None
    unknown = of(SCREENED, solid(9.0), screening=None).lung_rads
    assert (unknown.category, unknown.status) == ("4A", "conditional")
    assert of(SCREENED, solid(9.0), other_significant_finding=True).lung_rads.label == "4AS"
    assert of(SCREENED, solid(9.0), infection_suspected=True).lung_rads.category == "0"
    assert of(SCREENED, lungs_searched=True).lung_rads.category == "1"
    assert of(SCREENED).lung_rads.category is None


def test_of_200_nodules_without_a_type_the_study_names_a_few_once() -> None:
    untyped = [{"nodule_type": None, "mean_diameter_mm": 5.0, "status": "baseline"} for _ in range(199)]
    result = of(SCREENED, solid(16.0, spiculation=True), *untyped).lung_rads
    assert result.category == "4X"
    assert [note for note in result.notes if note.startswith("nodule ")] == [
        "nodule 1, nodule 2, nodule 3 and 196 more: Lung-RADS needs: nodule type (possible: 2)"
    ]
