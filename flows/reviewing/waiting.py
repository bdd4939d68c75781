"""The list of what waits for a reader: studies nobody read, second readings, and what readers differ on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data_contracts.errors import ContractError
from data_contracts.review import StudyReview
from flows.reviewing.answers import answers_of, feedback_params, second_reads
from flows.reviewing.pages import Pages
from pipeline.review.waiting_page import WaitingPart, WaitingStudy, render_waiting


def waiting_page(pages: Pages) -> str:
    """The list as a page that links to those of `pages`; what waits comes first."""
    params, known = feedback_params(), answers_of(pages.workspace, pages.study_keys())
    cases = known.cases(params)
    answered: dict[str, set[str]] = {}
    for case in cases:
        answered.setdefault(case.study_key, set()).add(case.finding_id)
    due = {case.study_key for case in second_reads(pages.workspace, cases, params)}
    differing = {case.study_key for case in cases if case.standing == "differs"}
    readers: dict[str, set[str]] = {}
    for feedback, _ in known.given:
        readers.setdefault(feedback.study_key, set()).add(feedback.reader)
    to_read, done, second, to_decide = [], [], [], []
    for key in pages.study_keys():
        head = _head(pages.workspace.reviews_root / key / "review.json")
        if head is None:
            continue
        created, version, findings = head
        n_answered = len(answered.get(key, set()) & set(findings))
        row = WaitingStudy(
            study_key=key,
            created=created[:16].replace("T", " "),
            version=version,
            findings=f"{n_answered} of {len(findings)} answered" if findings else "no findings",
            readers=", ".join(sorted(readers.get(key, ()))),
            address=f"{pages.first_reading}/{key}/",
            action="Read",
        )
        if key in readers and n_answered == len(findings):
            done.append(replace(row, action="Read again"))
        else:
            to_read.append(row)
        if key in due:
            second.append(replace(row, findings="", readers="", address=f"second/{key}/", action="Read blind"))
        if key in differing:
            to_decide.append(replace(row, address=f"adjudicate/{key}/", action="Decide"))
    first = "Findings without an answer" + (", to be read without the model." if pages.is_blind else ".")
    return render_waiting(
        (
            WaitingPart("To read", first, tuple(to_read)),
            WaitingPart("Second reading", "Without the model and without earlier answers.", tuple(second)),
            WaitingPart("To decide", "Readers differ; somebody else decides.", tuple(to_decide)),
            WaitingPart("Answered", "Every finding has an answer, or a reader says that there is none.", tuple(done)),
        )
    )


def _head(path: Path) -> tuple[str, str, tuple[str, ...]] | None:
    """(created, version, finding ids) of a report; None where it cannot be read."""
    try:
        return _head_of(path, path.stat().st_mtime_ns)
    except (ContractError, OSError):
        return None


@lru_cache(maxsize=4096)
def _head_of(path: Path, changed_ns: int) -> tuple[str, str, tuple[str, ...]]:
    review = StudyReview.read(path)
    return review.created_utc, review.model_version, tuple(finding.finding_id for finding in review.findings)
