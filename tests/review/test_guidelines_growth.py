"""Growth: doubling times worked out by hand, intervals that cover the truth, words where nothing grew; the tables."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_contracts.guideline_tables import Bound, RuleTable
from data_contracts.guidelines import GrowthResult, GuidelineNodule, PatientContext, PriorNodule, StudyGuidelines
from data_contracts.params import GuidelineParams
from pipeline.review.guidelines.growth import days_between, doubling_time_days, measure_growth
from pipeline.review.guidelines.matching import match
from pipeline.review.guidelines.sizes import Z95, log_ratio_limit, relative_interval, round_half_up
from pipeline.review.guidelines.study import assess_study
from pipeline.review.guidelines.tables import BTS, FLEISCHNER, LUNG_RADS, rule_table, variability_table

TODAY = date(2026, 11, 21)
PARAMS = GuidelineParams()


def growth(before_mm3: float, now_mm3: float, days: int, **of_both: object) -> GrowthResult:
    nodule = GuidelineNodule.model_validate({"nodule_id": "a", "volume_mm3": now_mm3, **of_both})
    prior = PriorNodule.model_validate({"volume_mm3": before_mm3, **of_both})
    return measure_growth(nodule, prior, days, PARAMS, growth_mm=1.5, within_days=365.25)


@pytest.mark.parametrize(
    ("before", "now", "days", "expected"),
    [
        (100, 200, 365, 365.0),  # doubled once
        (100, 200, 90, 90.0),
        (100, 400, 365, 182.5),  # doubled twice
        (100, 800, 300, 100.0),  # three times
        (200, 100, 180, -180.0),  # halved
        (100, 125, 90, 279.56),  # 90 x 0.693147 / 0.223144
        (100, 150, 365, 623.97),  # 365 x 0.693147 / 0.405465
        (113, 268, 365, 292.96),  # 6 to 8 mm, 365 x 0.693147 / 0.863575
    ],
)
def test_the_doubling_time_is_the_one_worked_out_by_hand(before: float, now: float, days: int, expected: float) -> None:
    assert doubling_time_days(before, now, days) == pytest.approx(expected, rel=2e-4)
    assert growth(before, now, days).vdt_days == pytest.approx(expected, rel=2e-4)


def test_an_unchanged_volume_has_no_doubling_time_and_says_so() -> None:
    result = growth(100, 100, 365)
    assert math.isinf(doubling_time_days(100, 100, 365))
    assert result.vdt_days is None
    assert result.vdt_interval_days[1] is None
    assert "unchanged" in result.words
    assert result.covers(math.inf)


def test_a_shrinking_nodule_has_a_halving_time() -> None:
    result = growth(400, 100, 100)
    assert result.vdt_days == pytest.approx(-50)
    slowest, fastest = result.vdt_interval_days
    assert slowest is not None
    assert fastest is not None
    assert slowest < -50 < fastest < 0
    assert "shrinking, halving time 50 days" in result.words


def test_a_change_within_the_repeatability_cannot_be_told_from_none() -> None:
    for now in (85, 100, 120):
        result = growth(100, now, 90)
        assert result.vdt_interval_days[1] is None
        assert result.covers(math.inf)
    assert "cannot be told from no growth" in growth(100, 120, 90).words
    assert "within what two measurements of one nodule differ" in growth(100, 85, 90).words
    assert not growth(100, 150, 90).covers(math.inf)


def test_thick_slices_make_intervals_that_span_benign_and_malignant() -> None:
    """Nietert 2009 (PMC5989730): growths of 1 and 2 mm on 2.5 and 5 mm slices."""
    for thickness in (2.5, 5.0):
        for then_mm, now_mm in ((6.0, 7.0), (8.0, 10.0)):
            volumes = [math.pi / 6 * size**3 for size in (then_mm, now_mm)]
            shortest, longest = growth(*volumes, 180, slice_thickness_mm=thickness).vdt_interval_days
            assert shortest is not None
            assert shortest < 400
            assert longest is None or longest > 600
    thin = growth(math.pi / 6 * 8**3, math.pi / 6 * 10**3, 180, slice_thickness_mm=1.0).vdt_interval_days
    assert thin[1] is not None
    assert thin[1] < 400


@pytest.mark.parametrize("vdt_days", [60.0, 250.0, 400.0, 600.0, 1500.0, math.inf, -300.0])
@pytest.mark.parametrize(("measured_by", "thickness"), [("software", 1.0), ("software", 2.5), ("reader", 1.0)])
def test_the_interval_covers_the_true_doubling_time_in_95_percent(
    vdt_days: float, measured_by: str, thickness: float
) -> None:
    rng = np.random.default_rng(20261121)
    days, n = 180, 2000
    of_both = {"measured_by": measured_by, "slice_thickness_mm": thickness}
    sizes = PriorNodule.model_validate(of_both)
    sigma = log_ratio_limit(sizes, sizes, PARAMS) / Z95 / math.sqrt(2)
    truth = np.array([150.0, 150.0 * 2 ** (days / vdt_days)])
    measured = truth * np.exp(sigma * rng.standard_normal((n, 2)))
    covered = sum(growth(before, now, days, **of_both).covers(vdt_days) for before, now in measured)
    # 4 standard errors of a share of 0.95 in 2000.
    assert abs(covered / n - 0.95) < 4 * math.sqrt(0.95 * 0.05 / n)


def test_the_limit_of_repeatability_is_the_published_one_in_relative_differences() -> None:
    rng = np.random.default_rng(1)
    sizes = PriorNodule(slice_thickness_mm=1.0)
    sigma = log_ratio_limit(sizes, sizes, PARAMS) / Z95 / math.sqrt(2)
    first, second = 100 * np.exp(sigma * rng.standard_normal((2, 200_000)))
    relative = 2 * (second - first) / (second + first)
    assert np.mean(np.abs(relative) <= 0.27) == pytest.approx(0.95, abs=0.003)


def test_readers_volumes_differ_more_than_automated_ones() -> None:
    software, reader = (PriorNodule.model_validate({"measured_by": who}) for who in ("software", "reader"))
    assert log_ratio_limit(software, reader, PARAMS) > 2 * log_ratio_limit(software, software, PARAMS)


@settings(deadline=None)
@given(st.floats(10, 5000), st.floats(10, 5000), st.integers(1, 3000))
def test_the_doubling_time_lies_in_its_own_interval(before: float, now: float, days: int) -> None:
    result = growth(before, now, days)
    assert result.covers(result.vdt_days if result.vdt_days is not None else math.inf)
    assert result.words


def test_without_a_volume_the_diameters_are_compared_and_the_volume_is_asked_for() -> None:
    nodule = GuidelineNodule(nodule_id="a", mean_diameter_mm=7.0, volume_mm3=180)
    result = measure_growth(nodule, PriorNodule(mean_diameter_mm=6.0), 90, PARAMS, growth_mm=1.5, within_days=365.25)
    assert result.diameter_change_mm == 1.0
    assert result.missing == ("volume of the prior",)
    assert result.vdt_days is None
    assert not result.covers(400)
    # 1.96 x sqrt(2) x 8.5 % of 6.5 mm.
    assert result.diameter_limit_mm == 1.5
    assert result.words == "mean diameter +1.0 mm in 90 days (two readers differ by up to 1.5 mm)"


def test_dates_that_are_unknown_or_in_the_wrong_order_give_no_interval() -> None:
    assert days_between(None, PriorNodule(study_date=TODAY)) is None
    assert days_between(TODAY, PriorNodule()) is None
    assert days_between(TODAY, PriorNodule(study_date=TODAY)) is None
    assert days_between(TODAY, PriorNodule(study_date=TODAY - timedelta(days=1))) == 1


@pytest.mark.parametrize(
    ("value", "step", "rounded"),
    [
        (5.94, 0.1, 5.9),
        (5.949999, 0.1, 5.9),
        (5.95, 0.1, 6.0),
        (5.05, 0.1, 5.1),
        (0.25, 0.1, 0.3),
        (5.4, 1.0, 5.0),
        (5.49, 1.0, 5.0),
        (5.5, 1.0, 6.0),
        (6.5, 1.0, 7.0),
        (112.5, 1.0, 113.0),
        (112.4999, 1.0, 112.0),
    ],
)
def test_sizes_are_rounded_half_up_as_they_are_printed(value: float, step: float, rounded: float) -> None:
    assert round_half_up(value, step) == rounded


def test_the_interval_of_a_diameter_follows_from_the_readers_variability() -> None:
    low, high = relative_interval(6.0, 0.085)
    assert low == pytest.approx(5.08, abs=0.01)
    assert high == pytest.approx(7.08, abs=0.01)


@pytest.mark.parametrize("name", [LUNG_RADS, FLEISCHNER, BTS])
def test_every_row_names_its_management_its_source_and_how_it_was_checked(name: str) -> None:
    table = rule_table(name)
    assert "doi" in table.source
    for row in table.rows:
        assert row.management or table.management[row.category], row.id
        assert (row.checked == "secondary") <= bool(row.against), row.id
        assert row.finding
    assert {rule.checked for rule in table.rules()} <= {"secondary", "unverified"}, "no paper was read itself"


#: Facts that rule out the rows about something special.
PLAIN: dict[str, str | float | None] = {
    **dict.fromkeys(("benign", "lymph_node", "fat", "juxtapleural", "smooth", "multiple", "volume_known"), "no"),
    **dict.fromkeys(("calcification", "airway", "cyst", "cyst_change"), "none"),
    "kind": "nodule",
    "shape": "round",
    "solid_diameter_mm": 1.0,
}


@pytest.mark.parametrize("name", [LUNG_RADS, FLEISCHNER, BTS])
def test_no_row_hides_behind_an_earlier_one(name: str) -> None:
    table = rule_table(name)
    for row in table.rows:
        facts = {**PLAIN, **{fact: words[0] for fact, words in row.when.items()}}
        for measured, bound in {**row.bounds, **row.volume_first}.items():
            if measured != "volume_mm3":
                facts[measured] = next(value for value in np.arange(0.5, 1000, 0.5) if bound.holds(float(value)))
        assert match(table, facts).row == row


def test_the_defaults_of_the_error_bars_are_the_figures_with_a_source() -> None:
    figures = {figure.parameter: figure.value for figure in variability_table().figures}
    assert figures == GuidelineParams().model_dump()


def test_a_table_that_names_an_unknown_source_or_category_is_refused() -> None:
    table = rule_table(FLEISCHNER).model_dump()
    row = dict(table["rows"][0])
    for wrong in ({"against": ("nobody",)}, {"category": "no such"}, {"checked": "secondary", "against": ()}):
        with pytest.raises(ValidationError):
            RuleTable.model_validate({**table, "rows": ({**row, **wrong},), "steps": ()})
    with pytest.raises(ValidationError):
        RuleTable.model_validate({**table, "rows": (row, row)})


def test_a_bound_says_itself_in_words() -> None:
    assert Bound(at_least=6, below=8).words("mm") == ">= 6 and < 8 mm"
    with pytest.raises(ValidationError):
        Bound()


def test_a_study_goes_to_json_and_back_unchanged() -> None:
    prior = PriorNodule(volume_mm3=100, mean_diameter_mm=5.8, study_date=TODAY - timedelta(days=200), lung_rads="2")
    nodules = [
        GuidelineNodule(nodule_id="a", nodule_type="solid", mean_diameter_mm=7.6, volume_mm3=230, prior=prior),
        GuidelineNodule(nodule_id="b"),
    ]
    study = assess_study(nodules, PatientContext(screening=True, study_date=TODAY, prior_dates=(prior.study_date,)))  # type: ignore[arg-type]
    assert StudyGuidelines.from_json(study.to_json()) == study


def test_two_hundred_nodules_and_everything_unknown_are_answered() -> None:
    study = assess_study([GuidelineNodule(nodule_id=str(number)) for number in range(200)], PatientContext())
    assert len(study.nodules) == 200
    for result in (study.lung_rads, study.fleischner, study.bts):
        assert result.status == "refused"
        assert result.missing
        assert len(result.reason) < 1000


@pytest.mark.parametrize(
    "wrong",
    [
        {"long_axis_mm": 5.0, "short_axis_mm": 6.0},
        {"mean_diameter_mm": 5.0, "solid_diameter_mm": 6.0},
        {"mean_diameter_mm": 0},
        {"mean_diameter_mm": float("nan")},
        {"volume_mm3": -1},
        {"diameter_interval_mm": (7.0, 5.0)},
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GuidelineNodule.model_validate({"nodule_id": "a", **wrong})


def test_a_prior_that_is_not_earlier_is_refused() -> None:
    with pytest.raises(ValidationError):
        PatientContext(study_date=TODAY, prior_dates=(TODAY,))
