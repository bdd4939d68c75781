"""Two readers of one nodule: they agree, or wait for somebody else; second readings, overrides, agreement."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from answers_factory import ELSEWHERE, PLACES, answers, finding_id, review_study, study_key
from sklearn.metrics import cohen_kappa_score

from data_contracts.feedback import AnsweredReport, ReaderFeedback
from data_contracts.params import FeedbackParams
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.review.answers.agreement import (
    STRATA,
    agreement,
    agreement_lines,
    intraclass_correlation,
    kappa,
    limits_of_agreement,
    reading_pairs,
)
from pipeline.review.answers.blind import blinded, said_by_readers
from pipeline.review.answers.cases import Case, cases_of
from pipeline.review.answers.opinions import answered_report, opinions_of
from pipeline.review.answers.overrides import overrides_by_version
from pipeline.review.answers.second_reads import companions, due_second_reads, is_chosen

PARAMS = FeedbackParams()
REJECT = {"answer": "reject", "reason": "vessel"}
LATER = {"time_utc": "2026-11-20T12:00:00+00:00"}
LAST = {"time_utc": "2026-11-20T18:00:00+00:00"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, AnsweredReport]:
    workspace = Workspace(tmp_path_factory.mktemp("reports")).create()
    return {number: answered_report(review_study(workspace, number, pictures=False)) for number in range(12)}


def cases(reports: dict[int, AnsweredReport], *given: ReaderFeedback) -> dict[str, Case]:
    """By nodule; the order of the files must not matter."""
    opinions = [item for one in given for item in opinions_of(one, reports[int(one.study_key, 16)])]
    found = cases_of(opinions, PARAMS)
    shuffled = opinions.copy()
    random.Random(1).shuffle(shuffled)
    assert cases_of(shuffled, PARAMS) == found
    return {case.nodule_id.removeprefix("nodule-"): case for case in found}


def standing(reports: dict[int, AnsweredReport], one: dict[str, object], other: dict[str, object]) -> tuple[str, ...]:
    case = cases(reports, answers(0, "AB", {0: one}), answers(0, "CD", {0: other}))[finding_id(0, 0)]
    return case.standing, *case.differs_on


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, ("agreed",)),
        (REJECT, {"answer": "reject", "reason": "scar"}, ("agreed",)),
        ({}, REJECT, ("differs", "presence")),
        ({}, {"malignant": True}, ("agreed",)),
        ({"malignant": False}, {"malignant": True}, ("differs", "malignant")),
        ({}, {"answer": "correct", "diameter_mm": 9.5}, ("agreed",)),
        ({}, {"answer": "correct", "diameter_mm": 9.6}, ("differs", "diameter_mm")),
        ({"answer": "correct", "diameter_mm": 20}, {"answer": "correct", "diameter_mm": 23}, ("agreed",)),
        (
            {"answer": "correct", "diameter_mm": 20},
            {"answer": "correct", "diameter_mm": 24},
            ("differs", "diameter_mm"),
        ),
        ({}, {"answer": "correct", "nodule_type": "ground_glass"}, ("differs", "nodule_type")),
        ({}, {"answer": "correct", "lps_mm": (23.0, 20, 15)}, ("agreed",)),
        ({}, {"answer": "correct", "lps_mm": (25.0, 20, 15)}, ("differs", "lps_mm")),
        ({}, {"answer": "correct", "reason": "size"}, ("differs", "diameter_mm")),
        ({"answer": "correct", "reason": "size"}, {"answer": "correct", "diameter_mm": 15}, ("agreed",)),
        (
            {"answer": "correct", "lung_rads": "3"},
            {"answer": "correct", "lung_rads": "4A", "malignant": True},
            ("differs", "lung_rads"),
        ),
        ({}, {"answer": "correct", "reason": "technique"}, ("single",)),
    ],
)
def test_two_readers_agree_where_what_they_say_is_the_same_nodule(
    reports: dict[int, AnsweredReport], one: dict[str, object], other: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert standing(reports, one, other) == expected
    assert standing(reports, other, one) == expected


def test_one_reader_alone_settles_nothing_however_often(reports: dict[int, AnsweredReport]) -> None:
    found = cases(reports, answers(0, "AB", {0: REJECT}), answers(0, "ab ", {0: {}}, **LATER))
    assert (found[finding_id(0, 0)].standing, found[finding_id(0, 0)].opinions[-1].said) == ("single", "accept")


def test_an_adjudicator_settles_what_others_differ_on_and_nothing_else(reports: dict[int, AnsweredReport]) -> None:
    differ = answers(0, "AB", {0: {}, 1: {}}), answers(0, "CD", {0: REJECT, 1: {}})
    judge = answers(0, "EF", {0: REJECT, 1: REJECT}, role="adjudicator", **LATER)
    found = cases(reports, *differ, judge)
    assert found[finding_id(0, 0)].standing == "adjudicated"
    assert [item.reader for item in found[finding_id(0, 0)].decided] == ["EF"]
    # on the second finding both agreed: the third word is one more reading, and now it waits
    assert found[finding_id(0, 1)].standing == "differs"
    own = cases(reports, *differ, judge.model_copy(update={"reader": "ab"}))
    assert own[finding_id(0, 0)].standing == "differs", "nobody adjudicates the own reading"
    alone = cases(reports, differ[0], judge)
    assert alone[finding_id(0, 0)].standing == "differs", "an adjudicator is no second reader of one word"
    mind = cases(reports, *differ, judge, answers(0, "EF", {0: {}}, role="adjudicator", **LAST))
    assert mind[finding_id(0, 0)].decided[0].said == "accept", "the last word counts"


def added(place: tuple[float, float, float] = ELSEWHERE, **values: object) -> dict[str, object]:
    return {"missed": ({"lps_mm": place, "diameter_mm": 6.0, "series_key": study_key(0), **values},)}


def test_a_nodule_that_two_readers_add_is_one_and_one_that_others_passed_over_waits(
    reports: dict[int, AnsweredReport],
) -> None:
    one = answers(0, "AB", {0: {}}, **added())
    near = answers(0, "CD", {0: {}}, **LATER, **added((61.0, 15.0, 31.0), malignant=True))
    far = answers(0, "CD", {0: {}}, **LATER, **added(PLACES[2]))
    mark = next(key for key in cases(reports, one) if key.startswith("missed-"))
    assert cases(reports, one)[mark].standing == "single"
    together = cases(reports, one, near)
    assert together[mark].standing == "agreed" and len(together[mark].marks) == 2
    apart = cases(reports, one, far)
    assert [case.standing for key, case in apart.items() if key.startswith("missed-")] == ["differs", "differs"]
    assert "CD: did not add it" in said_by_readers(apart[mark])
    judge = {"finding_id": mark, "nodule_id": mark}
    for said, expected in (({"answer": "accept"}, "accept"), ({"answer": "reject"}, "reject")):
        word = answers(0, "EF", {0: {**judge, **said}}, role="adjudicator", **LAST)
        case = cases(reports, one, far, word)[mark]
        assert (case.standing, case.decided[0].said) == ("adjudicated", expected)
    taken_back = cases(reports, one, answers(0, "AB", {0: {**judge, "answer": "reject"}}, **LAST))
    assert mark not in taken_back


def test_a_tenth_of_what_was_accepted_is_read_blind_again_whoever_accepted_it(
    reports: dict[int, AnsweredReport],
) -> None:
    key = Pseudonymizer(b"a key").key
    given = [answers(number, "AB") for number in range(12)]
    every = list(cases(reports, *given).values())
    other = list(cases(reports, *(one.model_copy(update={"reader": "CD"}) for one in given)).values())
    chosen = {case.nodule_id for case in due_second_reads(every, 0.1, key)}
    assert chosen == {case.nodule_id for case in due_second_reads(other, 0.1, key)}
    assert due_second_reads(every, 1.0, key) == every and due_second_reads(every, 0.0, key) == []
    assert {case.nodule_id for case in due_second_reads(every, 0.1, Pseudonymizer(b"another").key)} != chosen
    many = [replace(every[0], nodule_id=str(number)) for number in range(4000)]
    assert 0.085 < np.mean([is_chosen(case, 0.1, key) for case in many]) < 0.115
    rejected = cases(reports, answers(0, "AB", {0: REJECT}))
    assert due_second_reads(rejected.values(), 1.0, key) == []
    blind = answers(0, "CD", {0: {}}, second_read=True, model_visible_first=False, **LATER)
    left = due_second_reads(cases(reports, answers(0, "AB", {0: {}, 1: {}}), blind).values(), 1.0, key)
    assert [case.finding_id for case in left] == [finding_id(0, 1)]


def test_a_reader_who_says_something_else_blind_waits_for_somebody_else(reports: dict[int, AnsweredReport]) -> None:
    first = answers(0, "AB", {0: {}})
    blind = {"second_read": True, "model_visible_first": False, **LATER}
    assert cases(reports, first, answers(0, "AB", {0: {}}, **blind))[finding_id(0, 0)].standing == "single"
    case = cases(reports, first, answers(0, "AB", {0: REJECT}, **blind))[finding_id(0, 0)]
    assert (case.standing, case.differs_on) == ("differs", ("presence",))


def test_a_blind_page_says_nothing_of_the_model_and_not_which_findings_are_due(tmp_path) -> None:
    review = review_study(Workspace(tmp_path).create(), 0)
    key = Pseudonymizer(b"a key").key
    shown = companions([finding_id(0, 1)], [item.finding_id for item in review.findings], key)
    assert set(shown) == {item.finding_id for item in review.findings}
    assert (
        companions(["a"], "abcdefgh", key) != companions(["b"], "abcdefgh", key)
        and len(companions(["a"], "abcdefgh", key)) == 3
    )
    blind = blinded(review, "second", shown)
    assert blind.reading == "second" and [item.finding_id for item in blind.findings] == shown
    for item in blind.findings:
        assert item.probability is None and item.probability_size_only is None
        assert not (item.ratings or item.concepts or item.n_readers or item.measurement.nodule_type)
    assert blind.evaluation_summary == {} and blind.guidelines is None


def test_overrides_are_counted_by_version_and_by_the_last_word(reports: dict[int, AnsweredReport]) -> None:
    given = [
        answers(0, "AB", {0: {}, 1: REJECT, 2: {"answer": "correct", "diameter_mm": 8.2}}),
        answers(0, "AB", {1: {}}, **LATER),
        answers(0, "CD", {0: REJECT}, **added()),
        answers(1, "AB", {0: {"answer": "correct", "diameter_mm": 8.2}}, model_visible_first=False),
        answers(2, "AB", {0: {"answer": "correct", "diameter_mm": 12.0}}, model_visible_first=False),
        answers(3, "AB", {0: REJECT}, second_read=True, model_visible_first=False),
        answers(3, "EF", {0: REJECT}, role="adjudicator"),
        answers(4, "AB", {0: REJECT}, model_version="4"),
        answers(4, "AB", {0: {"answer": "correct", "reason": "technique"}}, **LATER),
    ]
    opinions = [item for one in given for item in opinions_of(one, reports[int(one.study_key, 16)])]
    found = overrides_by_version(opinions, PARAMS)
    # AB accepts 0 and 1 and corrects 2, CD rejects 0; who did not see the model overrides it by what differs alone
    assert (found["3"].overridden, found["3"].answered) == (3, 6)
    assert (found["4"].overridden, found["4"].answered) == (1, 1)
    rate = found["3"].rate
    assert rate.value == 0.5 and rate.low < 0.5 < rate.high and rate.n == 6


def test_kappa_and_its_interval_are_those_of_scikit_learn_and_of_a_bootstrap() -> None:
    rng = np.random.default_rng(4)
    first = rng.integers(0, 4, 120)
    second = np.where(rng.random(120) < 0.7, first, rng.integers(0, 4, 120))
    patients = np.repeat(np.arange(60), 2).astype(object)
    for ordered in (False, True):
        weights = "linear" if ordered else None
        figure = kappa(first, second, patients, 4, ordered=ordered, seed=0)
        assert figure.value == pytest.approx(cohen_kappa_score(first, second, weights=weights))
        drawn = []
        for _ in range(400):
            take = np.concatenate([[2 * row, 2 * row + 1] for row in rng.choice(60, 60)])
            drawn.append(cohen_kappa_score(first[take], second[take], labels=[0, 1, 2, 3], weights=weights))
        assert figure.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.05)
        assert figure.high == pytest.approx(np.percentile(drawn, 97.5), abs=0.05)
    same = kappa(np.ones(5, dtype=int), np.ones(5, dtype=int), np.arange(5).astype(object), 2, ordered=False, seed=0)
    assert same.value is None and "same class" in same.note and same.n == 5


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    # Table 2 of Shrout & Fleiss 1979: six targets, four judges; ICC(1,1) is .17
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    figure = intraclass_correlation(ratings)
    assert figure.value == pytest.approx(0.1657, abs=1e-4) and figure.n == 6
    assert (figure.low, figure.high) == (pytest.approx(-0.1329, abs=1e-3), pytest.approx(0.7226, abs=1e-3))


def test_limits_of_agreement_hold_95_of_a_hundred_differences() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1.0, 4000)
    found = limits_of_agreement(differences)
    inside = (differences > found["limit_low_diameter_mm"].value) & (
        differences < found["limit_high_diameter_mm"].value
    )
    assert inside.mean() == pytest.approx(0.95, abs=0.01)
    assert found["bias_diameter_mm"].low < 0.5 < found["bias_diameter_mm"].high


def test_agreement_is_told_overall_and_by_what_was_seen_first(reports: dict[int, AnsweredReport]) -> None:
    rng = np.random.default_rng(1)
    given = []
    for number, name in itertools.product(range(12), ("AB", "CD")):
        said = {n: REJECT if rng.random() < 0.3 else {"malignant": bool(rng.random() < 0.5)} for n in range(3)}
        given.append(answers(number, name, said, model_visible_first=number % 2 == 0))
    figures = agreement(reading_pairs(cases(reports, *given).values()))
    assert set(figures) == set(STRATA)
    assert figures["all"]["kappa_nodule"].n == 36
    assert figures["model seen first"]["kappa_nodule"].n == figures["model not seen first"]["kappa_nodule"].n == 18
    assert figures["one of each"]["kappa_nodule"].n == figures["same reader twice"]["kappa_nodule"].n == 0
    for stratum in ("all", "model seen first"):
        figure = figures[stratum]["kappa_nodule"]
        assert figure.low <= figure.value <= figure.high
    assert agreement(reading_pairs(cases(reports, *given).values())) == figures


def test_a_kappa_of_few_patients_or_of_one_kind_of_resample_has_no_interval() -> None:
    one, other = np.array([0, 1, 1, 0, 1, 0, 1]), np.array([1, 1, 1, 1, 1, 1, 1])
    few = kappa(one, other, np.repeat(["a", "b"], [3, 4]).astype(object), 2, ordered=False, seed=0)
    assert few.value == 0 and few.low is None and "fewer than 5 patients" in few.note
    alike = kappa(one, other, np.arange(7).astype(object), 2, ordered=False, seed=0)
    assert alike.value == 0 and alike.low is None and "alike" in alike.note
    figures = {name: {"kappa_nodule": alike} for name in STRATA}
    assert "0.000, interval not known (n = 7)" in agreement_lines(figures)[1]


def test_who_only_says_that_the_images_allow_no_answer_is_not_silent_on_an_added_nodule(
    reports: dict[int, AnsweredReport],
) -> None:
    unclear = {"answer": "correct", "reason": "technique"}
    found = cases(reports, answers(0, "AB", {0: {}}, **added()), answers(0, "CD", {0: unclear}))
    (mark,) = [case for case in found.values() if case.marks]
    assert mark.standing == "single" and [item.said for item in mark.opinions] == ["missed"]


def test_who_read_a_study_and_named_nothing_is_silent_on_a_nodule_that_another_adds(
    reports: dict[int, AnsweredReport],
) -> None:
    found = cases(reports, answers(0, "AB", {}, **added()), answers(0, "CD", {}))
    (mark,) = found.values()
    assert mark.standing == "differs" and [item.said for item in mark.opinions] == ["missed", "absent"]
    assert cases(reports, answers(0, "CD", {})) == {}
