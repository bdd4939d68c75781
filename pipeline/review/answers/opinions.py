"""What one reader says of one nodule, with the report's own figures where the reader let them stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from data_contracts.feedback import AnsweredFinding, AnsweredReport, FindingAnswer, MissedNodule, ReaderFeedback
from data_contracts.records import digest_of
from data_contracts.review import StudyReview

#: what a correction changes, by the reason that says so without a value
FIELD_OF_REASON = {"size": "diameter_mm", "position": "lps_mm", "type": "nodule_type", "category": "lung_rads"}
#: reasons that, alone, say that the image does not allow an answer
_NO_ANSWER = ("technique", "other")
_MISSED = "missed-"

Said = Literal["accept", "reject", "correct", "missed", "absent"]


@dataclass(frozen=True)
class Opinion:
    """One reader's word on one nodule.

    said: "missed" added it; "absent" read the study and did not add what another reader did.
    malignant, diameter_mm, nodule_type, lung_rads, lps_mm (LPS): what holds for the reader: the own figure, or the
    report's where the reader saw it and let it stand; None where neither. stated: those of them that are the reader's
    own. wrong: those that the reader calls wrong without another value.
    """

    study_key: str
    patient_key: str
    nodule_id: str
    finding_id: str
    series_key: str
    reader: str
    reader_key: str
    role: str
    second_read: bool
    model_visible_first: bool
    model_version: str
    time_utc: str
    said: Said
    malignant: bool | None = None
    diameter_mm: float | None = None
    nodule_type: str | None = None
    lung_rads: str | None = None
    lps_mm: tuple[float, float, float] | None = None
    stated: frozenset[str] = frozenset()
    wrong: frozenset[str] = frozenset()
    reason: str = ""
    report: AnsweredFinding | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the reader takes it for a nodule."""
        return self.said in ("accept", "correct", "missed")

    @property
    def abstains(self) -> bool:
        """Whether it says no more than that the image allows no answer."""
        return self.said == "correct" and not self.stated and self.reason in _NO_ANSWER

    @property
    def order(self) -> tuple[datetime, str, str]:
        """Opinions in the order they were given, the same for any order of files."""
        return datetime.fromisoformat(self.time_utc), self.reader_key, self.said


def mark_id(study_key: str, missed: MissedNodule) -> str:
    """The id of a nodule that a reader adds: of its place, so that giving it twice is giving it once."""
    return _MISSED + digest_of([study_key, missed.series_key, missed.lps_mm])


def is_mark(finding_id: str) -> bool:
    """Whether an id is that of a nodule that a reader added."""
    return finding_id.startswith(_MISSED)


def answered_report(review: StudyReview) -> AnsweredReport:
    """What answers to this review refer to."""
    groups = review.guidelines.nodules if review.guidelines else ()
    categories = {group.nodule_id: group.lung_rads.category for group in groups}
    return AnsweredReport(
        study_key=review.study_key,
        patient_key=review.patient_key,
        model_name=review.model_name,
        model_version=review.model_version,
        series_keys=tuple(dict.fromkeys(series.series_key for series in review.series)),
        findings=tuple(
            AnsweredFinding(
                finding_id=finding.finding_id,
                nodule_id=finding.nodule_id,
                series_key=finding.series_key,
                lps_mm=finding.lps_mm,
                diameter_mm=finding.measurement.mean_diameter_mm,
                nodule_type=finding.measurement.nodule_type,
                lung_rads=categories.get(finding.finding_id),
            )
            for finding in review.findings
        ),
    )


def opinions_of(feedback: ReaderFeedback, report: AnsweredReport) -> list[Opinion]:
    """What one file of answers says, nodule by nodule.

    An answer to a nodule that another reader added has no place yet; `cases_of` finds it. Who read a study and names
    nothing is "absent", of no nodule: heard where another reader adds one.
    """
    if feedback.names_no_nodule:
        return [replace(_base(feedback, report, "", ""), said="absent")]
    found = [_answered(feedback, report, answer) for answer in feedback.answers]
    for missed in feedback.missed:
        own = mark_id(feedback.study_key, missed)
        given = {
            name: getattr(missed, name)
            for name in ("malignant", "diameter_mm", "nodule_type", "lps_mm")
            if getattr(missed, name) is not None
        }
        base = _base(feedback, report, own, own)
        found.append(replace(base, series_key=missed.series_key, said="missed", stated=frozenset(given), **given))
    return found


def last_words(opinions: Sequence[Opinion], *, by_version: bool = False) -> list[Opinion]:
    """Of each reader the last opinion of each nodule; a second reading, and an adjudication, is one of its own."""
    last: dict[tuple[object, ...], Opinion] = {}
    for opinion in sorted(opinions, key=lambda item: item.order):
        key: tuple[object, ...] = (opinion.study_key, opinion.nodule_id, opinion.reader_key)
        key += (opinion.second_read, opinion.role, opinion.model_version if by_version else "")
        last[key] = opinion
    return list(last.values())


def _base(feedback: ReaderFeedback, report: AnsweredReport, finding_id: str, nodule_id: str) -> Opinion:
    return Opinion(
        study_key=feedback.study_key,
        patient_key=report.patient_key,
        nodule_id=nodule_id,
        finding_id=finding_id,
        series_key="",
        reader=feedback.reader,
        reader_key=feedback.reader_key,
        role=feedback.role,
        second_read=feedback.second_read,
        model_visible_first=feedback.model_visible_first,
        model_version=feedback.model_version,
        time_utc=feedback.time_utc,
        said="accept",
    )


def _answered(feedback: ReaderFeedback, report: AnsweredReport, answer: FindingAnswer) -> Opinion:
    finding = report.find(answer.finding_id)
    base = _base(feedback, report, answer.finding_id, finding.nodule_id if finding else answer.nodule_id)
    names = ("malignant", "diameter_mm", "nodule_type", "lung_rads", "lps_mm")
    values: dict[str, Any] = {name: getattr(answer, name) for name in names if getattr(answer, name) is not None}
    stated = frozenset(values)
    field = FIELD_OF_REASON.get(answer.reason)
    wrong = frozenset({field} if field and field not in stated and answer.answer == "correct" else ())
    if answer.answer == "reject":
        values = {}
    elif finding is not None and feedback.model_visible_first:
        values = _left_standing(finding, stated, wrong) | values
    return replace(
        base,
        series_key=finding.series_key if finding else "",
        said=answer.answer,
        stated=stated,
        wrong=wrong,
        reason=answer.reason,
        report=finding,
        **values,
    )


def _left_standing(finding: AnsweredFinding, stated: frozenset[str], wrong: frozenset[str]) -> dict[str, Any]:
    """The report's figures that the reader saw and did not change. A category follows from type and diameter."""
    names = ["diameter_mm", "lps_mm", "nodule_type"]
    if not (stated | wrong) & {"diameter_mm", "nodule_type"}:
        names.append("lung_rads")
    return {name: getattr(finding, name) for name in names if name not in wrong}
