"""Readers' answers coming back: read, checked against the report they answer, and turned into labels."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data_contracts.errors import AnnotationError, ContractError
from data_contracts.feedback import AnsweredReport, ReaderFeedback
from data_contracts.records import write_bytes_atomic
from data_contracts.review import StudyReview
from pipeline.review.answers.opinions import answered_report, mark_id

#: Larger than the answers to a thousand findings; what is bigger is no feedback file.
MAX_BYTES = 1_000_000

#: Columns of the labels that answers give.
LABEL_COLUMNS = (
    "nodule_id",
    "finding_id",
    "study_key",
    "answer",
    "malignant",
    "diameter_mm",
    "nodule_type",
    "lung_rads",
    "x_mm",
    "y_mm",
    "z_mm",
    "reason",
    "reader",
    "role",
    "second_read",
    "model_version",
    "model_visible_first",
    "time_utc",
    "standing",
)
_OF_FILE = ("study_key", "reader", "role", "second_read", "model_version", "model_visible_first", "time_utc")


def read_feedback(path: Path) -> ReaderFeedback:
    """Answers of one reader from the file that the report page saved.

    Raises
    ------
    AnnotationError: the file is missing, no JSON, or breaks the contract; one line says where.
    """
    todo = "Save the answers again from the report page."
    try:
        size = path.stat().st_size
    except OSError:
        raise AnnotationError("there is no feedback file", where=path.name, todo=todo) from None
    if size > MAX_BYTES:
        raise AnnotationError(f"a feedback file has at most {MAX_BYTES} bytes, not {size}", where=path.name, todo=todo)
    try:
        return ReaderFeedback.read(path)
    except ContractError as error:
        raise AnnotationError(error.what, where=path.name, todo=todo) from None
    except RecursionError:
        raise AnnotationError("not a JSON record of ReaderFeedback", where=path.name, todo=todo) from None


def check_feedback(feedback: ReaderFeedback, review: StudyReview | AnsweredReport, marks: Collection[str] = ()) -> None:
    """Refuse answers that were not given to this report.

    marks: ids of nodules that readers added to it; they can be answered too.

    Raises
    ------
    AnnotationError: another study or model version, or an answer to a finding the report does not have.
    """
    if feedback.study_key != review.study_key:
        raise AnnotationError(
            "the answers belong to another study", where=feedback.study_key[:64], todo="Name the report they answer."
        )
    if feedback.model_version != review.model_version:
        raise AnnotationError(
            f"the answers were given to model version {feedback.model_version[:32]}, "
            f"the report is of version {review.model_version}",
            todo="Answer the present report.",
        )
    nodules = {finding.finding_id: finding.nodule_id for finding in review.findings} | {mark: mark for mark in marks}
    for answer in feedback.answers:
        if nodules.get(answer.finding_id) != answer.nodule_id:
            raise AnnotationError(
                "an answer names a finding that the report does not have",
                where=answer.finding_id[:64],
                todo="Answer the present report.",
            )


def check_names_a_nodule(feedback: ReaderFeedback, report: AnsweredReport) -> None:
    """Refuse answers without any, unless the report has no findings: then they say that nothing is missed.

    Raises
    ------
    AnnotationError: the report has findings.
    """
    if feedback.names_no_nodule and report.findings:
        raise AnnotationError(
            "answers: no finding is answered and no missed nodule is added",
            where=feedback.study_key[:64],
            todo="Answer at least one finding.",
        )


def check_added(feedback: ReaderFeedback, report: AnsweredReport) -> None:
    """Refuse a missed nodule in a series that the report does not have, or on a finding that the reader did not reject.

    Raises
    ------
    AnnotationError: says which of them.
    """
    rejected = {answer.finding_id for answer in feedback.answers if answer.answer == "reject"}
    for number, missed in enumerate(feedback.missed, start=1):
        if missed.series_key not in report.series_keys:
            raise AnnotationError(
                f"missed nodule {number} is in a series that the report does not have",
                where=missed.series_key,
                todo="Add it to the report of its study.",
            )
        for finding in report.findings:
            apart_mm = float(np.linalg.norm(np.subtract(finding.lps_mm, missed.lps_mm)))
            is_on = apart_mm < min(finding.diameter_mm, missed.diameter_mm) / 2
            if is_on and finding.series_key == missed.series_key and finding.finding_id not in rejected:
                raise AnnotationError(
                    f"missed nodule {number} lies on a finding of the report, {apart_mm:.1f} mm from its centre",
                    where=finding.finding_id,
                    todo="Correct that finding, or reject it first.",
                )


def feedback_labels(feedback: ReaderFeedback, review: StudyReview | AnsweredReport) -> pd.DataFrame:
    """One row an answer and one a missed nodule (answer "missed"), with LABEL_COLUMNS.

    `malignant` is Int8, NA where the reader left it open. `diameter_mm` is the reader's diameter, the measured one
    where the reader accepted the finding, NaN otherwise. `nodule_type`, `lung_rads` and the place are the reader's,
    empty where not given. `standing` is left empty. The comment is no label and in no table.
    """
    report = answered_report(review) if isinstance(review, StudyReview) else review
    measured = {finding.finding_id: finding.diameter_mm for finding in report.findings}
    rows: list[dict[str, object]] = [
        {
            "nodule_id": answer.nodule_id,
            "finding_id": answer.finding_id,
            "answer": answer.answer,
            "malignant": answer.malignant,
            "diameter_mm": measured.get(answer.finding_id) if answer.answer == "accept" else answer.diameter_mm,
            "nodule_type": answer.nodule_type or "",
            "lung_rads": answer.lung_rads or "",
            "lps_mm": answer.lps_mm,
            "reason": answer.reason,
        }
        for answer in feedback.answers
    ]
    rows += [
        {
            "nodule_id": mark_id(feedback.study_key, missed),
            "finding_id": mark_id(feedback.study_key, missed),
            "answer": "missed",
            "malignant": missed.malignant,
            "diameter_mm": missed.diameter_mm,
            "nodule_type": missed.nodule_type or "",
            "lung_rads": "",
            "lps_mm": missed.lps_mm,
            "reason": "",
        }
        for missed in feedback.missed
    ]
    for row in rows:
        place = row.pop("lps_mm") or (np.nan, np.nan, np.nan)
        row |= dict(zip(("x_mm", "y_mm", "z_mm"), place, strict=True))  # type: ignore[call-overload]
        row |= {name: getattr(feedback, name) for name in _OF_FILE}
    table = pd.DataFrame(rows, columns=list(LABEL_COLUMNS))
    table["malignant"] = table["malignant"].astype("boolean").astype("Int8")
    table["standing"] = ""
    return table.astype(dict.fromkeys(("diameter_mm", "x_mm", "y_mm", "z_mm"), "float64"))


def latest_labels(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Labels of many feedback files: a reader who answered a finding of one model version again has the last word."""
    table = pd.concat([pd.DataFrame(columns=list(LABEL_COLUMNS)), *tables], ignore_index=True)
    when = pd.to_datetime(table["time_utc"], utc=True, format="ISO8601")
    one_answer = ["study_key", "finding_id", "reader", "model_version", "role", "second_read"]
    ordered = table.loc[when.sort_values(kind="stable").index]
    return ordered.drop_duplicates(one_answer, keep="last").sort_values(one_answer).reset_index(drop=True)


def export_labels(labels: pd.DataFrame, path: Path) -> None:
    """Write labels as CSV, whole or not at all; text that a spreadsheet would run as a formula is disarmed."""
    safe = labels.copy()
    for column in safe.columns:
        safe[column] = safe[column].map(_disarmed)
    buffer = io.StringIO()
    safe.to_csv(buffer, index=False, lineterminator="\n")
    write_bytes_atomic(path, buffer.getvalue().encode())


def _disarmed(value: object) -> object:
    """A number is no formula, whatever its sign and whatever the type of its column."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
