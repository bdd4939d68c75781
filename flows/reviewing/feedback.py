"""Reader feedback: answers in, kept beside the report; labels, what waits, and how well readers agree out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_contracts.errors import AnnotationError, NoduleflowError, NothingUsableError
from data_contracts.feedback import ReaderFeedback
from flows.reviewing.answers import Kept, answers_of, feedback_params, keep_answers, keyed, second_reads
from flows.reviewing.feedback_reports import is_dicom, read_report
from flows.reviewing.reader_labels import refresh_labels
from flows.workspace import Workspace
from pipeline.review.answers.agreement import agreement, agreement_lines, reading_pairs
from pipeline.review.answers.blind import said
from pipeline.review.answers.cases import Case
from pipeline.review.answers.opinions import is_mark
from pipeline.review.feedback import export_labels as write_labels
from pipeline.review.feedback import feedback_labels, latest_labels, read_feedback

#: what readers differ on, in words
_WORDS = {
    "presence": "whether it is a nodule",
    "malignant": "whether it is malignant",
    "nodule_type": "its type",
    "lung_rads": "its category",
    "diameter_mm": "its diameter",
    "lps_mm": "its place",
}


def read_answers(workspace: Workspace, file: Path) -> ReaderFeedback:
    """Answers of one reader out of a feedback.json or a structured report; raises AnnotationError or UsageError."""
    return read_report(workspace, file) if is_dicom(file) else read_feedback(file)


def take_in(workspace: Workspace, files: Sequence[Path]) -> dict[str, Any]:
    """Keep the answers of some files, and bring the labels up to date; the same file again changes nothing.

    A file that is refused leaves the others as they are.

    Raises
    ------
    NoduleflowError: of a single file, why it is refused. NothingUsableError: none of several could be taken.
    UsageError: the studies of the workspace were named with another secret, or their key is gone.
    """
    keyed(workspace)  # refuses another secret while nothing is kept yet: the labels need it
    kept: list[Kept] = []
    refused: list[dict[str, str]] = []
    for file in files:
        try:
            kept.append(keep_answers(workspace, read_answers(workspace, file), where=file.name))
        except NoduleflowError as error:
            if len(files) == 1:
                raise
            refused.append({"file": file.name, "reason": error.line()})
    if not kept:
        raise NothingUsableError(
            "none of the files could be taken", where=f"{len(files)} files", todo=f"The first: {refused[0]['reason']}"
        )
    return {
        "study_key": kept[0].study_key,
        "answers": sum(item.n_answers for item in kept),
        "missed": sum(item.n_missed for item in kept),
        "stored": str(kept[0].path),
        "files": [{"study_key": item.study_key, "stored": str(item.path), "is_new": item.is_new} for item in kept],
        "refused": refused,
        "labels_now": refresh_labels(workspace),
    }


def export_labels(workspace: Workspace, path: Path) -> dict[str, Any]:
    """Write the labels that all kept answers give to a CSV file, each with what became of it."""
    known = answers_of(workspace)
    if not known.given:
        raise NothingUsableError("no reader has answered yet", where=str(workspace.reviews_root))
    labels = latest_labels([feedback_labels(feedback, report) for feedback, report in known.given])
    standing = {}
    for case in known.cases(feedback_params()):
        for name in case.marks or (case.nodule_id,):
            standing[case.study_key, name] = case.standing
    keys = zip(labels["study_key"], labels["nodule_id"], strict=True)
    labels["standing"] = [standing.get(key, "") for key in keys]
    write_labels(labels, path)
    return {"labels": len(labels), "file": str(path)}


def open_cases(workspace: Workspace) -> dict[str, Any]:
    """What waits for a reader: adjudications, blind second readings, and what one reader alone has changed."""
    params, known = feedback_params(), answers_of(workspace)
    cases = known.cases(params)
    due = second_reads(workspace, cases, params)
    alone = [case for case in cases if case.standing == "single" and _changes_something(case)]
    return {
        "adjudicate": [_listed(case) for case in cases if case.standing == "differs"],
        # who accepted them is not told: a second reading is blind
        "second_read": [{"study_key": case.study_key, "finding_id": case.finding_id} for case in due],
        "second_reader": [_listed(case) for case in alone],
        "unreadable": list(known.unreadable),
    }


def open_lines(record: dict[str, Any]) -> list[str]:
    """What waits, in lines for a person."""
    lines = [
        f"adjudicate     study {item['study_key']} finding {item['finding_id']}, readers differ on "
        f"{', '.join(_WORDS[name] for name in item['differs_on'])}: {'; '.join(item['said'])}"
        for item in record["adjudicate"]
    ]
    lines += [
        f"second reading study {item['study_key']} finding {item['finding_id']}, blind"
        for item in record["second_read"]
    ]
    lines += [
        f"second reader  study {item['study_key']} finding {item['finding_id']}: {'; '.join(item['said'])}"
        for item in record["second_reader"]
    ]
    lines += [f"unreadable     {name}: no answers, or of another program version" for name in record["unreadable"]]
    return lines or ["nothing waits for a reader"]


def agreement_of(workspace: Workspace) -> tuple[dict[str, Any], list[str]]:
    """How well readers agree, overall and by whether the model was seen first; a record and its lines.

    Raises
    ------
    NothingUsableError: no nodule has been read twice.
    """
    pairs = reading_pairs(answers_of(workspace).cases(feedback_params()))
    if pairs.empty:
        raise NothingUsableError(
            "no nodule has been read twice", where=str(workspace.reviews_root), todo="Let a second reader answer."
        )
    figures = agreement(pairs)
    record = {
        stratum: {name: figure.model_dump(mode="json") for name, figure in own.items()}
        for stratum, own in figures.items()
    }
    both = pairs.dropna(subset=["diameter_mm_1", "diameter_mm_2"])
    counts = {
        "pairs": len(pairs),
        "nodules": int(pairs["nodule_id"].nunique()),
        "patients": int(pairs["patient_key"].nunique()),
        "diameters_both_stated": int((both["stated"] == 2).sum()),
        "diameters_both_of_the_report": int((both["stated"] == 0).sum()),
    }
    lines = [
        f"{counts['pairs']} pairs of readings of {counts['nodules']} nodules in {counts['patients']} patients",
        *agreement_lines(figures),
        f"diameters: of both readers {counts['diameters_both_stated']}, of the report's both times "
        f"{counts['diameters_both_of_the_report']}: these agree because nobody measured again",
    ]
    return {"agreement": {**counts, "figures": record}}, lines


def answers_in(workspace: Workspace, file: Path) -> ReaderFeedback:
    """The answers of a file; raises AnnotationError where it is none."""
    if not file.is_file():
        raise AnnotationError("there is no feedback file", where=file.name)
    return read_answers(workspace, file)


def _changes_something(case: Case) -> bool:
    """Whether a second reader would make a label of it: more than an accepted finding with nothing said."""
    return any(
        item.said in ("reject", "correct", "missed") or item.malignant is not None
        for item in case.opinions
        if not item.abstains
    )


def _listed(case: Case) -> dict[str, Any]:
    return {
        "study_key": case.study_key,
        "finding_id": case.finding_id,
        "nodule_id": case.nodule_id,
        "is_added": is_mark(case.finding_id),
        "differs_on": list(case.differs_on),
        "said": [f"{item.reader}: {said(item)}" for item in case.opinions],
    }
