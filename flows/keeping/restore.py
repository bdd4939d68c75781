"""A workspace out of a backup: everything is compared first, nothing that is there is overwritten."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from data_contracts.backup import BackupManifest
from data_contracts.errors import ContractError, NoduleflowError, UsageError, WorkspaceError
from flows.keeping import databases
from flows.keeping.backup import (
    ARTIFACTS,
    DUMPS,
    FILES,
    MANIFEST,
    PURPOSE,
    described_lines,
    server_databases,
    summary,
)
from flows.keeping.copying import fault_of, put_back
from flows.keeping.mark import Mark
from flows.keeping.sign_in import check_sign_in
from flows.progress import say
from flows.registry import CHAMPION, Registry
from flows.registry.audit import verify_audit
from flows.registry.keys import same, sign_record
from flows.settings import Settings, shared_registry_secrets
from flows.versions.tracking import tracking_uri
from flows.workspace import UNRESTORED, Workspace

_MOST_NAMED = 5
#: in a folder that counts as empty: what mounting a disk or asking for a lock leaves
_NOTHING = frozenset({".locks", ".users", "lost+found", UNRESTORED})


def restore(
    workspace: Workspace, settings: Settings, source: Path, *, check_only: bool = False, without_servers: bool = False
) -> tuple[dict[str, Any], str]:
    """Put a backup back into an empty workspace folder; returns a record and its text.

    A restore that was killed is run again: until it is done, no other command takes the folder for a workspace.

    Parameters
    ----------
    check_only: compare every file of the backup with its digest, and write nothing.
    without_servers: leave databases and artifacts of servers as they are.

    Raises
    ------
    UsageError: the folder is no finished backup, the workspace is not empty, or a server's database is in use.
    WorkspaceError: the backup is damaged (nothing is written then), or what was restored is not what was backed up.
    """
    started = time.monotonic()
    manifest = read_backup(source)
    _check_files(source, manifest)
    if check_only:
        record = {"backup": str(source), "intact": True, **summary(manifest)}
        return record, "\n".join([f"{source} is whole", *described_lines(manifest)])
    _check_key(source, manifest)
    mark = Mark(workspace.root, manifest)
    targets = _targets(workspace, settings, manifest, mark, without_servers=without_servers)
    has_artifacts = manifest.artifacts and not without_servers
    if has_artifacts:
        dump = source / manifest.databases["mlflow"] if "mlflow" in targets else None
        check_sign_in(tracking_uri(workspace), dump)
    _check_empty(workspace, manifest, mark)
    _put_files(workspace, source, manifest)
    if has_artifacts:  # before the databases, whose users may not be those who are let in now
        from flows.versions.tracking_artifacts import send_artifacts

        send_artifacts(tracking_uri(workspace), source / ARTIFACTS)
    for kind, url in targets.items():
        mark.write([databases.place_of(kind, url)])
        databases.restore(kind, url, source / DUMPS / f"{kind}.dump")
    _move_artifacts(workspace, manifest, targets.get("mlflow", ""))
    mark.remove()
    faults = _differences(workspace, settings, manifest, without_servers=without_servers)
    if faults:
        raise WorkspaceError("what was restored differs from what was backed up", where="; ".join(faults))
    record = {"workspace": str(workspace.root), "backup": str(source), **summary(manifest)}
    record["elapsed_s"] = round(time.monotonic() - started, 1)
    lines = [f"{source} restored to {workspace.root}", *described_lines(manifest)]
    return record, "\n".join(
        [*lines, "the audit holds and the champion is the same; `noduleflow doctor` checks the rest"]
    )


def read_backup(source: Path) -> BackupManifest:
    """The record of a backup; raises UsageError where the folder is no finished one."""
    if not (source / MANIFEST).is_file():
        raise UsageError(
            f"this is no finished backup: it has no {MANIFEST}",
            where=str(source),
            todo="A backup that was killed is none; take the one before it.",
        )
    try:
        return BackupManifest.read(source / MANIFEST)
    except ContractError as error:
        raise UsageError(f"the record of the backup cannot be used ({error.what})", where=str(source)) from None


def _check_files(source: Path, manifest: BackupManifest) -> None:
    named = {file.path for file in manifest.files}
    lacking = [name for name in manifest.databases.values() if name not in named]
    faults = [f"{name} is not in its record" for name in lacking]
    faults += [f"{file.path} {fault}" for file in manifest.files if (fault := fault_of(source, file))]
    if faults:
        more = f" and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise WorkspaceError(
            f"the backup is damaged: {len(faults)} of {len(manifest.files)} files",
            where="; ".join(faults[:_MOST_NAMED]) + more,
            todo="Nothing was restored; take another backup.",
        )
    say(f"restore: {len(manifest.files)} files are as they were written")


def _check_key(source: Path, manifest: BackupManifest) -> None:
    """Raises UsageError where the record is not signed with the key that the restored audit will be read with."""
    given = shared_registry_secrets()[0]
    file = source / FILES / "registry" / "audit.key"
    if not manifest.mac:
        # A backup of a site that has a key is always signed: without it, anybody could have written the digests.
        if given is not None or file.is_file() or manifest.audit.length or (source / FILES / "audit.jsonl").is_file():
            raise UsageError(
                "the record of the backup is not signed, and a site with an audit or an audit key signs it",
                where=str(source),
                todo="Take another backup; unset NODULEFLOW_AUDIT_KEY only where this one was made before there was "
                "any.",
            )
        return
    if given is None and not file.is_file():
        raise UsageError(
            "the audit key is not in the backup", todo="Set NODULEFLOW_AUDIT_KEY to the one it was made with."
        )
    key = given.encode() if given is not None else file.read_text().strip().encode()
    if not same(manifest.mac, sign_record(key, PURPOSE, manifest)):
        raise UsageError(
            "the record of the backup was changed, or is signed with another audit key",
            todo="Set NODULEFLOW_AUDIT_KEY as it was where the backup was made, and unset it where it was not.",
        )


def _targets(
    workspace: Workspace, settings: Settings, manifest: BackupManifest, mark: Mark, *, without_servers: bool
) -> dict[databases.DatabaseKind, str]:
    """Kind -> address of the databases to restore into, each of them unused, or filled by this restore before."""
    if without_servers or not manifest.databases:
        return {}
    named = server_databases(workspace, settings, without_servers=False)
    if missing := sorted(set(manifest.databases) - set(named)):
        raise UsageError(
            f"the backup has a database of {' and '.join(missing)}, and no server is set that it could go to",
            todo="Set the servers as they were, or add --without-servers.",
        )
    found = {kind: url for kind, url in named.items() if kind in manifest.databases}
    begun = mark.begun()
    for kind, url in found.items():
        if databases.place_of(kind, url) not in begun:
            databases.check_unused(kind, url)
    return found


def _check_empty(workspace: Workspace, manifest: BackupManifest, mark: Mark) -> None:
    """Make the folder and mark it; raises UsageError where somebody's workspace is there."""
    root = workspace.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in root.iterdir()}
        if there - _NOTHING and not mark.is_ours():
            raise UsageError(
                f"the workspace is not empty: there is {min(there - _NOTHING)}",
                where=str(root),
                todo="Restore into a new folder: noduleflow --workspace DIR restore ...",
            )
        for name in there - _NOTHING:  # of a restore of this backup that was killed
            path = root / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        needed, free = sum(file.bytes for file in manifest.files), shutil.disk_usage(root).free
        if needed > free:
            raise WorkspaceError(
                f"the backup has {needed / 2**30:.1f} GiB and the disk {free / 2**30:.1f} free", where=str(root)
            )
        mark.write()
    except OSError as error:
        raise WorkspaceError(f"the workspace cannot be written ({error.strerror})", where=str(root)) from None


