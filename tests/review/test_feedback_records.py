"""The contract of answers: what a reader can say, what nobody can, and files of an earlier program."""

from __future__ import annotations

import json

import pytest
from answers_factory import answers

from data_contracts.errors import ContractError
from data_contracts.feedback import MAX_COMMENT, FindingAnswer, MissedNodule, ReaderFeedback

WHOLE = {
    "answer": "correct",
    "malignant": True,
    "diameter_mm": 6.54,
    "nodule_type": "part_solid",
    "lung_rads": "4B",
    "lps_mm": (1.23, -4.5, 30.0),
    "reason": "type",
}


def test_everything_that_a_reader_says_goes_to_a_file_and_back() -> None:
    missed = MissedNodule(lps_mm=(60, 15, 30), diameter_mm=5, nodule_type="solid", malignant=False, series_key="a1")
    given = answers(
        0,
        "Dr. Åse Müller",
        {0: {}, 1: {"answer": "reject", "reason": "vessel"}, 2: WHOLE},
        role="adjudicator",
        model_visible_first=False,
        second_read=True,
        missed=(missed,),
        comment="first line\nsecond <b>line</b>",
    )
    assert ReaderFeedback.from_json(given.to_json()) == given
    assert json.loads(given.to_json())["schema_version"] == 2


def test_a_file_of_an_earlier_program_is_read_with_its_reasons() -> None:
    old = {
        "schema_version": 1,
        "study_key": "b1",
        "model_version": "3",
        "reader": "AB",
        "time_utc": "2026-11-21T08:30:00Z",
        "model_visible_first": True,
        "answers": [
            {
                "finding_id": "f1", "nodule_id": "n1", "answer": "reject", "malignant": None, "diameter_mm": None,
                "comment_code": "vessel",
            },
            {"finding_id": "f2", "nodule_id": "n2", "answer": "accept"},
        ],
    }  # fmt: skip
    read = ReaderFeedback.from_json(json.dumps(old))
    assert [answer.reason for answer in read.answers] == ["vessel", ""]
    assert (read.role, read.second_read, read.missed, read.comment) == ("reader", False, (), "")
    with pytest.raises(ContractError, match="schema version 3"):
        ReaderFeedback.from_json(json.dumps({**old, "schema_version": 3}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "accept", "lung_rads": "4A"}, "lung_rads is given only"),
        ({"answer": "reject", "lps_mm": (0, 0, 0)}, "lps_mm is given only"),
        ({"answer": "accept", "nodule_type": "solid"}, "nodule_type is given only"),
        ({"answer": "correct", "lps_mm": (float("nan"), 0, 0)}, "finite"),
        ({"answer": "correct", "lung_rads": "5"}, "lung_rads"),
        ({"answer": "correct", "diameter_mm": 0.04}, "diameter_mm"),
        ({"answer": "reject", "reason": "size"}, "reason code"),
        ({"finding_id": "f\u202e1"}, "hide or turn"),
        ({"nodule_id": "\ud800"}, "nodule_id"),
    ],
)
def test_an_answer_that_no_reader_can_mean_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FindingAnswer.model_validate({"finding_id": "f1", "nodule_id": "n1", "answer": "correct", **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"comment": "x" * (MAX_COMMENT + 1)}, "comment"),
        ({"reader": "A\x00B"}, "reader"),
        ({"reader": "  "}, "reader"),
        ({"reader": "x" * 65}, "reader"),
        ({"role": "chief"}, "role"),
        ({"second_read": True}, "blind"),
        ({"missed": ({"lps_mm": (0, 0, 0), "diameter_mm": 5, "series_key": "../x"},)}, "series_key"),
    ],
)
def test_a_file_that_no_reader_can_mean_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReaderFeedback.model_validate({**answers(0, "AB").model_dump(), **change})


def test_names_times_and_places_have_one_form() -> None:
    given = answers(
        0, "  Dr.\u00a0 A ", {0: WHOLE}, time_utc="2026-11-21T09:30:00.12345+02:00", comment=" a\r\nb\u200b "
    )
    assert (given.reader, given.time_utc, given.comment) == ("Dr. A", "2026-11-21T07:30:00.123+00:00", "a\nb")
    assert answers(0, "ÄB").reader_key == answers(0, "äb").reader_key
    place = FindingAnswer.model_validate({**given.answers[0].model_dump(), "lps_mm": (1.23456, -0.001, 3)})
    assert place.lps_mm == (1.23, 0.0, 3.0)
