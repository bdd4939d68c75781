"""Fleischner 2017, BTS 2015 and Brock: thresholds from both sides, refusals by name, figures computed by hand."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.guidelines import BrockResult, GuidelineNodule, GuidelineResult, PatientContext, PriorNodule
from data_contracts.params import GuidelineParams
from pipeline.review.guidelines.brock import brock, logit, probability
from pipeline.review.guidelines.fleischner import TABLE as FLEISCHNER
from pipeline.review.guidelines.study import assess_study
from pipeline.review.guidelines.tables import brock_table

TODAY = date(2026, 11, 21)
INCIDENTAL = PatientContext(
    age_years=60,
    sex="male",
    emphysema=False,
    pulmonary_fibrosis=False,
    family_history=False,
    smoking="never",
    carcinogens=False,
    screening=False,
    cancer_history=False,
    immunosuppression=False,
    study_date=TODAY,
    prior_dates=(),
    nodule_count=1,
)
LOW = {"spiculation": False, "upper_lobe": False}
HIGH = {"spiculation": True, "upper_lobe": False}

NONE, OPTIONAL = "none", "optional CT at 12 months"
MONTHS_6_12, MONTHS_3_6 = "CT at 6-12 months", "CT at 3-6 months"
LARGE = "CT at 3 months, PET/CT or tissue sampling"
WORDS = {"none": NONE, "12": OPTIONAL, "6-12": MONTHS_6_12, "3-6": MONTHS_3_6, "large": LARGE}

#: Mean diameter (rounded half up to whole mm) = management; one nodule, or two alike.
FLEISCHNER_2017 = {
    "solid low single": """3.0=none 5.0=none 5.4=none 5.49=none 5.5=6-12 5.51=6-12 6.0=6-12 7.0=6-12 8.0=6-12 8.4=6-12
        8.49=6-12 8.5=large 8.51=large 9.0=large 15.0=large 30.0=large""",
    "solid high single": """3.0=12 5.0=12 5.4=12 5.49=12 5.5=6-12 6.0=6-12 8.0=6-12 8.4=6-12 8.49=6-12 8.5=large
        9.0=large 30.0=large""",
    "solid low multiple": "3.0=none 5.4=none 5.49=none 5.5=3-6 6.0=3-6 8.0=3-6 8.5=3-6 9.0=3-6 20.0=3-6",
    "solid high multiple": "3.0=12 5.4=12 5.49=12 5.5=3-6 6.0=3-6 8.0=3-6 8.5=3-6 9.0=3-6 20.0=3-6",
    "ground_glass low single": "3.0=none 5.4=none 5.49=none 5.5=6-12 6.0=6-12 10.0=6-12 30.0=6-12",
    "ground_glass high single": "5.4=none 5.5=6-12",
    "ground_glass low multiple": "3.0=3-6 5.4=3-6 5.5=3-6 10.0=3-6",
    "part_solid low single": "3.0=none 5.4=none 5.49=none 5.5=3-6 6.0=3-6 10.0=3-6 20.0=3-6",
    "part_solid high multiple": "3.0=3-6 5.4=3-6 5.5=3-6 10.0=3-6",
}
FLEISCHNER_VOLUMES = {
    "solid low single": "50=none 99=none 99.4=none 99.5=6-12 100=6-12 250=6-12 250.4=6-12 250.5=large 251=large",
    "solid high single": "99=12 100=6-12 250=6-12 251=large",
    "solid low multiple": "99=none 100=3-6 251=3-6",
    "ground_glass low single": "99=none 100=6-12",
}

#: BTS 2015: volume in mm3, or long axis in mm, of a nodule without an earlier CT.
DISCHARGE, YEAR, MONTHS_3 = "discharge", "CT at 1 year", "CT at 3 months"
BTS_WORDS = {"discharge": DISCHARGE, "1y": YEAR, "3m": MONTHS_3}
BTS_2015 = {
    "solid volume_mm3": "30=discharge 79=discharge 79.4=discharge 79.5=3m 80=3m 150=3m 299=3m 299.4=3m",
    "solid long_axis_mm": """3.0=discharge 4.9=discharge 4.94=discharge 4.95=1y 5.0=1y 5.9=1y 5.94=1y 5.95=3m 6.0=3m
        7.9=3m 7.94=3m""",
    "ground_glass long_axis_mm": "3.0=discharge 4.9=discharge 4.94=discharge 4.95=3m 5.0=3m 12.0=3m",
    "part_solid long_axis_mm": "4.9=discharge 4.94=discharge 4.95=3m 5.0=3m 20.0=3m",
}

#: BTS 2015 and NELSON: volume then > now, days = management of a followed solid nodule.
FOLLOWED = {
    "CT at 1 year": "100>100@90 100>90@90 100>110@90 100>124@90 100>124.9@90 100>125@365 100>130@365 100>151@365",
    "surveillance or biopsy": "100>153@365 100>160@365 100>170@365 100>188@365",
    "further investigation": "100>125@90 100>150@90 100>189@365 100>190@365 100>200@365 100>400@365 100>300@90",
}


def cases(table: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(facts, *pair.split("=")) for facts, pairs in table.items() for pair in pairs.split()]  # type: ignore[misc]


def nodule_of(nodule_id: str = "a", **properties: Any) -> GuidelineNodule:
    return GuidelineNodule.model_validate({"nodule_id": nodule_id, **properties})


def fleischner(facts: str, size: dict[str, float], context: PatientContext = INCIDENTAL) -> GuidelineResult:
    nodule_type, risk, number = facts.split()
    properties = {"nodule_type": nodule_type, **size, **(LOW if risk == "low" else HIGH)}
    if nodule_type == "part_solid":
        properties["solid_diameter_mm"] = 2.0
    ids = ["a", "b"] if number == "multiple" else ["a"]
    counted = context.model_copy(update={"nodule_count": len(ids)})
    return assess_study([nodule_of(nodule_id, **properties) for nodule_id in ids], counted).fleischner


def bts(context: PatientContext = INCIDENTAL, **properties: Any) -> GuidelineResult:
    return assess_study([nodule_of(**properties)], context).bts


@pytest.mark.parametrize(("facts", "diameter", "management"), cases(FLEISCHNER_2017))
def test_fleischner_by_the_diameter_to_the_nearest_millimetre(facts: str, diameter: str, management: str) -> None:
    result = fleischner(facts, {"mean_diameter_mm": float(diameter)})
    assert (result.category, result.status) == (WORDS[management], "given")
    assert result.category in result.possible


@pytest.mark.parametrize(("facts", "volume", "management"), cases(FLEISCHNER_VOLUMES))
def test_fleischner_by_the_volume_where_no_diameter_is_known(facts: str, volume: str, management: str) -> None:
    assert fleischner(facts, {"volume_mm3": float(volume)}).category == WORDS[management]


@pytest.mark.parametrize(
    ("solid", "rule"),
    [
        (2.0, "part-solid-single"),
        (5.4, "part-solid-single"),
        (5.49, "part-solid-single"),
        (5.5, "part-solid-single-solid"),
        (6.0, "part-solid-single-solid"),
        (9.0, "part-solid-single-solid"),
    ],
)
def test_a_solid_part_of_six_millimetres_that_persists_is_highly_suspicious(solid: float, rule: str) -> None:
    nodule = nodule_of(nodule_type="part_solid", mean_diameter_mm=10.0, solid_diameter_mm=solid)
    result = assess_study([nodule], INCIDENTAL).fleischner
    assert (result.category, result.rule) == (MONTHS_3_6, rule)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"screening": True}, "screening"),
        ({"age_years": 34}, "below 35 years"),
        ({"age_years": 34.9}, "below 35 years"),
        ({"age_years": 10}, "below 35 years"),
        ({"cancer_history": True}, "history of cancer"),
        ({"immunosuppression": True}, "immunosuppressed"),
    ],
)
def test_fleischner_is_refused_where_it_does_not_apply(change: dict[str, Any], words: str) -> None:
    result = fleischner("solid low single", {"mean_diameter_mm": 7.0}, INCIDENTAL.model_copy(update=change))
    assert (result.status, result.category) == ("refused", None)
    assert words in result.reason


@pytest.mark.parametrize("age", [35, 35.5, 60, 100])
def test_fleischner_applies_from_thirty_five_years(age: float) -> None:
    context = INCIDENTAL.model_copy(update={"age_years": age})
    assert fleischner("solid low single", {"mean_diameter_mm": 7.0}, context).category == MONTHS_6_12


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("screening", "screening"),
        ("age_years", "age"),
        ("cancer_history", "history of cancer"),
        ("immunosuppression", "immunosuppression"),
    ],
)
def test_fleischner_asks_by_name_for_what_could_exclude_it(field: str, name: str) -> None:
    context = INCIDENTAL.model_copy(update={field: None})
    result = fleischner("solid low single", {"mean_diameter_mm": 7.0}, context)
    assert (result.status, result.missing) == ("refused", (name,))
    assert result.reason == f"Fleischner needs: {name}"


def test_fleischner_names_everything_that_is_unknown_at_once() -> None:
    result = assess_study([nodule_of(nodule_type="solid", mean_diameter_mm=7.0)], PatientContext()).fleischner
    assert result.reason == "Fleischner needs: screening, age, history of cancer, immunosuppression"


@pytest.mark.parametrize(
    ("context", "properties"),
    [
        ({"emphysema": True}, {}),
        ({"pulmonary_fibrosis": True}, {}),
        ({"family_history": True}, {}),
        ({"carcinogens": True}, {}),
        ({"smoking": "current", "pack_years": 30}, {}),
        ({"smoking": "former", "pack_years": 40, "quit_years": 15}, {}),
        ({}, {"upper_lobe": True}),
        ({}, {"spiculation": True}),
        # One factor decides, whatever else is unknown.
        ({"emphysema": True, "family_history": None}, {"spiculation": None}),
    ],
)
def test_one_risk_factor_makes_a_high_risk(context: dict[str, Any], properties: dict[str, Any]) -> None:
    nodule = nodule_of(nodule_type="solid", mean_diameter_mm=4.0, **{**LOW, **properties})
    result = assess_study([nodule], INCIDENTAL.model_copy(update=context)).fleischner
    assert result.category == OPTIONAL
    assert "high risk" in result.reason


@pytest.mark.parametrize(
    "context",
    [
        {"smoking": "never", "pack_years": None},
        {"smoking": "current", "pack_years": 29.9},
        {"smoking": "former", "pack_years": 40, "quit_years": 15.1},
        {"smoking": None, "pack_years": 5},
    ],
)
def test_without_a_risk_factor_the_risk_is_low(context: dict[str, Any]) -> None:
    nodule = nodule_of(nodule_type="solid", mean_diameter_mm=4.0, **LOW)
    assert assess_study([nodule], INCIDENTAL.model_copy(update=context)).fleischner.category == NONE


@pytest.mark.parametrize(
    ("context", "properties", "name"),
    [
        ({"emphysema": None}, {}, "emphysema"),
        ({"family_history": None}, {}, "family history"),
        ({"smoking": None}, {}, "smoking"),
        ({"smoking": "former", "pack_years": 40}, {}, "smoking"),
        ({}, {"spiculation": None}, "spiculation"),
        ({}, {"upper_lobe": None}, "upper lobe"),
    ],
)
def test_an_unknown_risk_is_asked_by_name_only_where_it_decides(
    context: dict[str, Any], properties: dict[str, Any], name: str
) -> None:
    asked = INCIDENTAL.model_copy(update=context)
    small = nodule_of(nodule_type="solid", mean_diameter_mm=4.0, **{**LOW, **properties})
    result = assess_study([small], asked).fleischner
    assert result.missing == (name,)
    assert result.possible == (NONE, OPTIONAL)
    large = nodule_of(nodule_type="solid", mean_diameter_mm=12.0, **{**LOW, **properties})
    assert assess_study([large], asked).fleischner.category == LARGE


def test_a_mass_a_benign_nodule_and_a_lymph_node_are_told_apart() -> None:
    assert "a mass" in fleischner("solid low single", {"mean_diameter_mm": 30.1}).reason
    calcified = nodule_of(nodule_type="solid", mean_diameter_mm=12.0, calcification="popcorn", **LOW)
    assert assess_study([calcified], INCIDENTAL).fleischner.category == NONE
    node = {"juxtapleural": True, "smooth": True, "shape": "triangular"}
    lymph = assess_study([nodule_of(nodule_type="solid", mean_diameter_mm=8.0, **node, **LOW)], INCIDENTAL).fleischner
    assert (lymph.category, lymph.verified) == (NONE, False)


def test_the_most_suspicious_of_several_nodules_guides_fleischner() -> None:
    solid = nodule_of("solid", nodule_type="solid", mean_diameter_mm=4.0, **LOW)
    glass = nodule_of("glass", nodule_type="ground_glass", mean_diameter_mm=10.0, **LOW)
    result = assess_study([solid, glass], INCIDENTAL.model_copy(update={"nodule_count": 2}))
    assert result.fleischner.category == MONTHS_6_12
    assert result.deciding_nodules[FLEISCHNER.name] == "glass"


def test_growth_of_two_rounded_millimetres_is_said_beside_the_table() -> None:
    prior = PriorNodule(mean_diameter_mm=5.4, study_date=TODAY - timedelta(days=100))
    for now, said in ((6.4, False), (6.5, True), (7.0, True)):
        nodule = nodule_of(nodule_type="solid", mean_diameter_mm=now, prior=prior, **LOW)
        notes = assess_study([nodule], INCIDENTAL).fleischner.notes
        assert any("grew by" in note for note in notes) is said


@settings(deadline=None)
@given(
    st.sampled_from(["solid", "ground_glass", "part_solid"]),
    st.sampled_from(["low", "high"]),
    st.sampled_from(["single", "multiple"]),
    st.floats(2, 30),
    st.floats(2, 30),
)
def test_fleischner_never_asks_for_less_of_a_larger_nodule(
    nodule_type: str, risk: str, number: str, one: float, other: float
) -> None:
    ranks = [
        FLEISCHNER.rank(fleischner(f"{nodule_type} {risk} {number}", {"mean_diameter_mm": size}).category or "")
        for size in sorted((one, other))
    ]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(("facts", "size", "management"), cases(BTS_2015))
def test_bts_by_volume_or_long_axis(facts: str, size: str, management: str) -> None:
    nodule_type, measured = facts.split()
    result = bts(nodule_type=nodule_type, **{measured: float(size)})
    assert (result.category, result.status) == (BTS_WORDS[management], "given")


def test_bts_asks_the_volume_first_where_it_is_known() -> None:
    assert bts(nodule_type="solid", volume_mm3=70, long_axis_mm=6.5).category == DISCHARGE
    assert bts(nodule_type="solid", volume_mm3=90, long_axis_mm=4.5).category == MONTHS_3


@pytest.mark.parametrize("size", [{"volume_mm3": 299.5}, {"volume_mm3": 300}, {"long_axis_mm": 7.95}])
def test_bts_needs_brock_for_a_large_nodule_and_names_what_brock_lacks(size: dict[str, float]) -> None:
    result = bts(nodule_type="solid", **size)
    assert result.status == "refused"
    assert "upper lobe (Brock)" in result.missing
    assert "spiculation (Brock)" in result.missing


def test_bts_by_the_brock_threshold_of_ten_percent() -> None:
    large = {"nodule_type": "solid", "upper_lobe": False, "spiculation": False}
    low = bts(**large, long_axis_mm=10.0)
    assert (low.category, low.rule) == (MONTHS_3, "solid-large-low")
    high = bts(**{**large, "upper_lobe": True, "spiculation": True}, long_axis_mm=20.0)
    assert (high.category, high.rule) == ("Brock 10 % or more", "solid-large-high")
    assert "Herder" in high.management
    near = bts(**{**large, "upper_lobe": True}, long_axis_mm=13.3)
    assert set(near.possible) == {MONTHS_3, "Brock 10 % or more"}


@pytest.mark.parametrize(
    ("management", "case"), [(words, case) for words, lines in FOLLOWED.items() for case in lines.split()]
)
def test_bts_by_the_doubling_time_of_a_followed_nodule(management: str, case: str) -> None:
    volumes, days = case.split("@")
    then, now = map(float, volumes.split(">"))
    prior = PriorNodule(volume_mm3=then, study_date=TODAY - timedelta(days=int(days)))
    result = bts(nodule_type="solid", volume_mm3=now, prior=prior)
    assert result.category == management
    assert management in result.possible


def test_the_interval_of_a_doubling_time_names_every_class_it_spans() -> None:
    prior = PriorNodule(volume_mm3=100, study_date=TODAY - timedelta(days=250), slice_thickness_mm=5.0)
    result = bts(nodule_type="solid", volume_mm3=140, prior=prior)
    assert set(result.possible) == {YEAR, "surveillance or biopsy", "further investigation"}
    thin = PriorNodule(volume_mm3=100, study_date=TODAY - timedelta(days=365), slice_thickness_mm=1.0)
    assert bts(nodule_type="solid", volume_mm3=400, prior=thin).possible == ("further investigation",)


def test_bts_of_a_followed_nodule_without_volumes_is_refused_by_name() -> None:
    prior = PriorNodule(mean_diameter_mm=5.0, study_date=TODAY - timedelta(days=90))
    result = bts(nodule_type="solid", mean_diameter_mm=6.0, prior=prior)
    assert result.missing == ("volumes of both CTs and their dates",)


def test_bts_is_for_adults_and_an_unknown_age_is_a_condition() -> None:
    child = INCIDENTAL.model_copy(update={"age_years": 17})
    assert bts(child, nodule_type="solid", volume_mm3=90).status == "refused"
    unknown = bts(INCIDENTAL.model_copy(update={"age_years": None}), nodule_type="solid", volume_mm3=90)
    assert (unknown.status, unknown.condition, unknown.missing) == ("conditional", "the patient is an adult", ("age",))


PATIENT: dict[str, Any] = {"age_years": 65, "sex": "male", "family_history": False, "emphysema": False}
SOLID: dict[str, Any] = {"nodule_type": "solid", "long_axis_mm": 10.0, "upper_lobe": False, "spiculation": False}


def risks(patient: dict[str, Any], nodule: dict[str, Any], count: int | None) -> tuple[BrockResult, BrockResult]:
    with_, without = brock(
        nodule_of(**{**SOLID, **nodule}),
        PatientContext.model_validate({**PATIENT, **patient}),
        count,
        GuidelineParams(),
    )
    return with_, without


@pytest.mark.parametrize(
    ("patient", "nodule", "count", "percent"),
    [
        # Regression vectors of a public calculator that others wrote, to six digits.
        ({"age_years": 55}, {"long_axis_mm": 4.0}, 4, 0.092011),
        ({"age_years": 68, "sex": "female", "family_history": True}, {"upper_lobe": True}, 2, 14.588653),
        (
            {"age_years": 80, "sex": "female", "family_history": True, "emphysema": True},
            {"long_axis_mm": 30.0, "nodule_type": "part_solid", "upper_lobe": True, "spiculation": True},
            1,
            91.535942,
        ),
        ({}, {"nodule_type": "ground_glass"}, 1, 3.065470),
        ({}, {}, 1, 3.468206),
        ({}, {"nodule_type": "part_solid"}, 1, 4.977268),
        ({"age_years": 70, "sex": "female"}, {"long_axis_mm": 4.0, "upper_lobe": True}, 1, 0.634830),
    ],
)
def test_brock_agrees_with_a_calculator_of_others(
    patient: dict[str, Any], nodule: dict[str, Any], count: int, percent: float
) -> None:
    result = risks(patient, nodule, count)[0]
    assert result.probability is not None
    assert result.probability * 100 == pytest.approx(percent, abs=1e-4)


def test_brock_agrees_with_the_sums_done_by_hand() -> None:
    # By hand in decimals from the printed coefficients (without centring where they are printed so).
    patient = {"age_years": 70, "sex": "female", "family_history": True, "emphysema": True}
    nodule = {"long_axis_mm": 15.0, "nodule_type": "part_solid", "upper_lobe": True, "spiculation": True}
    with_, without = risks(patient, nodule, 1)
    assert with_.probability == pytest.approx(0.691265, abs=2e-5)
    assert without.probability == pytest.approx(0.571430, abs=1e-6)
    with_, without = risks({"age_years": 60}, {"long_axis_mm": 8.0, "nodule_type": "ground_glass"}, 3)
    assert with_.probability == pytest.approx(0.0121553, abs=2e-6)
    assert without.probability == pytest.approx(0.0113064, abs=1e-6)


def test_both_forms_of_the_brock_model_are_one() -> None:
    model = brock_table().models[0]
    centre = brock_table().figures
    sum_of_centres = (
        model.centred_intercept
        - model.age * centre["centre_age_years"]
        - model.size * centre["centre_size"]
        - model.count * centre["centre_count"]
    )
    assert sum_of_centres == pytest.approx(0.2761, abs=5e-5)
    assert model.intercept == 0.2761
    assert centre["centre_size"] == pytest.approx((4 / 10) ** -0.5, abs=1e-8)
    patient = PatientContext.model_validate(PATIENT)
    for size in (4.0, 8.0, 25.0):
        forms = [logit(model, nodule_of(**SOLID), patient, 2, size_mm=size, centred=form) for form in (True, False)]
        assert forms[0] == pytest.approx(forms[1], abs=1e-4)
    with pytest.raises(ValueError, match="not printed without centring"):
        logit(brock_table().models[1], nodule_of(**SOLID), patient, 2, size_mm=8.0, centred=False)


@pytest.mark.parametrize(
    ("patient", "nodule", "count", "missing"),
    [
        ({"age_years": None}, {}, 1, ("age",)),
        ({"sex": None}, {}, 1, ("sex",)),
        ({"family_history": None}, {}, 1, ("family history",)),
        ({"emphysema": None}, {}, 1, ("emphysema",)),
        ({}, {"long_axis_mm": None, "mean_diameter_mm": 9.0}, 1, ("long axis",)),
        ({}, {"nodule_type": None}, 1, ("nodule type",)),
        ({}, {"upper_lobe": None}, 1, ("upper lobe",)),
        ({}, {}, None, ("nodule count",)),
        ({"age_years": None, "family_history": None}, {}, 1, ("age", "family history")),
    ],
)
def test_brock_imputes_nothing(
    patient: dict[str, Any], nodule: dict[str, Any], count: int | None, missing: tuple[str, ...]
) -> None:
    for result in risks(patient, nodule, count):
        assert result.probability is None
        assert result.missing == missing
        assert result.reason.startswith(f"Brock needs: {', '.join(missing)}")
        assert ("state nodule_count" in result.reason) is (count is None)


def test_without_spiculation_the_other_variant_still_answers_and_is_marked_unverified() -> None:
    with_, without = risks({}, {"spiculation": None}, 1)
    assert with_.missing == ("spiculation",)
    assert without.probability is not None
    assert with_.verified
    assert not without.verified


def test_brock_says_where_it_was_not_made_for() -> None:
    notes = " ".join(risks({"age_years": 40}, {"long_axis_mm": 35.0}, 1)[0].notes)
    assert "50-75 years" in notes
    assert "up to 30 mm" in notes


def test_brock_takes_the_stated_count_however_many_findings_are_listed() -> None:
    few, many = (
        assess_study([nodule_of(**SOLID)], PatientContext.model_validate({**PATIENT, "nodule_count": count}))
        .nodules[0]
        .brock[0]
        for count in (1, 8)
    )
    assert few.logit is not None
    assert many.logit is not None
    assert few.logit - many.logit == pytest.approx(7 * 0.0824)


@pytest.mark.parametrize("is_candidate", [False, True])
@pytest.mark.parametrize("n_findings", [1, 4, 200])
def test_a_list_of_findings_is_no_nodule_count(n_findings: int, is_candidate: bool) -> None:
    listed = [nodule_of(str(number), is_candidate=is_candidate, **SOLID) for number in range(n_findings)]
    unknown = assess_study(listed, PatientContext.model_validate(PATIENT))
    for result in unknown.nodules[0].brock:
        assert (result.probability, result.missing) == (None, ("nodule count",))
        assert "state nodule_count" in result.reason
    stated = assess_study(listed, PatientContext.model_validate({**PATIENT, "nodule_count": 2})).nodules[0].brock
    alone = assess_study(listed[:1], PatientContext.model_validate({**PATIENT, "nodule_count": 2})).nodules[0].brock
    assert stated == alone and stated[0].probability is not None


def test_bts_says_how_to_state_the_count_that_brock_lacks() -> None:
    uncounted = INCIDENTAL.model_copy(update={"nodule_count": None})
    result = bts(uncounted, nodule_type="solid", long_axis_mm=12.0, upper_lobe=False, spiculation=False)
    assert (result.status, result.missing) == ("refused", ("nodule count (Brock)",))
    assert "state nodule_count" in result.reason


def test_a_stated_count_of_none_gives_a_listed_nodule_no_probability() -> None:
    (with_, _) = risks({}, {}, 0)
    assert with_.probability is None and "0 is stated" in with_.reason


def test_fleischner_asks_for_the_count_where_single_and_several_differ() -> None:
    uncounted = INCIDENTAL.model_copy(update={"nodule_count": None})
    medium = nodule_of(nodule_type="solid", mean_diameter_mm=7.0, **LOW)
    result = assess_study([medium], uncounted).fleischner
    assert (result.status, result.missing) == ("refused", ("nodule count",))
    assert "state nodule_count" in result.reason and set(result.possible) >= {MONTHS_6_12, MONTHS_3_6}
    small = nodule_of(nodule_type="solid", mean_diameter_mm=4.0, **LOW)
    assert assess_study([small], uncounted).fleischner.category == NONE


def test_candidates_never_make_several_nodules_and_two_that_readers_marked_do() -> None:
    uncounted = INCIDENTAL.model_copy(update={"nodule_count": None})
    solid = {"nodule_type": "solid", "mean_diameter_mm": 7.0, **LOW}
    candidates = [nodule_of(name, is_candidate=True, **solid) for name in "abc"]
    assert assess_study(candidates, uncounted).fleischner.missing == ("nodule count",)
    assert assess_study(candidates, INCIDENTAL).fleischner.category == MONTHS_6_12
    marked = [nodule_of(name, **solid) for name in "ab"]
    assert assess_study(marked, uncounted).fleischner.category == MONTHS_3_6
    # The count of a person is the last word, of marks too.
    assert assess_study(marked, INCIDENTAL).fleischner.category == MONTHS_6_12


def test_how_many_are_subsolid_is_asked_where_the_list_is_not_whole() -> None:
    glass = nodule_of(nodule_type="ground_glass", mean_diameter_mm=10.0, **LOW)
    asked = {count: INCIDENTAL.model_copy(update={"nodule_count": count}) for count in (None, 1, 3)}
    assert assess_study([glass], asked[None]).fleischner.missing == ("nodule count",)
    assert assess_study([glass], asked[1]).fleischner.category == MONTHS_6_12
    result = assess_study([glass], asked[3]).fleischner
    assert result.missing == ("subsolid count",) and "state subsolid_count" in result.reason
    for count, category in ((1, MONTHS_6_12), (2, MONTHS_3_6)):
        stated = asked[3].model_copy(update={"subsolid_count": count})
        assert assess_study([glass], stated).fleischner.category == category


@settings(deadline=None)
@given(st.floats(1, 100), st.floats(1, 100))
def test_brock_rises_with_size(one: float, other: float) -> None:
    small, large = (risks({}, {"long_axis_mm": size}, 1) for size in sorted((one, other)))
    for before, after in zip(small, large, strict=True):
        assert (before.probability or 0) <= (after.probability or 0)


def test_the_logistic_function_is_one_half_at_zero() -> None:
    assert probability(0.0) == 0.5
