"""Answers come back as labels, or are refused in one line."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from data_contracts.errors import AnnotationError
from data_contracts.feedback import FindingAnswer, MissedNodule, ReaderFeedback
from pipeline.review.feedback import (
    LABEL_COLUMNS,
    check_feedback,
    export_labels,
    feedback_labels,
    latest_labels,
    read_feedback,
)


@pytest.fixture
def feedback() -> ReaderFeedback:
    return ReaderFeedback(
        study_key="b1946ac92492d234",
        model_version="3",
        reader="AB",
        time_utc="2026-11-21T08:30:00.000Z",
        model_visible_first=True,
        answers=(
            FindingAnswer(finding_id="f2", nodule_id="nodule-f2", answer="accept", malignant=True),
            FindingAnswer(finding_id="f1", nodule_id="nodule-f1", answer="reject", reason="vessel"),
            FindingAnswer(finding_id="f3", nodule_id="nodule-f3", answer="correct", diameter_mm=6.5),
        ),
    )


def test_what_the_reader_saved_is_what_is_read(feedback, tmp_path):
    feedback.write(tmp_path / "feedback.json")
    assert read_feedback(tmp_path / "feedback.json") == feedback


def test_answers_become_labels_with_the_measured_diameter_where_accepted(feedback, study_review):
    check_feedback(feedback, study_review)
    labels = feedback_labels(feedback, study_review).set_index("finding_id")
    assert list(feedback_labels(feedback, study_review).columns) == list(LABEL_COLUMNS)
    assert labels.loc["f2", "malignant"] == 1 and labels.loc["f2", "diameter_mm"] == 8.1
    assert pd.isna(labels.loc["f1", "malignant"]) and pd.isna(labels.loc["f1", "diameter_mm"])
    assert labels.loc["f3", "diameter_mm"] == 6.5
    assert set(labels["reader"]) == {"AB"} and set(labels["model_version"]) == {"3"}


def test_the_last_word_of_a_reader_counts_and_readers_do_not_overrule_each_other(feedback, study_review):
    later = feedback.model_copy(
        update={
            "time_utc": "2026-11-21T10:30:00+00:00",
            "answers": (FindingAnswer(finding_id="f2", nodule_id="nodule-f2", answer="reject"),),
        }
    )
    other = feedback.model_copy(update={"reader": "CD"})
    labels = latest_labels([feedback_labels(item, study_review) for item in (later, feedback, other)])
    answers = labels.set_index(["finding_id", "reader"])["answer"].to_dict()
    assert answers[("f2", "AB")] == "reject" and answers[("f2", "CD")] == "accept"
    assert len(labels) == 6
    assert latest_labels([]).empty


def test_exported_labels_hold_no_formula(feedback, study_review, tmp_path):
    hostile = feedback.model_copy(update={"reader": "=cmd|' /C calc'!A0"})
    export_labels(feedback_labels(hostile, study_review), tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv")
    assert table["reader"].tolist() == ["'=cmd|' /C calc'!A0"] * 3
    assert table["malignant"].tolist()[0] == 1


def test_an_exported_nodule_behind_the_origin_keeps_its_numbers(feedback, study_review, tmp_path):
    missed = MissedNodule(lps_mm=(12.5, -100.0, -210.25), diameter_mm=5.0, series_key="0123456789abcdef")
    given = feedback.model_copy(update={"missed": (missed,)})
    export_labels(latest_labels([feedback_labels(given, study_review)]), tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv")
    (row,) = table[table["answer"] == "missed"].to_dict("records")
    assert (row["x_mm"], row["y_mm"], row["z_mm"]) == (12.5, -100.0, -210.25)
    assert table["y_mm"].dtype.kind == "f"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study_key": "other"}, "another study"),
        ({"model_version": "2"}, "model version 2"),
        ({"answers": (FindingAnswer(finding_id="f9", nodule_id="n", answer="accept"),)}, "does not have"),
        ({"answers": (FindingAnswer(finding_id="f2", nodule_id="nodule-f1", answer="accept"),)}, "does not have"),
    ],
)
def test_answers_to_another_report_are_refused(feedback, study_review, change, words):
    with pytest.raises(AnnotationError, match=words):
        check_feedback(feedback.model_copy(update=change), study_review)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reader": ""}, "reader"),
        ({"time_utc": "yesterday"}, "time_utc"),
        ({"time_utc": "2026-11-21T08:30:00"}, "time zone"),
        ({"surname": "x"}, "surname"),
        ({"schema_version": 9}, "schema version 9"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused_in_one_line(feedback, tmp_path, change, words):
    body = json.loads(feedback.to_json()) | change
    (tmp_path / "feedback.json").write_text(json.dumps(body))
    with pytest.raises(AnnotationError, match=words) as caught:
        read_feedback(tmp_path / "feedback.json")
    assert "\n" not in str(caught.value) and "feedback.json" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"answer": "maybe"},
        {"answer": "reject", "malignant": True},
        {"answer": "accept", "diameter_mm": 4.0},
        {"answer": "correct"},
        {"answer": "correct", "diameter_mm": -1.0},
        {"answer": "correct", "diameter_mm": True},
        {"answer": "correct", "diameter_mm": "6.5"},
        {"answer": "correct", "lps_mm": (True, 0.0, 0.0)},
        {"answer": "correct", "diameter_mm": 1e9},
        {"answer": "accept", "reason": "vessel"},
        {"answer": "reject", "reason": "<script>"},
    ],
)
def test_answers_that_contradict_themselves_are_refused(change):
    body = {"finding_id": "f1", "nodule_id": "n1", **change}
    with pytest.raises(ValueError, match=r"answer|diameter|reason|malignant|correct|lps_mm"):
        FindingAnswer.model_validate(body)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b" " * 2_000_000], ids=range(5))
def test_a_file_that_is_no_feedback_is_refused(tmp_path, content):
    (tmp_path / "feedback.json").write_bytes(content)
    with pytest.raises(AnnotationError):
        read_feedback(tmp_path / "feedback.json")
    with pytest.raises(AnnotationError, match="there is no feedback file"):
        read_feedback(tmp_path / "missing.json")