def _put_files(workspace: Workspace, source: Path, manifest: BackupManifest) -> None:
    below = f"{FILES}/"
    try:
        for folder in manifest.folders:
            (workspace.root / folder.path.removeprefix(below)).mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            if file.path.startswith(below) and not put_back(
                source, file, workspace.root / file.path.removeprefix(below)
            ):
                raise WorkspaceError("the backup changed while it was read", where=file.path)
        for folder in reversed(manifest.folders):
            (workspace.root / folder.path.removeprefix(below)).chmod(folder.mode)
    except OSError as error:
        raise WorkspaceError(
            f"the workspace cannot be written ({error.strerror})",
            where=str(workspace.root),
            todo="Mend that and run the same restore again.",
        ) from None


def _move_artifacts(workspace: Workspace, manifest: BackupManifest, mlflow_database: str) -> None:
    """MLflow keeps where its artifacts lie as absolute paths."""
    before = Path(manifest.workspace)
    if workspace.mlflow_database.is_file():
        databases.move_locations(workspace.mlflow_database_uri, before, workspace.root)
    if mlflow_database:
        scheme, _, rest = mlflow_database.partition("://")
        driver = scheme.replace("postgres", "postgresql") if scheme.startswith("postgres+") else scheme
        address = "postgresql" if driver == "postgres" else driver.replace("+asyncpg", "")
        databases.move_locations(f"{address}://{rest}", before, workspace.root)


def _differences(
    workspace: Workspace, settings: Settings, manifest: BackupManifest, *, without_servers: bool
) -> list[str]:
    """What is not as it was, a sentence each."""
    faults = []
    try:
        faults += [f"audit {fault}" for fault in verify_audit(workspace, manifest.audit or None)]
        if not without_servers and (workspace.mlflow_database.exists() or settings.mlflow_tracking_uri):
            champion = Registry.quick(workspace, manifest.model_name).alias(CHAMPION)
            if champion != manifest.champion:
                faults.append(f"champion is {champion or 'none'}, it was {manifest.champion or 'none'}")
    except NoduleflowError as error:
        faults.append(error.line())
    return faults
