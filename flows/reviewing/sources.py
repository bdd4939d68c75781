"""What a review is asked about: studies of the workspace, of files, or of a PACS, with the marks that they bring."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom

from data_contracts.errors import AnnotationError, NothingUsableError
from data_contracts.records import digest_of
from flows.intake.annotation import take_files
from flows.intake.identity import last_policy
from flows.intake.sources import PrivatePaths, existing_sources
from flows.progress import say
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.annotations.dicom_seg import SEGMENTATION_CLASSES
from pipeline.annotations.dicom_sr import REPORT_CLASSES
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.values import silence_pydicom
from pipeline.intake.archive import is_archive
from pipeline.intake.discover import list_files
from pipeline.review.dicom.maker import MANUFACTURER

_MARKS = (*SEGMENTATION_CLASSES, *REPORT_CLASSES)
_TAGS = ["SOPClassUID", "Manufacturer"]


def study_keys_of(workspace: Workspace, sources: Sequence[str], site: str) -> list[str]:
    """Study keys named directly, or the studies of the sources, ingested first where they are new.

    What the workspace has stays as it is. What is new comes in under the policy of the last ingest.

    Segmentations and reports among the files of a source become annotations of its studies.
    """
    known = {record.study_key for record in workspace.series_records()}
    keys = [source for source in sources if source in known]
    paths = tuple(Path(source) for source in sources if source not in known)
    if paths:
        keys += _ingest(workspace, existing_sources(paths), site)["study_keys"]
        for path in paths:
            _take_marks_of_source(workspace, path)
    return list(dict.fromkeys(keys))


def pulled_study_keys(workspace: Workspace, url: str, study_uids: tuple[str, ...], site: str) -> list[str]:
    """Keys of studies of a DICOMweb service, fetched where they are new, with their segmentations and reports.

    Raises
    ------
    NothingUsableError: the service has no such study, or none of it is a CT that can be used.
    """
    from flows.intake.peers import dicomweb_server
    from flows.intake.pull_request import PrivatePull
    from flows.intake.pulling import Pull

    def ingest(folders: tuple[Path, ...]) -> dict[str, Any]:
        try:
            return _ingest(workspace, PrivatePaths(paths=folders), site)
        finally:
            take_marks(workspace, [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()])

    # every modality: segmentations and reports are series of their own
    request = PrivatePull(url=url, study_uids=study_uids, since="", modality="", limit=0, keep_files=False)
    pull = Pull(workspace, request, dicomweb_server(url), site, *last_policy(workspace))
    try:
        pull.run(ingest)
    except NothingUsableError:
        if not _known(workspace, pull.pseudonymizer, study_uids):
            raise
    keys = _known(workspace, pull.pseudonymizer, study_uids)
    if not keys:
        raise NothingUsableError(
            "no usable CT in what the service has of the study",
            where=pull.server.name,
            todo="rejected.parquet lists each item with its reason.",
        )
    return keys


def take_marks(workspace: Workspace, files: Sequence[Path]) -> int:
    """Segmentations and reports among `files` become annotations; how many files were. Our own results are not marks.

    A mark that fits no series is refused in rejected.parquet and does not end the review.
    """
    silence_pydicom()
    brought = tuple(file for file in files if _holds_marks(file))
    if not brought:
        return 0
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), False)
    try:
        # together: a report refers to the segmentation that holds its regions
        take_files(workspace, PrivatePaths(paths=brought), "dicom-seg", pseudonymizer)
    except (AnnotationError, NothingUsableError) as error:
        say(f"marks that the study brings: {error.line()}")
    return len(brought)


def _ingest(workspace: Workspace, paths: PrivatePaths, site: str) -> dict[str, Any]:
    from flows.intake.ingest import ingest_flow

    params, keep_identity = last_policy(workspace)
    record: dict[str, Any] = ingest_flow(str(workspace.root), paths, site, params, keep_identity, leave_known=True)
    if record["new"]:
        kept = "original identifiers in tables" if keep_identity else "pseudonyms in tables"
        vault = "identity sealed" if params.keep_vault else "no identity sealed"
        say(f"review: {record['new']} new series came in under the policy of the last ingest ({kept}, {vault})")
    return record


def _known(workspace: Workspace, pseudonymizer: Pseudonymizer, study_uids: tuple[str, ...]) -> list[str]:
    known = {record.study_key for record in workspace.series_records()}
    return [key for key in map(pseudonymizer.uid_key, study_uids) if key in known]


def _take_marks_of_source(workspace: Workspace, source: Path) -> None:
    if not _refused_marks(workspace):
        return
    # Marks are known by their file's path: an archive is unpacked to the same place each time.
    scratch = workspace.scratch_root / "marks" / digest_of(str(source.resolve()))
    try:
        if source.is_file() and is_archive(source):
            scratch.mkdir(parents=True, exist_ok=True)
        take_marks(workspace, [file.path for file in list_files(source, scratch) if file.path is not None])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refused_marks(workspace: Workspace) -> bool:
    """Whether any ingest met an object that may hold marks: as no CT it is in the table, under its class."""
    if not workspace.rejected_table.is_file():
        return False
    details = pd.read_parquet(workspace.rejected_table, columns=["detail"])["detail"].astype(str)
    return bool(details.str.contains(r"Segmentation|\bSR\b", regex=True).any())


def _holds_marks(file: Path) -> bool:
    try:
        head = pydicom.dcmread(file, specific_tags=_TAGS, stop_before_pixels=True)
        return str(head.get("SOPClassUID", "")) in _MARKS and str(head.get("Manufacturer", "")) != MANUFACTURER
    except Exception:  # pydicom meets a hostile file with any error
        return False
