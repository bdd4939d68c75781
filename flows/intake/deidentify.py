"""De-identify sources to DICOM files, and the way back for holders of the key."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom

from data_contracts.errors import ContractError, NothingUsableError, UsageError, WorkspaceError
from data_contracts.params import DeidentifyParams
from data_contracts.reasons import ReasonCode
from data_contracts.records import atomic_path, digest_of, write_bytes_atomic
from data_contracts.series import REJECTED_TABLE, Rejection, SeriesRecord
from flows.intake.identity import EXPORT, export_policy, note_policy
from flows.log_filter import register_identifiers
from flows.progress import Stage, stage
from flows.workspace import Workspace
from pipeline.deidentify.engine import Deidentifier
from pipeline.deidentify.files import FileOutcome, deidentify_file
from pipeline.deidentify.profile import edition
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.reidentify import reidentify, study_key_of
from pipeline.deidentify.vault import StudyIdentity, Vault
from pipeline.headers.values import silence_pydicom
from pipeline.intake.discover import list_files
from pipeline.intake.source_files import SourceFile

_NOTE = "deidentified.json"
#: after so many files what they gave is sealed, and a line tells how far it is
_FILES_A_NOTE = 200


@dataclass
class _Export:
    """What became of the files of one run."""

    states: Counter[str] = field(default_factory=Counter)
    elements: Counter[str] = field(default_factory=Counter)
    rejections: list[Rejection] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)


def deidentify_sources(
    workspace: Workspace,
    secret: bytes,
    sources: tuple[Path, ...],
    out: Path,
    params: DeidentifyParams,
    keep_vault: bool = True,
) -> dict[str, Any]:
    """De-identify every DICOM image of the sources into `out`; safe to run again after a kill.

    Raises
    ------
    UsageError: `out` lies in a source, or holds files of another policy or secret.
    NothingUsableError: no file was written and none was there.
    WorkspaceError: `out` cannot be written.
    """
    pseudonymizer = Pseudonymizer(secret)
    for source in sources:
        if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
            raise UsageError("--out lies in a source", todo="Name a folder beside it.")
    note_policy(workspace, EXPORT, export_policy(params, keep_vault))
    export = _Export()
    try:
        _claim(out, params, pseudonymizer)
        engine = Deidentifier(pseudonymizer, params)
        vault = Vault(workspace.identity_root, secret) if keep_vault else None
        for source in sources:
            scratch = workspace.scratch_root / f"deidentify-{os.getpid()}"
            try:
                files = [file for file in list_files(source, scratch) if not file.folder]
                with stage("deidentify", len(files)) as progress:
                    _deidentify_all(files, out, engine, vault, export, progress)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        rows = [rejection.row() for rejection in export.rejections]
        REJECTED_TABLE.write(out / "rejected.parquet", pd.DataFrame(rows) if rows else REJECTED_TABLE.empty())
    except OSError as error:
        raise WorkspaceError(
            f"the output cannot be written ({os.strerror(error.errno or 0)})",
            where="--out",
            todo="Free disk space or mend its permissions, and run the same command again.",
        ) from None
    return _summary(export, out)


def _claim(out: Path, params: DeidentifyParams, pseudonymizer: Pseudonymizer) -> None:
    """Note the policy of a folder, so that files of two policies never stand side by side."""
    policy = {"edition": edition(), "options": params.model_dump(mode="json"), "key": pseudonymizer.key("export", "")}
    note = out / _NOTE
    if not note.exists():
        write_bytes_atomic(note, (json.dumps(policy, indent=2) + "\n").encode())
        return
    try:
        known = json.loads(note.read_text())
    except ValueError:
        raise ContractError("not the note of a de-identification", where=_NOTE, todo="Name another --out.") from None
    if digest_of(known) != digest_of(policy):
        raise UsageError(
            "--out holds files that were de-identified with other options or another secret", todo="Name another --out."
        )


def _deidentify_all(
    files: list[SourceFile], out: Path, engine: Deidentifier, vault: Vault | None, export: _Export, progress: Stage
) -> None:
    rest = iter(files)
    while some := list(islice(rest, _FILES_A_NOTE)):
        identities: dict[str, StudyIdentity] = {}
        for file, outcome in _outcomes(some, out, engine):
            _count(file, outcome, engine.pseudonymizer, export)
            if outcome.identity is not None:
                register_identifiers([*outcome.identity.names, *outcome.identity.others])
                identity = StudyIdentity.of(outcome.identity, engine.pseudonymizer)
                known = identities.get(identity.study_key)
                identities[identity.study_key] = identity if known is None else known.merged(identity)
        if vault is not None:
            for key, identity in identities.items():
                vault.seal(key, identity)
        export.studies |= identities.keys()
        export.patients |= {key for identity in identities.values() for key in identity.patients}
        progress.advance(f"{export.states['refused']} refused so far", len(some))


def _outcomes(files: list[SourceFile], out: Path, engine: Deidentifier) -> Iterator[tuple[SourceFile, FileOutcome]]:
    for file in files:
        if file.path is None:
            reason = ReasonCode.UNSAFE_ARCHIVE_MEMBER if file.unsafe else ReasonCode.UNREADABLE
            yield file, FileOutcome("refused", reason=reason, detail=file.problem)
        else:
            yield file, deidentify_file(file.path, out, engine)


def _count(file: SourceFile, outcome: FileOutcome, pseudonymizer: Pseudonymizer, export: _Export) -> None:
    export.states[outcome.state] += 1
    export.elements += outcome.counts
    if outcome.reason is not None:
        path = pseudonymizer.path(file.relative)
        export.rejections.append(Rejection(path=path, reason=outcome.reason, detail=outcome.detail))


def _summary(export: _Export, out: Path) -> dict[str, Any]:
    refused = Counter(rejection.reason.value for rejection in export.rejections)
    if not export.states["written"] + export.states["there"]:
        raise NothingUsableError(
            "no DICOM image that may go out",
            where=", ".join(f"{count} x {reason}" for reason, count in sorted(refused.items())) or "no file at all",
            todo="rejected.parquet in --out lists each file with its reason.",
        )
    return {
        "written": export.states["written"],
        "already_there": export.states["there"],
        "n_refused": len(export.rejections),
        "refused": dict(sorted(refused.items())),
        "n_studies": len(export.studies),
        "n_patients": len(export.patients),
        "elements": dict(sorted(export.elements.items())),
        "profile_edition": edition(),
        "out": str(out),
    }


def reidentified(workspace: Workspace, secret: bytes, subject: str, out: Path | None) -> dict[str, Any]:
    """The original identifiers behind a study key, a series key or a pseudonymous file; a file is rewritten to `out`.

    Raises
    ------
    UsageError: the secret is another one, or `subject` is none of the three.
    NothingUsableError: nothing is sealed for it.
    """
    vault, pseudonymizer = Vault(workspace.identity_root, secret), Pseudonymizer(secret)
    path = Path(subject)
    if not path.is_file():
        if out is not None:
            raise UsageError("--out goes with a DICOM file", todo="Name a pseudonymous .dcm file that exists.")
        return _record(vault.open(_study_of(workspace, subject)))
    silence_pydicom()
    try:
        dataset = pydicom.dcmread(path)
        dataset.decode()
    except Exception:  # a broken file breaks the parser in any way
        raise UsageError("not a readable DICOM file", where="FILE", todo="Name a pseudonymous DICOM file.") from None
    key = study_key_of(dataset, pseudonymizer)
    if not key:
        raise UsageError(
            "the file's study is no pseudonym of this key",
            where="FILE",
            todo="Use the secret of the ingest: its secret.key, or NODULEFLOW_SECRET.",
        )
    identity = vault.open(key)
    whole = reidentify(dataset, identity, pseudonymizer)
    record = _record(identity)
    if out is not None:
        if out.resolve() == path.resolve():
            raise UsageError("--out is the file itself", todo="Name another file.")
        with atomic_path(out, mode=0o600) as temporary:
            whole.save_as(temporary)
        record["out"] = str(out)
    return record


def _study_of(workspace: Workspace, key: str) -> str:
    """The study of a series key; any other key is taken for a study's."""
    record = workspace.series_root / key / "series.json"
    if len(key) == 16 and key.isalnum() and record.is_file():
        return SeriesRecord.read(record).study_key
    return key


def _record(identity: StudyIdentity) -> dict[str, Any]:
    body = identity.model_dump(mode="json")
    return {**body, "n_series": len(identity.series), "n_instances": len(identity.instances)}
