"""Readers' answers as structured reports: written for the PACS, and taken in from it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from data_contracts.errors import AnnotationError, NothingUsableError, UsageError
from data_contracts.feedback import ReaderFeedback
from data_contracts.records import write_bytes_atomic
from data_contracts.review import StudyReview
from data_contracts.series import SeriesRecord
from flows.reviewing.answers import answered_or_present, keyed
from flows.reviewing.results import NO_KEY, file_bytes, identity_of, pseudonymizer_of
from flows.workspace import Workspace
from pipeline.deidentify.vault import StudyIdentity
from pipeline.headers.values import silence_pydicom
from pipeline.review.dicom.feedback_reading import feedback_of_report
from pipeline.review.dicom.feedback_report import feedback_report
from pipeline.review.dicom.home import with_identity
from pipeline.review.dicom.maker import Maker
from pipeline.review.dicom.source import pseudonymous_study

_PREAMBLE, _MAGIC = 128, b"DICM"
#: larger than the report of answers to two thousand findings
_MAX_BYTES = 20_000_000


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with file.open("rb") as stream:
            return stream.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def read_report(workspace: Workspace, file: Path) -> ReaderFeedback:
    """The answers of a structured report, of a study under its pseudonym or its own UID.

    Raises
    ------
    UsageError: the workspace has no report of its study.
    AnnotationError: the file cannot be read, or is no report of answers.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    silence_pydicom()
    if file.stat().st_size > _MAX_BYTES:
        raise AnnotationError(f"a report of answers has at most {_MAX_BYTES} bytes", where=file.name)
    try:
        report = dcmread(file)
        study_uid = str(report.get("StudyInstanceUID", ""))
    except (InvalidDicomError, OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise AnnotationError(f"the DICOM file cannot be read ({type(error).__name__})", where=file.name) from None
    secret = keyed(workspace)
    keys = (secret.key_of_pseudonym(study_uid), secret.uid_key(study_uid))
    for key in keys:
        if key and (workspace.reviews_root / key / "review.json").is_file():
            nodules = _nodules_of(workspace, key)
            return feedback_of_report(report, key, nodules, where=file.name)
    raise UsageError(
        "there is no report for these answers", where=file.name, todo="Name the workspace that wrote the report."
    )


def write_report(workspace: Workspace, feedback: ReaderFeedback, path: Path) -> dict[str, Any]:
    """Write answers as a structured report; under the study's own identity where its ingest kept that.

    Raises
    ------
    UsageError: the workspace has no report of the study.
    NothingUsableError: there is no key, or the images cannot be referred to.
    """
    folder = workspace.reviews_root / feedback.study_key
    if not feedback.study_key.isalnum() or not (folder / "review.json").is_file():
        raise UsageError("there is no report for these answers", todo="Name the workspace that wrote the report.")
    feedback, report = answered_or_present(workspace, feedback)
    review = StudyReview.read(folder / "review.json")
    records = [record for record in workspace.series_records() if record.study_key == feedback.study_key]
    pseudonymizer = pseudonymizer_of(workspace)
    if pseudonymizer is None:
        raise NothingUsableError(f"no answers in DICOM: {NO_KEY}")
    if not records:
        raise NothingUsableError("no answers in DICOM: the series of the study are gone", where=feedback.study_key)
    silence_pydicom()
    version = importlib.metadata.version("noduleflow")
    maker = Maker.of(
        review.model_copy(update={"model_name": report.model_name, "model_version": report.model_version}),
        pseudonymous_study(records, pseudonymizer),
        version,
    )
    objects = {path.name: feedback_report(feedback, report, maker, _site(records))}
    known = identity_of(workspace, feedback.study_key, records, pseudonymizer)
    is_original = isinstance(known, StudyIdentity) and all(record.identity for record in records)
    if isinstance(known, StudyIdentity) and is_original:
        objects = with_identity(objects, known, pseudonymizer)
    write_bytes_atomic(path, file_bytes(objects[path.name]))
    return {"report": str(path), "identity": "original" if is_original else "pseudonymous"}


def _site(records: list[SeriesRecord]) -> str:
    return records[0].site


def _nodules_of(workspace: Workspace, study_key: str) -> dict[str, str]:
    """Finding id -> nodule id, of every report of the study that can be answered."""
    from data_contracts.feedback import AnsweredReport

    folder = workspace.reviews_root / study_key
    review = StudyReview.read(folder / "review.json")
    nodules = {}
    for file in sorted(folder.glob("answerable/*.json")):
        nodules |= {finding.finding_id: finding.nodule_id for finding in AnsweredReport.read(file).findings}
    return nodules | {finding.finding_id: finding.nodule_id for finding in review.findings}
