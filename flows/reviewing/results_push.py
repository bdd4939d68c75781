"""Store the results of reviews to the PACS their studies came from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pydicom
from prefect import flow

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.records import write_bytes_atomic
from flows.engine import scrubbed
from flows.intake.pacs import PrivateTarget, push_files
from flows.intake.sources import PrivatePaths
from flows.log_filter import register_identifiers
from flows.reviewing.results import NO_KEY, file_bytes, identity_of, pseudonymizer_of, results_of
from flows.workspace import Workspace
from pipeline.headers.values import silence_pydicom
from pipeline.review.dicom.home import with_identity


@flow(name="push-results", log_prints=False)
def push_results_flow(
    workspace_root: str, study_keys: list[str], target: PrivateTarget, pseudonymous: bool = False
) -> dict[str, Any]:
    """Store the results of reviewed studies: with their identity where it is known, unless `pseudonymous`.

    To push again changes nothing there: the same results have the same UIDs.

    Raises
    ------
    ExchangeError: the receiver cannot be reached or stops answering.
    UsageError: `pseudonymous`, but the ingest kept the identity.
    """
    workspace = Workspace(Path(workspace_root))
    scratch = workspace.scratch_root / f"push-{os.getpid()}"
    studies: list[dict[str, str]] = []
    files: list[Path] = []
    try:
        for key in study_keys:
            paths, told = scrubbed(_to_be_sent)(workspace, key, scratch / key, pseudonymous)
            files += paths
            studies.append({"study_key": key, **told})
        result = push_files(PrivatePaths(paths=tuple(files)), target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failed = [
        {"file": f"{path.parent.name}/{path.name}", "reason": result.failed[path]}
        for path in files
        if path in result.failed
    ]
    return {
        "files": len(files),
        "stored": len(result.stored),
        "failed": len(result.failed),
        "reasons": result.reasons(),
        "failed_files": failed,
        "studies": studies,
    }


def _to_be_sent(
    workspace: Workspace, study_key: str, scratch: Path, pseudonymous: bool
) -> tuple[list[Path], dict[str, str]]:
    """The files of a study as they are sent, those with another identity than in the workspace below `scratch`."""
    folder = workspace.reviews_root / study_key
    listed = results_of(folder)
    paths = [folder / name for name in listed["objects"]]
    if listed["identity"] == "original":
        if pseudonymous:
            raise UsageError(
                "the results carry their identity, because the ingest kept it",
                where=study_key,
                todo="Ingest the study without --keep-identity into another workspace.",
            )
        return paths, {"identity": "original", "why": "the ingest kept it"}
    if pseudonymous:
        return paths, {"identity": "pseudonymous", "why": "as asked for"}
    pseudonymizer = pseudonymizer_of(workspace)
    if pseudonymizer is None:
        return paths, {"identity": "pseudonymous", "why": NO_KEY}
    records = [record for record in workspace.series_records() if record.study_key == study_key]
    known = identity_of(workspace, study_key, records, pseudonymizer)
    if isinstance(known, str):
        return paths, {"identity": "pseudonymous", "why": known}
    silence_pydicom()
    patients = known.patients.values()
    register_identifiers([part for patient in patients for part in (patient.patient_id, patient.patient_name) if part])
    objects = {path.name: pydicom.dcmread(path) for path in paths}
    try:
        named = with_identity(objects, known, pseudonymizer)
    except NothingUsableError as error:
        return paths, {"identity": "pseudonymous", "why": error.what}
    scratch.mkdir(parents=True, mode=0o700)
    for name, made in named.items():
        write_bytes_atomic(scratch / name, file_bytes(made))
    return [scratch / name for name in named], {"identity": "original", "why": "by the key"}
