"""Readers' answers in the workspace: each file of answers once, by its digest, with the report that it answers.

    reviews/<study_key>/answers/<digest>.json    what a reader answered, mode 600: a comment may name a person
    reviews/<study_key>/answered/<digest>.json   what the report said then
    reviews/<study_key>/answerable/<digest>.json what each report of the study said, for answers that come late

Files are written whole and never changed, so any number of readers at once lose nothing, and the same answers again
change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from data_contracts.errors import AnnotationError, ContractError, UsageError
from data_contracts.feedback import AnsweredReport, MissedNodule, ReaderFeedback
from data_contracts.params import FeedbackParams
from data_contracts.records import atomic_path, digest_of
from data_contracts.review import StudyReview
from flows.settings import Settings, configured_secret
from flows.workspace import Workspace
from pipeline.annotations.series_index import contains
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.review.answers.cases import Case, cases_of
from pipeline.review.answers.opinions import Opinion, answered_report, is_mark, mark_id, opinions_of
from pipeline.review.answers.second_reads import due_second_reads
from pipeline.review.feedback import check_added, check_feedback, check_names_a_nodule

#: further ahead of our clock no answer can be; a clock that is wrong by less harms the own last word alone
_CLOCK = timedelta(days=366)


@dataclass(frozen=True)
class Kept:
    """Where answers are kept; is_new: they were not there before."""

    study_key: str
    path: Path
    n_answers: int
    n_missed: int
    is_new: bool


@dataclass(frozen=True)
class Answers:
    """All answers of a workspace. unreadable: files that break their contract."""

    given: tuple[tuple[ReaderFeedback, AnsweredReport], ...]
    unreadable: tuple[str, ...]

    def opinions(self) -> list[Opinion]:
        """What they say, nodule by nodule."""
        return [opinion for feedback, report in self.given for opinion in opinions_of(feedback, report)]

    def cases(self, params: FeedbackParams) -> list[Case]:
        """One case a nodule."""
        return cases_of(self.opinions(), params)


def feedback_params() -> FeedbackParams:
    """The parameters of this installation."""
    return FeedbackParams(second_read_share=Settings().second_read_share)


def keep_answerable(folder: Path, review: StudyReview) -> None:
    """Note what a report says, so that answers to it are taken even after another report has replaced it."""
    said = answered_report(review)
    path = folder / "answerable" / f"{digest_of(said.model_dump(mode='json'))}.json"
    if not path.is_file():
        said.write(path)


def keep_answers(workspace: Workspace, feedback: ReaderFeedback, *, where: str = "") -> Kept:
    """Keep the answers of one reader to one report; the same answers again change nothing.

    Raises
    ------
    UsageError: the workspace has no report of the study.
    AnnotationError: the answers do not belong to any report of it, lie outside the volume, or come from the future.
    """
    folder = workspace.reviews_root / feedback.study_key
    if not feedback.study_key.isalnum() or not (folder / "review.json").is_file():
        raise UsageError(
            "there is no report for these answers", where=where, todo="Name the workspace that wrote the report."
        )
    if datetime.fromisoformat(feedback.time_utc) > datetime.now(UTC) + _CLOCK:
        raise AnnotationError("the answers come from the future", where=where, todo="Set the clock and answer again.")
    feedback, report = answered_or_present(workspace, feedback)
    earlier = answers_of(workspace, [feedback.study_key])
    marks = {mark_id(given.study_key, missed) for given, _ in earlier.given for missed in given.missed}
    check_feedback(feedback, report, marks)
    check_added(feedback, report)
    _check_places(workspace, feedback, report)
    name = f"{digest_of(feedback.model_dump(mode='json'))}.json"
    path = folder / "answers" / name
    is_new = not path.is_file()
    if is_new:
        _write(folder / "answered" / name, report.to_json())
        _write(path, feedback.to_json())
    _write(folder / "feedback.json", feedback.to_json())
    return Kept(feedback.study_key, path, len(feedback.answers), len(feedback.missed), is_new)


def answered_or_present(workspace: Workspace, feedback: ReaderFeedback) -> tuple[ReaderFeedback, AnsweredReport]:
    """The answers, every missed nodule with its series, and the report they answer: an earlier one where it must be."""
    report = _report_for(workspace.reviews_root / feedback.study_key, feedback)
    check_names_a_nodule(feedback, report)
    return _with_series(feedback, report), report


def answers_of(workspace: Workspace, study_keys: Sequence[str] | None = None) -> Answers:
    """The answers to the reports of some studies; None is all of them."""
    given, unreadable = [], []
    for file in _answer_files(workspace, study_keys):
        try:
            feedback = ReaderFeedback.read(file)
        except ContractError:
            unreadable.append(f"{file.parent.parent.name}/{file.name}")
            continue
        given.append((feedback, _report_then(file, feedback)))
    return Answers(tuple(given), tuple(unreadable))


def answers_digest(workspace: Workspace) -> str:
    """Of all answers that are kept; "" where there are none. Names are digests of contents."""
    names = [f"{file.parent.parent.name}/{file.name}" for file in _answer_files(workspace, None)]
    return digest_of(names) if names else ""


def second_reads(workspace: Workspace, cases: Sequence[Case], params: FeedbackParams) -> list[Case]:
    """Accepted findings that are chosen for a blind second reading and wait for it."""
    return due_second_reads(cases, params.second_read_share, keyed(workspace).key) if cases else []


def keyed(workspace: Workspace) -> Pseudonymizer:
    """Keyed digests with the workspace's key."""
    return Pseudonymizer(workspace.secret(configured_secret()))


