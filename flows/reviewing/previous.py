"""The study before: found in the workspace, read where it has no report yet, and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from data_contracts.errors import ContractError
from data_contracts.guidelines import StudyGuidelines
from data_contracts.params import ReviewParams
from data_contracts.review import Finding, MissedPrior, StudyReview
from data_contracts.series import SeriesRecord
from flows.remote.opening import fetched
from flows.reviewing.reading import StudyReading, read_study, scan_of
from flows.reviewing.version import ReviewingVersion
from flows.workspace import Workspace
from pipeline.review.assessment import study_date_of
from pipeline.review.priors import DatedScan, match_priors
from pipeline.review.registration import Scan


@dataclass(frozen=True)
class Previous:
    """What the workspace knows of the time before. study_key: of the study compared with, "" where there is none.

    dates: of every earlier study of the patient, as far as known. missed: its nodules that were not found again.
    problems: why series could not be compared.
    """

    study_key: str = ""
    dates: tuple[date, ...] = ()
    guidelines: StudyGuidelines | None = None
    missed: tuple[MissedPrior, ...] = ()
    problems: tuple[str, ...] = ()


def compare_with_previous(
    workspace: Workspace,
    every: Sequence[SeriesRecord],
    records: Sequence[SeriesRecord],
    reading: StudyReading,
    version: ReviewingVersion,
    params: ReviewParams,
) -> Previous:
    """Give the findings of `reading` their prior, from the last study of the same patient before this one.

    every: all series of the workspace; records: those of the study.
    """
    earlier = earlier_studies(every, records)
    if not earlier:
        return Previous()
    dates = tuple(sorted(earlier))
    before = earlier[dates[-1]]
    findings, guidelines = _findings_before(workspace, before, version, params)
    missed, problems = _match(workspace, reading, records, findings, before)
    return Previous(before[0].study_key, dates, guidelines, missed, problems)


def earlier_studies(every: Sequence[SeriesRecord], records: Sequence[SeriesRecord]) -> dict[date, list[SeriesRecord]]:
    """Series of the patient's earlier studies by date; of two studies of one day the one with the smaller key."""
    today = study_date_of(records[0])
    found: dict[date, list[SeriesRecord]] = {}
    if today is None:
        return found
    own = {record.study_key for record in records}
    for record in sorted(every, key=lambda one: (one.study_key, one.series_key)):
        day = study_date_of(record)
        if record.patient_key != records[0].patient_key or record.study_key in own or day is None or day >= today:
            continue
        members = found.setdefault(day, [])
        if not members or members[0].study_key == record.study_key:
            members.append(record)
    return found


def _match(
    workspace: Workspace,
    reading: StudyReading,
    records: Sequence[SeriesRecord],
    findings: Sequence[Finding],
    before: Sequence[SeriesRecord],
) -> tuple[tuple[MissedPrior, ...], tuple[str, ...]]:
    """Give each finding its counterpart; what the first series of the study lacks of those before, and problems."""
    prior_record = _most_findings(before, findings)
    if prior_record is None or not reading.scans:
        return (), ()
    prior = _dated(prior_record, scan_of(workspace, prior_record, reading.segmenter))
    theirs = [finding for finding in findings if finding.series_key == prior_record.series_key]
    missed: tuple[MissedPrior, ...] | None = None
    problems: list[str] = []
    for record in records:
        if (scan := reading.scans.get(record.series_key)) is None:
            continue
        places = [at for at, finding in enumerate(reading.findings) if finding.series_key == record.series_key]
        match = match_priors([reading.findings[at] for at in places], _dated(record, scan), theirs, prior)
        for at, finding in zip(places, match.findings, strict=True):
            reading.findings[at] = finding
        missed = match.missed if missed is None else missed
        problems += [match.problem] * bool(match.problem)
    return missed or (), tuple(dict.fromkeys(problems))


def _most_findings(before: Sequence[SeriesRecord], findings: Sequence[Finding]) -> SeriesRecord | None:
    """The series of the earlier study that most of its findings are from; None where it has none."""
    counts = Counter(finding.series_key for finding in findings)
    known = [record for record in before if counts[record.series_key]]
    return max(known, key=lambda record: counts[record.series_key], default=None)


def _dated(record: SeriesRecord, scan: Scan) -> DatedScan:
    return DatedScan(record.study_key, scan, study_date_of(record), record.slice_thickness_mm)


def _findings_before(
    workspace: Workspace, before: Sequence[SeriesRecord], version: ReviewingVersion, params: ReviewParams
) -> tuple[list[Finding], StudyGuidelines | None]:
    """Findings of the earlier study: of its report, or read now without writing one."""
    folder = workspace.reviews_root / before[0].study_key
    fetched(workspace, folder)
    try:
        review = StudyReview.read(folder / "review.json")
    except (ContractError, OSError):
        return read_study(workspace, before, version, params).findings, None
    return list(review.findings), review.guidelines
