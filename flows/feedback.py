"""Reader feedback: answers in, kept beside the report; labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.records import digest_of
from data_contracts.review import ReaderFeedback, StudyReview
from flows.workspace import Workspace
from pipeline.review.feedback import check_feedback, feedback_labels, latest_labels, read_feedback
from pipeline.review.feedback import export_labels as write_labels


def take_in(workspace: Workspace, file: Path) -> dict[str, Any]:
    """Keep the answers of one reader; the same file again changes nothing.

    Raises
    ------
    UsageError: the file is for a study this workspace has no report of.
    """
    answers = read_feedback(file)
    folder = workspace.reviews_root / answers.study_key
    if not answers.study_key.isalnum() or not (folder / "review.json").exists():
        raise UsageError(
            "there is no report for these answers", where=file.name, todo="Name the workspace that wrote the report."
        )
    check_feedback(answers, StudyReview.read(folder / "review.json"))
    stored = folder / "answers" / f"{digest_of(answers.model_dump(mode='json'))}.json"
    answers.write(stored)
    answers.write(folder / "feedback.json")
    return {"study_key": answers.study_key, "answers": len(answers.answers), "stored": str(stored)}


def export_labels(workspace: Workspace, path: Path) -> dict[str, Any]:
    """Write the labels that all kept answers give to a CSV file."""
    files = sorted(workspace.reviews_root.glob("*/answers/*.json"))
    if not files:
        raise NothingUsableError("no reader has answered yet", where=str(workspace.reviews_root))
    tables = []
    for file in files:
        review = StudyReview.read(file.parent.parent / "review.json")
        tables.append(feedback_labels(ReaderFeedback.read(file), review))
    labels = latest_labels(tables)
    write_labels(labels, path)
    return {"labels": len(labels), "file": str(path)}
