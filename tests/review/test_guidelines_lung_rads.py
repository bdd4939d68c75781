"""Lung-RADS v2022: every threshold from both sides, expectations typed from the tables of the papers."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.guidelines import GuidelineNodule, GuidelineResult, PatientContext, PriorNodule, StudyGuidelines
from pipeline.review.guidelines.lung_rads import TABLE
from pipeline.review.guidelines.study import assess_study

TODAY = date(2026, 11, 21)
FIRST = PatientContext(screening=True, prior_dates=(), study_date=TODAY)
LATER = PatientContext(screening=True, prior_dates=(TODAY - timedelta(days=365),), study_date=TODAY)

#: Mean diameter = category, each threshold from both sides and at the edges of its rounding to 0.1 mm.
BY_DIAMETER = {
    "solid baseline": """1.0=2 3.9=2 4.0=2 5.0=2 5.8=2 5.9=2 5.94=2 5.949=2 5.95=3 5.99=3 6.0=3 6.04=3 6.1=3 7.0=3 7.8=3
        7.9=3 7.94=3 7.949=3 7.95=4A 7.99=4A 8.0=4A 8.04=4A 8.1=4A 10.0=4A 12.0=4A 14.8=4A 14.9=4A 14.94=4A 14.949=4A
        14.95=4B 14.99=4B 15.0=4B 15.04=4B 15.1=4B 20.0=4B 30.0=4B 60.0=4B""",
    "solid new": """1.0=2 3.0=2 3.8=2 3.9=2 3.94=2 3.949=2 3.95=3 3.99=3 4.0=3 4.04=3 4.1=3 5.0=3 5.8=3 5.9=3 5.94=3
        5.949=3 5.95=4A 5.99=4A 6.0=4A 6.04=4A 6.1=4A 7.0=4A 7.9=4A 7.94=4A 7.949=4A 7.95=4B 7.99=4B 8.0=4B 8.04=4B
        8.1=4B 15.0=4B 30.0=4B""",
    "solid growing": """2.0=4A 3.9=4A 4.0=4A 5.9=4A 6.0=4A 7.9=4A 7.94=4A 7.949=4A 7.95=4B 7.99=4B 8.0=4B 8.04=4B 8.1=4B
        15.0=4B""",
    "solid slow_growing": "3.0=4B 5.9=4B 6.0=4B 8.0=4B 15.0=4B",
    "part_solid slow_growing": "3.0=4B 5.9=4B 6.0=4B 8.0=4B",
    "ground_glass baseline": """5.9=2 6.0=2 10.0=2 20.0=2 29.0=2 29.8=2 29.9=2 29.94=2 29.949=2 29.95=3 29.99=3 30.0=3
        30.04=3 30.1=3 45.0=3""",
    "ground_glass new": "5.0=2 20.0=2 29.9=2 29.94=2 29.95=3 30.0=3 30.1=3",
    "ground_glass growing": "5.0=2 20.0=2 29.9=2 29.94=2 29.95=3 30.0=3",
    "ground_glass stable": "5.0=2 29.9=2 29.94=2 29.95=2 30.0=2 31.0=2 45.0=2",
    "ground_glass slow_growing": "5.0=2 29.9=2 29.94=2 29.95=2 30.0=2 45.0=2",
}

#: Part-solid: total / solid part = category.
BY_SOLID_PART = {
    "baseline baseline": """3.0/1.0=2 5.9/2.0=2 5.94/5.9=2 5.949/3.0=2 5.95/2.0=3 6.0/2.0=3 6.0/5.9=3 6.04/5.94=3
        10.0/1.0=3 10.0/5.0=3 10.0/5.9=3 10.0/5.94=3 10.0/5.949=3 10.0/5.95=4A 10.0/5.99=4A 10.0/6.0=4A 10.0/6.1=4A
        10.0/7.0=4A 10.0/7.9=4A 10.0/7.94=4A 10.0/7.949=4A 10.0/7.95=4B 10.0/7.99=4B 10.0/8.0=4B 10.0/8.1=4B
        30.0/5.9=3 30.0/6.0=4A 30.0/8.0=4B 30.0/20.0=4B 6.0/6.0=4A 8.0/8.0=4B""",
    "new new": """3.0/1.0=3 5.0/4.5=3 5.9/2.0=3 5.9/5.0=3 5.94/3.9=3 5.949/3.0=3 5.95/3.9=4A 6.0/2.0=4A 6.0/3.9=4A
        6.0/3.94=4A 6.0/3.949=4A 6.0/3.95=4B 6.0/4.0=4B 6.0/4.1=4B 10.0/3.9=4A 10.0/4.0=4B 10.0/8.0=4B""",
    "stable growing": """5.0/2.0=4A 5.0/3.9=4A 5.0/4.0=4B 10.0/3.9=4A 10.0/3.94=4A 10.0/3.949=4A 10.0/3.95=4B
        10.0/4.0=4B 10.0/4.1=4B 10.0/7.0=4B""",
    "growing growing": "5.0/2.0=4A 10.0/3.9=4A 10.0/3.94=4A 10.0/3.95=4B 10.0/4.0=4B 20.0/9.0=4B",
    "growing new": "10.0/1.0=4A 10.0/3.9=4A 10.0/3.94=4A 10.0/3.95=4B 10.0/4.0=4B",
    "growing stable": "5.9/3.0=2 6.0/3.0=3 8.0/5.9=3 8.0/6.0=4A 9.0/8.0=4B",
}

#: Volume in mm3 = category, where no diameter is known.
BY_VOLUME = {
    "solid baseline": """50=2 112=2 112.4=2 112.5=3 113=3 114=3 267=3 267.4=3 267.5=4A 268=4A 269=4A 1766=4A 1766.4=4A
        1766.5=4B 1767=4B 1768=4B""",
    "solid new": "33=2 33.4=2 33.5=3 34=3 35=3 112=3 113=4A 267=4A 268=4B",
    "solid growing": "113=4A 267=4A 267.4=4A 267.5=4B 268=4B",
    "ground_glass baseline": "113=2 14136=2 14136.4=2 14136.5=3 14137=3 14138=3",
}

#: What the earlier CT said, days since, size then > size now = category of a nodule that did not grow.
STEPPED = {
    "solid": """1 365 5.0>5.0=2
        2 365 5.0>5.0=2
        2 365 5.0>5.4=2
        2 365 5.9>5.9=2
        2 365 5.9>6.0=3
        2 365 5.8>5.94=2
        2 365 5.8>5.95=3
        2 365 7.0>7.0=2
        2 365 7.0>7.9=2
        2 365 7.0>8.0=4A
        2 365 14.0>15.0=4B
        3 90 7.0>7.0=3
        3 151 7.0>7.0=3
        3 152 7.0>7.0=2
        3 180 7.0>7.0=2
        3 183 7.0>6.0=2
        3 183 7.0>4.0=2
        3 183 7.0>7.9=2
        3 183 7.0>8.0=4A
        3 183 7.9>8.0=4A
        4A 30 9.0>9.0=4A
        4A 75 9.0>9.0=4A
        4A 76 9.0>9.0=3
        4A 90 9.0>9.0=3
        4A 92 9.0>5.0=3
        4A 92 14.0>14.9=3
        4A 92 14.0>15.0=4B
        4B 92 16.0>16.0=4B
        4B 365 16.0>7.0=4B
        4X 92 9.0>9.0=4X""",
    "ground_glass": """2 365 20.0>20.0=2
        2 365 29.0>30.0=2
        3 183 31.0>31.0=2
        3 90 31.0>31.0=2
        3 90 29.95>29.95=2
        3 90 29.94>29.94=3
        4X 365 31.0>31.0=4X
        2 365 31.0>31.5=2""",
}

#: Mean diameter then > now, days = whether that is growth (more than 1.5 mm within 12 months).
GROWTH = """5.0>6.4@365=no 5.0>6.5@365=no 5.0>6.54@365=no 5.0>6.55@365=yes 5.0>6.6@365=yes 5.0>6.6@90=yes 5.0>6.5@30=no
    5.0>8.0@366=yes 5.0>6.6@366=yes 5.0>6.6@395=no 5.0>8.0@730=no 5.0>8.1@730=yes 5.0>5.0@365=no 5.0>3.0@365=no
    4.95>6.5@365=no 4.94>6.5@365=yes"""

#: Findings that are no plain nodule.
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("2", {"airway": "subsegmental", "status": "baseline"}),
    ("2", {"airway": "subsegmental", "status": "new"}),
    ("2", {"airway": "subsegmental", "status": "stable"}),
    ("4A", {"airway": "segmental_or_proximal", "status": "baseline"}),
    ("4A", {"airway": "segmental_or_proximal", "status": "new"}),
    ("4B", {"airway": "segmental_or_proximal", "status": "stable"}),
    ("4B", {"airway": "segmental_or_proximal", "status": "growing"}),
    ("1", {"cyst": "thin_walled", "status": "baseline"}),
    ("3", {"cyst": "thick_walled", "cyst_change": "cystic_part_growing"}),
    ("4A", {"cyst": "thick_walled", "status": "baseline"}),
    ("4A", {"cyst": "multilocular", "status": "baseline"}),
    ("4A", {"cyst": "thin_walled", "cyst_change": "became_multilocular"}),
    ("4A", {"cyst": "thick_walled", "cyst_change": "became_multilocular"}),
    ("4B", {"cyst": "thick_walled", "cyst_change": "wall_growing"}),
    ("4B", {"cyst": "multilocular", "cyst_change": "cystic_part_growing"}),
    ("4B", {"cyst": "multilocular", "cyst_change": "more_loculation_or_density"}),
    ("1", {"calcification": "complete", "mean_diameter_mm": 9.0}),
    ("1", {"calcification": "central", "mean_diameter_mm": 20.0}),
    ("1", {"calcification": "popcorn", "mean_diameter_mm": 20.0}),
    ("1", {"calcification": "concentric", "mean_diameter_mm": 20.0}),
    ("4B", {"calcification": "eccentric", "mean_diameter_mm": 20.0}),
    ("4B", {"calcification": "none", "mean_diameter_mm": 20.0}),
    ("1", {"fat": True, "mean_diameter_mm": 20.0}),
    ("4B", {"fat": False, "mean_diameter_mm": 20.0}),
]

JUXTAPLEURAL = {"nodule_type": "solid", "juxtapleural": True, "smooth": True, "shape": "lentiform"}


def cases(table: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(facts, *pair.split("=")) for facts, pairs in table.items() for pair in pairs.split()]  # type: ignore[misc]


def categorise(context: PatientContext, **properties: Any) -> GuidelineResult:
    nodule = GuidelineNodule.model_validate({"nodule_id": "a", **properties})
    return assess_study([nodule], context).lung_rads


@pytest.mark.parametrize(("facts", "diameter", "category"), cases(BY_DIAMETER))
def test_the_mean_diameter_gives_the_category_of_the_table(facts: str, diameter: str, category: str) -> None:
    nodule_type, status = facts.split()
    result = categorise(FIRST, nodule_type=nodule_type, status=status, mean_diameter_mm=float(diameter))
    assert (result.category, result.status) == (category, "given")
    assert result.category in result.possible


@pytest.mark.parametrize(("facts", "sizes", "category"), cases(BY_SOLID_PART))
def test_total_and_solid_part_give_the_category_of_the_table(facts: str, sizes: str, category: str) -> None:
    status, solid_status = facts.split()
    total, solid = map(float, sizes.split("/"))
    nodule = {"nodule_type": "part_solid", "mean_diameter_mm": total, "solid_diameter_mm": solid}
    assert categorise(LATER, **nodule, status=status, solid_status=solid_status).category == category


@pytest.mark.parametrize(("facts", "volume", "category"), cases(BY_VOLUME))
def test_the_volume_stands_in_where_no_diameter_is_known(facts: str, volume: str, category: str) -> None:
    nodule_type, status = facts.split()
    assert categorise(LATER, nodule_type=nodule_type, status=status, volume_mm3=float(volume)).category == category


@pytest.mark.parametrize(
    ("nodule_type", "line"), [(kind, line.strip()) for kind, lines in STEPPED.items() for line in lines.splitlines()]
)
def test_a_nodule_that_did_not_grow_is_managed_in_steps(nodule_type: str, line: str) -> None:
    before, days, change = line.split()
    sizes, category = change.split("=")
    then, now = map(float, sizes.split(">"))
    day = TODAY - timedelta(days=int(days))
    prior = PriorNodule(nodule_type=nodule_type, mean_diameter_mm=then, study_date=day, lung_rads=before)
    assert categorise(LATER, nodule_type=nodule_type, mean_diameter_mm=now, prior=prior).category == category


@pytest.mark.parametrize("case", GROWTH.split())
def test_growth_is_more_than_one_and_a_half_millimetres_within_twelve_months(case: str) -> None:
    sizes, answer = case.split("=")
    diameters, days = sizes.split("@")
    then, now = map(float, diameters.split(">"))
    prior = PriorNodule(mean_diameter_mm=then, study_date=TODAY - timedelta(days=int(days)), lung_rads="2")
    nodule = GuidelineNodule(nodule_id="a", nodule_type="solid", mean_diameter_mm=now, prior=prior)
    growth = assess_study([nodule], LATER).nodules[0].growth
    assert growth is not None
    assert growth.grew_by_diameter is (answer == "yes")


@pytest.mark.parametrize(("category", "properties"), OTHERS)
def test_airways_cysts_and_benign_features_have_their_own_rows(category: str, properties: dict[str, Any]) -> None:
    nodule = {"nodule_type": "solid", "status": "baseline" if "cyst_change" not in properties else None, **properties}
    assert categorise(LATER, **nodule).category == category


@pytest.mark.parametrize(
    ("diameter", "change", "category"),
    [
        (6.0, {}, "2"),
        (9.9, {}, "2"),
        (9.94, {}, "2"),
        (9.95, {}, "4A"),
        (10.1, {}, "4A"),
        (9.0, {"shape": "oval"}, "2"),
        (9.0, {"shape": "triangular"}, "2"),
        (9.0, {"shape": "round"}, "4A"),
        (9.0, {"shape": None}, "4A"),
        (9.0, {"smooth": False}, "4A"),
        (9.0, {"smooth": None}, "4A"),
        (9.0, {"juxtapleural": False}, "4A"),
        (9.0, {"nodule_type": "ground_glass"}, "2"),
        (7.0, {"status": "new"}, "2"),
        (7.0, {"status": "growing"}, "4A"),
    ],
)
def test_a_juxtapleural_nodule_is_benign_only_if_small_solid_smooth_and_shaped_so(
    diameter: float, change: dict[str, Any], category: str
) -> None:
    nodule = {**JUXTAPLEURAL, "status": "baseline", "mean_diameter_mm": diameter, **change}
    assert categorise(LATER, **nodule).category == category


def test_of_a_juxtapleural_nodule_of_ten_millimetres_exactly_both_readings_are_shown() -> None:
    result = categorise(FIRST, **JUXTAPLEURAL, mean_diameter_mm=10.0)
    assert result.category == "4A"
    assert "2" in result.possible
    assert any("10 mm or less" in note for note in result.notes)


def test_the_mean_of_both_axes_is_rounded_half_up_to_a_tenth() -> None:
    assert categorise(FIRST, nodule_type="solid", long_axis_mm=6.4, short_axis_mm=5.5).category == "3"
    assert categorise(FIRST, nodule_type="solid", long_axis_mm=6.4, short_axis_mm=5.4).category == "2"
    # 6.44 and 5.44 are read as 6.4 and 5.4, as a report prints them.
    assert categorise(FIRST, nodule_type="solid", long_axis_mm=6.44, short_axis_mm=5.44).category == "2"


def test_a_diameter_near_a_bound_says_both_categories() -> None:
    near = categorise(FIRST, nodule_type="solid", mean_diameter_mm=5.9)
    assert near.possible == ("2", "3")
    assert "also 3" in near.words
    far = categorise(FIRST, nodule_type="solid", mean_diameter_mm=4.0)
    assert far.possible == ("2",)
    own = categorise(FIRST, nodule_type="solid", mean_diameter_mm=5.9, diameter_interval_mm=(5.85, 5.94))
    assert own.possible == ("2",)


def test_a_wide_interval_names_every_class_between_its_ends() -> None:
    wide = categorise(FIRST, nodule_type="solid", mean_diameter_mm=9.0, diameter_interval_mm=(5.0, 16.0))
    assert wide.possible == ("2", "3", "4A", "4B")


@pytest.mark.parametrize(("base", "diameter"), [("3", 7.0), ("4A", 9.0), ("4B", 20.0)])
def test_suspicious_features_raise_a_three_or_four_to_4x(base: str, diameter: float) -> None:
    plain = categorise(FIRST, nodule_type="solid", mean_diameter_mm=diameter)
    assert plain.category == base
    for feature in ({"spiculation": True}, {"suspicious_features": ("lymphadenopathy",)}):
        raised = categorise(FIRST, nodule_type="solid", mean_diameter_mm=diameter, **feature)
        assert (raised.category, raised.rule) == ("4X", "suspicious-4X")
        assert f"category {base}" in raised.reason


def test_a_spiculated_nodule_of_category_two_is_left_to_the_reader() -> None:
    result = categorise(FIRST, nodule_type="solid", mean_diameter_mm=4.0, spiculation=True)
    assert result.category == "2"
    assert result.possible == ("2", "4X")


@pytest.mark.parametrize("before", [None, "2", "3"])
def test_stable_ground_glass_of_thirty_millimetres_is_category_2_by_its_own_row(before: str | None) -> None:
    day = TODAY - timedelta(days=365)
    prior = PriorNodule.model_validate(
        {"nodule_type": "ground_glass", "mean_diameter_mm": 31.0, "study_date": day, "lung_rads": before}
    )
    result = categorise(LATER, nodule_type="ground_glass", mean_diameter_mm=31.0, volume_mm3=15600, prior=prior)
    assert (result.category, result.rule, result.possible) == ("2", "ground-glass-slow-2", ("2",))
    assert "stable or grows slowly; mean diameter 31.0 mm (>= 30)" in result.reason
    assert not [note for note in result.notes if "step down" in note or "size class" in note]


def test_ground_glass_that_doubles_within_a_year_is_named() -> None:
    day = TODAY - timedelta(days=300)
    prior = PriorNodule(nodule_type="ground_glass", mean_diameter_mm=31.0, volume_mm3=15000, study_date=day)
    nodule = {"nodule_type": "ground_glass", "mean_diameter_mm": 40.0, "volume_mm3": 31000}
    assert categorise(LATER, **nodule, prior=prior).category == "4X"


def test_growth_over_more_than_a_year_that_stays_below_the_threshold_names_4b() -> None:
    prior = PriorNodule(mean_diameter_mm=5.0, study_date=TODAY - timedelta(days=730), lung_rads="2")
    result = categorise(LATER, nodule_type="solid", mean_diameter_mm=7.0, prior=prior)
    assert result.category == "3"
    assert "4B" in result.possible


def test_ground_glass_with_a_new_solid_part_is_placed_by_that_part() -> None:
    prior = PriorNodule(nodule_type="ground_glass", mean_diameter_mm=10.0, study_date=TODAY - timedelta(days=365))
    nodule = {"nodule_type": "part_solid", "mean_diameter_mm": 10.0, "prior": prior}
    assert categorise(LATER, **nodule, solid_diameter_mm=3.9).category == "4A"
    assert categorise(LATER, **nodule, solid_diameter_mm=4.0).category == "4B"


def test_a_4b_that_was_proven_benign_is_a_two() -> None:
    assert categorise(LATER, nodule_type="solid", mean_diameter_mm=20.0, proven_benign=True).category == "2"


def test_an_airway_nodule_is_not_stepped_down() -> None:
    prior = PriorNodule(mean_diameter_mm=7.0, study_date=TODAY - timedelta(days=92), lung_rads="4A")
    nodule = {"airway": "segmental_or_proximal", "mean_diameter_mm": 7.0, "status": "stable", "prior": prior}
    assert categorise(LATER, **nodule).category == "4B"


def test_a_stable_thick_walled_cyst_is_stepped_down() -> None:
    prior = PriorNodule(study_date=TODAY - timedelta(days=92), lung_rads="4A")
    assert categorise(LATER, cyst="thick_walled", status="stable", prior=prior).category == "3"


def test_without_the_earlier_category_no_step_down_is_taken_and_it_is_asked_for() -> None:
    prior = PriorNodule(mean_diameter_mm=9.0, study_date=TODAY - timedelta(days=92))
    result = categorise(LATER, nodule_type="solid", mean_diameter_mm=9.0, prior=prior)
    assert result.category == "4A"
    assert "category of the earlier CT" in result.not_assessed


def test_the_earlier_category_is_taken_from_the_earlier_assessment() -> None:
    then = PatientContext(screening=True, prior_dates=(), study_date=TODAY - timedelta(days=92))
    first = assess_study([GuidelineNodule(nodule_id="old", nodule_type="solid", mean_diameter_mm=9.0)], then)
    prior = PriorNodule(nodule_id="old", mean_diameter_mm=9.0, study_date=then.study_date)
    nodule = GuidelineNodule(nodule_id="now", nodule_type="solid", mean_diameter_mm=9.0, prior=prior)
    assert assess_study([nodule], LATER, first).lung_rads.category == "3"


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"mean_diameter_mm": 7.0}, "nodule type"),
        ({"nodule_type": "solid"}, "mean diameter"),
        ({"nodule_type": "part_solid", "mean_diameter_mm": 8.0}, "diameter of the solid part"),
    ],
)
def test_a_nodule_that_lacks_an_input_is_refused_by_its_name(properties: dict[str, Any], named: str) -> None:
    result = categorise(FIRST, **properties)
    assert (result.status, result.category) == ("refused", None)
    assert named in result.missing
    assert named in result.reason


def test_a_part_solid_nodule_below_six_millimetres_needs_no_solid_part() -> None:
    assert categorise(FIRST, nodule_type="part_solid", mean_diameter_mm=5.0).category == "2"


def test_a_nodule_that_nobody_compared_is_refused_though_an_earlier_ct_exists() -> None:
    result = categorise(LATER, nodule_type="solid", mean_diameter_mm=7.0)
    assert result.category is None
    assert any("comparison with earlier CTs" in name for name in result.missing)
    unknown = categorise(PatientContext(screening=True), nodule_type="solid", mean_diameter_mm=7.0)
    assert unknown.category is None


def test_a_stable_part_solid_nodule_without_its_solid_part_is_refused_with_what_it_could_be() -> None:
    day = TODAY - timedelta(days=365)
    prior = PriorNodule(nodule_type="part_solid", mean_diameter_mm=10.0, study_date=day, lung_rads="2")
    result = categorise(LATER, nodule_type="part_solid", mean_diameter_mm=10.0, solid_diameter_mm=5.0, prior=prior)
    assert result.category is None
    assert result.missing == ("change of the solid part",)
    assert set(result.possible) >= {"2", "4B"}


def test_without_screening_there_is_no_category_and_if_unknown_only_under_that_condition() -> None:
    properties = {"nodule_type": "solid", "mean_diameter_mm": 7.0, "status": "baseline"}
    assert categorise(PatientContext(screening=False), **properties).status == "refused"
    unknown = categorise(PatientContext(), **properties)
    assert (unknown.status, unknown.category, unknown.missing) == ("conditional", "3", ("screening",))
    assert "if this is a CT of a screening programme" in unknown.words


def study(context: PatientContext, *diameters: float, **properties: Any) -> StudyGuidelines:
    nodules = [
        GuidelineNodule.model_validate(
            {"nodule_id": str(i), "nodule_type": "solid", "mean_diameter_mm": d, **properties}
        )
        for i, d in enumerate(diameters)
    ]
    return assess_study(nodules, context)


def test_the_most_suspicious_nodule_gives_the_category_of_the_study() -> None:
    result = study(FIRST, 4.0, 9.0, 7.0)
    assert [nodule.lung_rads.category for nodule in result.nodules] == ["2", "4A", "3"]
    assert result.lung_rads.category == "4A"
    assert result.deciding_nodules[TABLE.name] == "1"


def test_what_the_study_could_be_is_never_less_than_its_most_suspicious_nodule_at_least_is() -> None:
    result = study(FIRST, 5.9, 12.0)
    assert result.lung_rads.possible == ("4A",)
    assert study(FIRST, 5.9, 3.0).lung_rads.possible == ("2", "3")


def test_a_nodule_without_a_type_stops_the_study_only_if_it_could_be_worse() -> None:
    large = GuidelineNodule(nodule_id="large", nodule_type="solid", mean_diameter_mm=20.0)
    open_ = GuidelineNodule(nodule_id="open", mean_diameter_mm=5.0)
    result = assess_study([large, open_], FIRST).lung_rads
    assert result.category == "4B"
    assert any("nodule open" in note for note in result.notes)
    stopped = assess_study([large.model_copy(update={"mean_diameter_mm": 4.0}), open_], FIRST).lung_rads
    assert stopped.category == "2"
    wide = GuidelineNodule(nodule_id="wide", mean_diameter_mm=9.0)
    refused = assess_study([large.model_copy(update={"mean_diameter_mm": 4.0}), wide], FIRST).lung_rads
    assert (refused.category, refused.missing[0]) == (None, "nodule type")


def test_a_study_without_nodules_is_a_one_only_if_the_lungs_were_searched() -> None:
    searched = FIRST.model_copy(update={"lungs_searched": True})
    assert study(searched).lung_rads.category == "1"
    unknown = study(FIRST).lung_rads
    assert unknown.category is None
    assert unknown.missing == ("search of the lungs",)


@pytest.mark.parametrize(
    "reason", [{"prior_being_located": True}, {"lungs_evaluable": False}, {"infection_suspected": True}]
)
def test_an_incomplete_study_is_a_zero_that_says_what_was_seen(reason: dict[str, bool]) -> None:
    result = study(FIRST.model_copy(update=reason), 9.0).lung_rads
    assert (result.category, result.rule) == ("0", "incomplete-0")
    assert any("4A" in note for note in result.notes)
    assert "4A" in result.possible


def test_a_significant_other_finding_adds_s_and_an_unknown_one_is_named() -> None:
    assert study(FIRST.model_copy(update={"other_significant_finding": True}), 9.0).lung_rads.label == "4AS"
    assert study(FIRST.model_copy(update={"other_significant_finding": False}), 9.0).lung_rads.label == "4A"
    assert "other significant findings (S)" in study(FIRST, 9.0).lung_rads.not_assessed


def test_a_volume_of_another_size_class_is_said() -> None:
    result = categorise(FIRST, nodule_type="solid", mean_diameter_mm=5.8, volume_mm3=150)
    assert result.category == "2"
    assert any("150 mm3" in note and "category 3" in note for note in result.notes)


def test_every_result_says_where_it_comes_from_and_whether_that_was_checked() -> None:
    result = categorise(FIRST, nodule_type="solid", mean_diameter_mm=7.0)
    assert "10.1016/j.jacr.2023.09.009" in result.source
    assert result.verified
    assert len(result.checked_against) >= 2
    assert result.management == "Low-dose CT in 6 months"
    reading = categorise(FIRST, nodule_type="ground_glass", status="growing", mean_diameter_mm=35.0)
    assert not reading.verified


ORDER = {category: rank for rank, category in enumerate(TABLE.categories)}
DIAMETERS = st.floats(min_value=0.5, max_value=100, allow_nan=False)


@settings(deadline=None)
@given(
    st.sampled_from(["solid", "ground_glass"]),
    st.sampled_from(["baseline", "new", "growing", "slow_growing"]),
    DIAMETERS,
    DIAMETERS,
    st.booleans(),
)
def test_a_larger_nodule_is_never_less_suspicious(
    nodule_type: str, status: str, one: float, other: float, juxtapleural: bool
) -> None:
    shape = {"juxtapleural": juxtapleural, "smooth": True, "shape": "oval"}
    small, large = (
        categorise(LATER, nodule_type=nodule_type, status=status, mean_diameter_mm=diameter, **shape)
        for diameter in sorted((one, other))
    )
    assert ORDER[small.category or ""] <= ORDER[large.category or ""]
    assert ORDER[small.possible[0]] <= ORDER[large.possible[0]]
    assert ORDER[small.possible[-1]] <= ORDER[large.possible[-1]]


@settings(deadline=None)
@given(
    st.sampled_from(["baseline", "new", "growing", "stable"]),
    st.tuples(DIAMETERS, st.floats(0.01, 1)),
    st.floats(0, 40),
    st.floats(0, 1),
)
def test_a_larger_part_solid_nodule_or_solid_part_is_never_less_suspicious(
    status: str, sizes: tuple[float, float], more: float, share: float
) -> None:
    total, fraction = sizes
    solid_status = {"baseline": "baseline", "new": "new", "growing": "growing", "stable": "growing"}[status]
    solid = max(total * fraction, 0.1)
    total = max(total, solid)
    results = [
        categorise(
            LATER,
            nodule_type="part_solid",
            status=status,
            solid_status=solid_status,
            mean_diameter_mm=total + extra,
            solid_diameter_mm=solid + extra * share,
        ).category
        for extra in (0.0, more)
    ]
    assert ORDER[results[0] or ""] <= ORDER[results[1] or ""]


@settings(deadline=None)
@given(
    st.sampled_from(["2", "3", "4A"]), st.integers(30, 800), st.floats(2, 40), st.floats(-1.4, 1.4), st.floats(0, 0.1)
)
def test_a_followed_nodule_that_is_larger_now_is_never_less_suspicious(
    before: str, days: int, then: float, change: float, extra: float
) -> None:
    prior = PriorNodule(mean_diameter_mm=then, study_date=TODAY - timedelta(days=days), lung_rads=before)
    now = max(then + change, 0.5)
    results = [
        categorise(LATER, nodule_type="solid", mean_diameter_mm=now + more, prior=prior).category
        for more in (0.0, extra)
    ]
    assert ORDER[results[0] or ""] <= ORDER[results[1] or ""]


def test_a_reason_that_many_nodules_share_is_said_once() -> None:
    nodules = [GuidelineNodule(nodule_id=f"n{number}", mean_diameter_mm=9.0) for number in range(5)]
    reason = assess_study(nodules, FIRST).lung_rads.reason
    assert reason.startswith("nodule n0, nodule n1, nodule n2 and 2 more: Lung-RADS needs: nodule type")
    assert reason.count("Lung-RADS needs") == 1
