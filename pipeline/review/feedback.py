"""Readers' answers coming back: read, checked against the report they answer, and turned into labels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from data_contracts.errors import AnnotationError, ContractError
from data_contracts.records import write_bytes_atomic
from data_contracts.review import ReaderFeedback, StudyReview

#: Larger than the answers to a thousand findings; what is bigger is no feedback file.
_MAX_BYTES = 1_000_000

#: Columns of the labels that answers give.
LABEL_COLUMNS = (
    "nodule_id",
    "finding_id",
    "study_key",
    "answer",
    "malignant",
    "diameter_mm",
    "reason",
    "reader",
    "model_version",
    "model_visible_first",
    "time_utc",
)


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
    if size > _MAX_BYTES:
        raise AnnotationError(f"a feedback file has at most {_MAX_BYTES} bytes, not {size}", where=path.name, todo=todo)
    try:
        return ReaderFeedback.read(path)
    except ContractError as error:
        raise AnnotationError(error.what, where=path.name, todo=todo) from None


def check_feedback(feedback: ReaderFeedback, review: StudyReview) -> None:
    """Refuse answers that were not given to this report.

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
    nodules = {finding.finding_id: finding.nodule_id for finding in review.findings}
    for answer in feedback.answers:
        if nodules.get(answer.finding_id) != answer.nodule_id:
            raise AnnotationError(
                "an answer names a finding that the report does not have",
                where=answer.finding_id[:64],
                todo="Answer the present report.",
            )


def feedback_labels(feedback: ReaderFeedback, review: StudyReview) -> pd.DataFrame:
    """One row an answer, with LABEL_COLUMNS.

    `malignant` is Int8, NA where the reader left it open. `diameter_mm` is the corrected diameter, the measured
    one where the reader accepted the finding, NaN otherwise.
    """
    measured = {finding.finding_id: finding.measurement.mean_diameter_mm for finding in review.findings}
    rows = [
        {
            "nodule_id": answer.nodule_id,
            "finding_id": answer.finding_id,
            "study_key": feedback.study_key,
            "answer": answer.answer,
            "malignant": answer.malignant,
            "diameter_mm": measured.get(answer.finding_id) if answer.answer == "accept" else answer.diameter_mm,
            "reason": answer.comment_code,
            "reader": feedback.reader,
            "model_version": feedback.model_version,
            "model_visible_first": feedback.model_visible_first,
            "time_utc": feedback.time_utc,
        }
        for answer in feedback.answers
    ]
    table = pd.DataFrame(rows, columns=list(LABEL_COLUMNS))
    table["malignant"] = table["malignant"].astype("boolean").astype("Int8")
    table["diameter_mm"] = table["diameter_mm"].astype("float64")
    return table


def latest_labels(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Labels of many feedback files: a reader who answered a finding of one model version again has the last word."""
    table = pd.concat([pd.DataFrame(columns=list(LABEL_COLUMNS)), *tables], ignore_index=True)
    when = pd.to_datetime(table["time_utc"], utc=True, format="ISO8601")
    one_answer = ["study_key", "finding_id", "reader", "model_version"]
    ordered = table.loc[when.sort_values(kind="stable").index]
    return ordered.drop_duplicates(one_answer, keep="last").sort_values(one_answer).reset_index(drop=True)


def export_labels(labels: pd.DataFrame, path: Path) -> None:
    """Write labels as CSV, whole or not at all; text that a spreadsheet would run as a formula is disarmed."""
    safe = labels.copy()
    for column in safe.columns[[pd.api.types.is_string_dtype(kind) for kind in safe.dtypes]]:
        safe[column] = safe[column].map(lambda text: f"'{text}" if str(text).startswith(("=", "+", "-", "@")) else text)
    buffer = io.StringIO()
    safe.to_csv(buffer, index=False, lineterminator="\n")
    write_bytes_atomic(path, buffer.getvalue().encode())
