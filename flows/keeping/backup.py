"""A backup of a workspace, taken while others work on it: files, databases, and a signed record written last.

First everything is copied while work goes on. Then, for a moment, the writers of tables, registry and audit are held;
the databases are copied, and what changed since. A database never names a file that is not in the backup, because
files are written before the rows that name them.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_contracts.backup import BackupFile, BackupManifest, DatabaseKind
from data_contracts.errors import UsageError, WorkspaceError
from data_contracts.records import write_bytes_atomic
from data_contracts.versions import ChainEnd
from flows.keeping import databases
from flows.keeping.copying import Copies, Tree, described
from flows.keeping.quiet import writers_held
from flows.keeping.unfinished import whole_folder
from flows.progress import say
from flows.registry import CHAMPION, Registry
from flows.registry.audit import read_or_none
from flows.registry.keys import audit_key, has_key, sign_record
from flows.settings import Settings, configured_secret, shared_registry_secrets
from flows.versions.tracking import tracking_uri
from flows.workspace import Workspace

MANIFEST, FILES, DUMPS, ARTIFACTS = "backup.json", "workspace", "databases", "artifacts"
PURPOSE = "backup"
_SPARE_BYTES = 64 * 2**20


def back_up(
    workspace: Workspace, settings: Settings, target: Path, *, tables_only: bool = False, without_servers: bool = False
) -> tuple[dict[str, Any], str]:
    """Write a backup to the new folder `target`; returns a record and its text.

    Parameters
    ----------
    tables_only: no volumes, datasets, features and inbox, which sources and `prepare` give again.
    without_servers: leave out the databases of MLflow and Prefect servers, which are backed up in another way.

    Raises
    ------
    UsageError: the target is taken, or a server's database is not named.
    WorkspaceError: disk or database fails, or writers do not pause; no backup is left behind.
    """
    started = time.monotonic()
    target = target.absolute()
    _check_place(workspace, target)
    dumps = server_databases(workspace, settings, without_servers=without_servers)
    tree = Tree(workspace.root, tables_only=tables_only)
    with whole_folder(target) as folder:
        _check_room(tree, folder)
        copies = Copies(tree, folder, FILES)
        (folder / FILES).mkdir()
        say(f"backup: {copies.update()} files copied; writers pause for the rest")
        entries: list[BackupFile] = []
        if "prefect" in dumps:
            entries.append(_dumped(folder, "prefect", dumps["prefect"]))
        with writers_held(workspace, settings.model_name):
            if "mlflow" in dumps:
                entries.append(_dumped(folder, "mlflow", dumps["mlflow"]))
            champion = _champion(workspace, settings)
            copies.update()
            for path in copies.databases:
                copies.put(path, lambda file, path=path: databases.copy_sqlite(workspace.root / path, file))
            # What a run wrote between the first copy and that of the databases.
            n_changed = copies.update()
            audit = anchor.end if (anchor := read_or_none(workspace)) is not None else ChainEnd()
        say(f"backup: {n_changed} of them anew, {len(copies.databases) + len(entries)} databases")
        has_artifacts = tracking_uri(workspace).startswith("http") and not without_servers
        if has_artifacts:
            entries += _artifacts(tracking_uri(workspace), folder)
        manifest = BackupManifest(
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            program=version("noduleflow"),
            workspace=str(workspace.root),
            model_name=settings.model_name,
            tables_only=tables_only,
            champion=champion,
            audit=audit,
            files=(*copies.files(), *entries),
            folders=tuple(copies.folders()),
            databases={kind: f"{DUMPS}/{kind}.dump" for kind in dumps},
            artifacts=has_artifacts,
            left_out=tuple(_left_out(tree, tables_only=tables_only, without_servers=without_servers)),
            keys_elsewhere=tuple(_keys_elsewhere()),
        )
        if has_key(workspace):
            manifest = manifest.model_copy(update={"mac": sign_record(audit_key(workspace), PURPOSE, manifest)})
        write_bytes_atomic(folder / MANIFEST, manifest.to_json().encode())
    record = {"backup": str(target), **summary(manifest), "elapsed_s": round(time.monotonic() - started, 1)}
    return record, "\n".join([f"backup of {workspace.root} in {target}", *described_lines(manifest)])


def summary(manifest: BackupManifest) -> dict[str, Any]:
    """What a person asks of a backup, without its files."""
    return {
        "created_utc": manifest.created_utc,
        "files": len(manifest.files),
        "bytes": sum(file.bytes for file in manifest.files),
        "champion": manifest.champion,
        "audit_records": manifest.audit.length,
        **manifest.model_dump(
            mode="json", include={"tables_only", "databases", "artifacts", "left_out", "keys_elsewhere"}
        ),
    }


def described_lines(manifest: BackupManifest) -> list[str]:
    """A backup in some lines."""
    size = sum(file.bytes for file in manifest.files)
    lines = [
        f"{len(manifest.files)} files, {size / 2**20:.0f} MiB, of {manifest.created_utc}",
        f"champion {manifest.champion or 'none'}, {manifest.audit.length} audit records",
    ]
    if manifest.databases:
        lines.append(f"PostgreSQL of {' and '.join(manifest.databases)}")
    lines += [f"not in it: {what}" for what in manifest.left_out]
    lines += [f"not in it: the key {name}, which is kept elsewhere" for name in manifest.keys_elsewhere]
    return lines


def server_databases(workspace: Workspace, settings: Settings, *, without_servers: bool) -> dict[DatabaseKind, str]:
    """Kind -> address of the databases of PostgreSQL that belong to a workspace.

    Raises
    ------
    UsageError: a server is used and its database is not named, so that a backup would lack it.
    """
    if without_servers:
        return {}
    found: dict[DatabaseKind, str] = {}
    uri = tracking_uri(workspace)
    if uri.startswith("postgres"):
        found["mlflow"] = uri
    elif not uri.startswith("sqlite:") or not _is_below(Path(uri.removeprefix("sqlite:///")), workspace.root):
        if settings.mlflow_database is None:
            raise _unnamed("MLflow", "NODULEFLOW_MLFLOW_DATABASE")
        found["mlflow"] = settings.mlflow_database.get_secret_value()
    if settings.prefect_api_url:
        if settings.prefect_database is None:
            raise _unnamed("Prefect", "NODULEFLOW_PREFECT_DATABASE")
        found["prefect"] = settings.prefect_database.get_secret_value()
    return found


def _unnamed(server: str, variable: str) -> UsageError:
    return UsageError(
        f"a {server} server is used, and its database is not named",
        todo=f"Set {variable}_FILE to a file with its address (postgresql://...), or add --without-servers "
        "where it is backed up in another way.",
    )


def _is_below(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _check_place(workspace: Workspace, target: Path) -> None:
    place = target.resolve()
    if place.is_relative_to(workspace.root) or workspace.root.is_relative_to(place):
        raise UsageError(
            "a backup inside its workspace would be lost with it", where=str(target), todo="Name another folder."
        )


def _check_room(tree: Tree, folder: Path) -> None:
    needed = sum(state.st_size for _, state, is_folder in tree.entries() if not is_folder) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WorkspaceError(
            f"the backup needs {needed / 2**30:.1f} GiB and the disk has {free / 2**30:.1f}",
            where=str(folder.parent),
            todo="Choose another disk, or --tables-only.",
        )


def _dumped(folder: Path, kind: DatabaseKind, url: str) -> BackupFile:
    name = f"{DUMPS}/{kind}.dump"
    (folder / DUMPS).mkdir(exist_ok=True)
    databases.dump(kind, url, folder / name)
    return described(folder / name, name, mode=0o600, changed_ns=time.time_ns())


def _artifacts(uri: str, folder: Path) -> list[BackupFile]:
    from flows.versions.tracking_artifacts import fetch_artifacts

    fetch_artifacts(uri, folder / ARTIFACTS)
    files = [path for path in sorted((folder / ARTIFACTS).rglob("*")) if path.is_file()]
    return [
        described(file, file.relative_to(folder).as_posix(), mode=0o644, changed_ns=file.stat().st_mtime_ns)
        for file in files
    ]


def _champion(workspace: Workspace, settings: Settings) -> str | None:
    if not (workspace.mlflow_database.exists() or settings.mlflow_tracking_uri):
        return None
    return Registry.quick(workspace, settings.model_name).alias(CHAMPION)


def _left_out(tree: Tree, *, tables_only: bool, without_servers: bool) -> list[str]:
    found = [f"{path} is a link" for path in sorted(tree.links)]
    if tables_only:
        found.append("volumes, datasets, features, inbox (tables only)")
    if without_servers:
        found.append("databases and artifacts of servers, as asked for")
    return found


def _keys_elsewhere() -> list[str]:
    keys = {"NODULEFLOW_SECRET": configured_secret(), "NODULEFLOW_AUDIT_KEY": shared_registry_secrets()[0]}
    return [name for name, value in keys.items() if value is not None]