def _answer_files(workspace: Workspace, study_keys: Sequence[str] | None) -> Iterator[Path]:
    if study_keys is None:
        yield from sorted(workspace.reviews_root.glob("*/answers/*.json"))
        return
    for key in study_keys:
        yield from sorted((workspace.reviews_root / key).glob("answers/*.json"))


def _report_for(folder: Path, feedback: ReaderFeedback) -> AnsweredReport:
    """The report that was answered: the present one, or an earlier one of the version that has all the findings."""
    present = answered_report(StudyReview.read(folder / "review.json"))
    wanted = {answer.finding_id for answer in feedback.answers if not is_mark(answer.finding_id)}
    files = sorted(folder.glob("answerable/*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    for report in (present, *(AnsweredReport.read(file) for file in reversed(files))):
        known = {finding.finding_id for finding in report.findings}
        fits = wanted <= known and not (feedback.names_no_nodule and known)
        if report.model_version == feedback.model_version and fits:
            return report
    return present


def _report_then(file: Path, feedback: ReaderFeedback) -> AnsweredReport:
    """What the report said when the answers came; of answers kept by an earlier program, what it says now."""
    folder = file.parent.parent
    try:
        return AnsweredReport.read(folder / "answered" / file.name)
    except ContractError:
        pass
    try:
        return answered_report(StudyReview.read(folder / "review.json"))
    except ContractError:
        return AnsweredReport(
            study_key=feedback.study_key,
            patient_key=feedback.study_key,
            model_name="",
            model_version=feedback.model_version,
            series_keys=(),
            findings=(),
        )


def _with_series(feedback: ReaderFeedback, report: AnsweredReport) -> ReaderFeedback:
    """The answers with the series of every missed nodule, where the report leaves no choice."""
    if all(missed.series_key for missed in feedback.missed):
        return feedback
    found = list(dict.fromkeys(finding.series_key for finding in report.findings)) or list(report.series_keys)
    if len(found) != 1:
        raise AnnotationError("a missed nodule does not say in which series it is", todo="Name its series_key.")

    def placed(missed: MissedNodule) -> MissedNodule:
        return missed if missed.series_key else missed.model_copy(update={"series_key": found[0]})

    return feedback.model_copy(update={"missed": tuple(placed(missed) for missed in feedback.missed)})


def _check_places(workspace: Workspace, feedback: ReaderFeedback, report: AnsweredReport) -> None:
    """Refuse a place outside the volume; a series that the workspace has no more is not asked."""
    series = {finding.finding_id: finding.series_key for finding in report.findings}
    places = [(missed.series_key, missed.lps_mm, "a missed nodule") for missed in feedback.missed]
    for answer in feedback.answers:
        if answer.lps_mm is not None and answer.finding_id in series:
            places.append((series[answer.finding_id], answer.lps_mm, "a corrected place"))
    if not places:
        return
    records = {record.series_key: record for record in workspace.series_records()}
    for key, lps_mm, what in places:
        if key in records and not contains(records[key], np.array(lps_mm))[0]:
            raise AnnotationError(
                f"{what} lies outside the volume", where=key, todo="Give its centre in LPS millimetres."
            )


def _write(path: Path, text: str) -> None:
    with atomic_path(path, mode=0o600) as temporary:
        temporary.write_text(text)
