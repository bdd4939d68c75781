"""Review: a study's nodules as the champion sees them, as pages for a radiologist."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.params import DriftParams, ReviewParams
from data_contracts.records import write_bytes_atomic
from data_contracts.review import SeriesSummary, StudyReview
from data_contracts.series import SeriesRecord
from flows.engine import step
from flows.progress import say, stage
from flows.registry import CHAMPION, Registry
from flows.remote.opening import fetched
from flows.reviewing.answers import keep_answerable
from flows.reviewing.drift import keep_study, watch
from flows.reviewing.finding import MARKED_ONLY
from flows.reviewing.patient_facts import kept_facts
from flows.reviewing.previous import Previous, compare_with_previous
from flows.reviewing.reading import StudyReading, read_study
from flows.reviewing.results import results_of, with_kept_time, write_results
from flows.reviewing.version import ReviewingVersion
from flows.running.batches import batches
from flows.running.elsewhere import Terms, one_at_a_time, terms_of
from flows.running.opaque import Heard, Opaque
from flows.running.runners import ConfiguredRunner, completed
from flows.settings import configured_secret
from flows.workspace import Workspace
from flows.workspace_key import refuse_other_secret
from pipeline.review.assessment import assess, unused_facts
from pipeline.review.cutting import short_text
from pipeline.review.html import render_study
from pipeline.review.key_images import KEY_IMAGES
from pipeline.review.pdf import render_study_pdf

NOT_EXAMINED = ("Lymph nodes, pleura, heart, bone and upper abdomen.",)
PDF_NAME = "report.pdf"
NO_PRIOR = "Prior studies: none of this patient is in the workspace."

_DEFAULTS = ReviewParams()
_DRIFT = DriftParams()


def review_study(workspace: Workspace, study_key: str, model_name: str, version: str, params: ReviewParams) -> str:
    """Write one study's report files and return its folder's name."""
    asked = ReviewingVersion.load(workspace, model_name, version, params)
    every = workspace.series_records()
    records = [record for record in every if record.study_key == study_key]
    reading = read_study(workspace, records, asked, params)
    reading.findings.sort(key=lambda finding: -(finding.probability or 0.0))
    previous = compare_with_previous(workspace, every, records, reading, asked, params)
    fetched(workspace, workspace.reviews_root / study_key)
    facts = kept_facts(workspace.reviews_root / study_key)
    context, guidelines = assess(
        reading.findings, records, facts, prior_dates=previous.dates, prior=previous.guidelines
    )
    unused = unused_facts(reading.findings, facts, previous.dates)
    for line in unused:
        say(f"study {study_key}: {line}")
    review = StudyReview(
        study_key=study_key,
        patient_key=records[0].patient_key,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        model_name=model_name,
        model_version=asked.number,
        model=asked.card,
        evaluation_summary=asked.summary(),
        series=tuple(_series_summary(record, record.series_key in reading.scans) for record in records),
        findings=tuple(reading.findings),
        origin_of_findings=_origin(reading),
        not_examined=not_examined(reading, previous, records),
        unfamiliar=tuple(reading.unfamiliar),
        context=context,
        guidelines=guidelines,
        prior_study_key=previous.study_key,
        missed_priors=previous.missed,
        warnings=(*unused, *previous.problems, *asked.warnings()),
    )
    write_report(workspace, review, records, reading, params)
    keep_study(workspace, asked.folder.name, reading.watched)
    return study_key


@step("review-studies")
def review_some(
    workspace: Workspace,
    terms: Terms | None,
    studies: Opaque[tuple[str, ...]],
    model_name: str,
    version: str,
    params: ReviewParams,
) -> list[str]:
    """The reports of a batch of studies; returns their keys."""
    if terms is not None:
        terms.enter()
    for key in studies.value:
        with one_at_a_time():
            review_study(workspace, key, model_name, version, params)
        studies.told(key)
    return list(studies.value)


def write_report(
    workspace: Workspace,
    review: StudyReview,
    records: list[SeriesRecord],
    reading: StudyReading,
    params: ReviewParams,
) -> None:
    """Write the files of a report into the folder of its study, in the place of those of an earlier one.

    review.json is the last to be written, and what only an earlier report names goes after it: killed at any moment,
    the folder lacks nothing that its review.json names, and the next review of the study leaves nothing behind.
    """
    folder, images = workspace.reviews_root / review.study_key, reading.images
    review = with_kept_time(folder, review)
    for name, content in images.items():
        write_bytes_atomic(folder / name, content)
    write_bytes_atomic(folder / "report.html", render_study(review, images, reading.stacks).encode())
    pdf = render_study_pdf(review, images) if params.pdf else None
    if pdf is not None:
        write_bytes_atomic(folder / PDF_NAME, pdf)
    write_results(workspace, review, records, reading.drawn, images, pdf, params)
    keep_answerable(folder, review)
    review.write(folder / "review.json")
    _drop_what_an_earlier_report_left(folder, {*images, *([PDF_NAME] if pdf is not None else [])})


def _drop_what_an_earlier_report_left(folder: Path, named: set[str]) -> None:
    for stale in (*folder.glob(KEY_IMAGES), folder / PDF_NAME):
        if stale.name not in named:
            stale.unlink(missing_ok=True)


def _origin(reading: StudyReading) -> str:
    if reading.search is not None:
        return reading.search.origin
    nodules = reading.nodules
    sources = ", ".join(sorted({str(source) for source in nodules["source"]}))
    readers = nodules["reader"].nunique()
    return f"Annotations of {readers} reader{'s' if readers != 1 else ''} ({sources})."


def not_examined(reading: StudyReading, previous: Previous, records: Sequence[SeriesRecord]) -> tuple[str, ...]:
    """What a review leaves open, a sentence each; series that were not read have their number in the report."""
    places = (MARKED_ONLY,) if reading.search is None else reading.search.not_examined
    unread = tuple(
        f"Series {number} of the study ({short_text(record.kernel) or 'no kernel stated'}, {record.n_slices} slices): "
        "not read."
        for number, record in enumerate(records, start=1)
        if record.series_key not in reading.scans
    )
    return (*places, *unread, *NOT_EXAMINED, *(() if previous.study_key else (NO_PRIOR,)))


def _series_summary(record: SeriesRecord, was_read: bool) -> SeriesSummary:
    names = [name for name in SeriesSummary.model_fields if name != "was_read"]
    return SeriesSummary(**{name: getattr(record, name) for name in names}, was_read=was_read)


@step("watch-drift")
def watch_drift(workspace: Workspace, model_name: str, version: str, params: DriftParams) -> dict[str, Any]:
    """Whether the studies reviewed last still resemble those the version was judged on; an alarm where they do not."""
    registry = Registry(workspace, model_name)
    number = registry.resolve(version)
    report = watch(workspace, model_name, number, registry.verified_folder(number)[0], params)
    return report.model_dump(mode="json")


@flow(name="review", task_runner=ConfiguredRunner(one_at_a_time=True), log_prints=False)
def review_flow(
    workspace_root: str,
    study_keys: list[str],
    model_name: str,
    version: str = CHAMPION,
    params: ReviewParams = _DEFAULTS,
    drift: DriftParams = _DRIFT,
) -> dict[str, Any]:
    """Reports of some studies, one task a batch of studies; then the drift of the studies reviewed last.

    Raises
    ------
    UsageError: the studies of the workspace were named with another secret; then nothing is done.
    """
    workspace = Workspace(Path(workspace_root))
    refuse_other_secret(workspace, configured_secret())
    reports: dict[str, dict[str, Any]] = {}
    with terms_of(workspace) as terms, stage("review", len(study_keys)) as progress:

        def reported(key: str) -> None:
            reports[key] = _report(workspace, key)
            progress.advance(f"study {key}: {reports[key]['n_findings']} findings")

        heard = Heard(reported)
        futures = [
            review_some.submit(workspace, terms, Opaque(some, heard), model_name, version, params)
            for some in batches(study_keys)
        ]
        for keys in completed(futures):
            for key in keys:
                heard(key)
    drifted = watch_drift(workspace, model_name, version, drift)
    return {"reports": [reports[key] for key in study_keys], "version": version, "drift": drifted}


def _report(workspace: Workspace, key: str) -> dict[str, Any]:
    folder = workspace.reviews_root / key
    review, dicom = StudyReview.read(folder / "review.json"), results_of(folder)
    paths = {"report": str(folder / "report.html"), "dicom": dicom["objects"], "problems": dicom["problems"]}
    return {"study_key": key, "n_findings": len(review.findings), **paths}
