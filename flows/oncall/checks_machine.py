"""What the doctor asks of the machine: versions, permissions, key files, room, time, and what may leave it."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from data_contracts.errors import UsageError
from flows.oncall.check import Check, State, worst
from flows.oncall.disk import LITTLE_BYTES, NONE_BYTES
from flows.oncall.findings import lasting, size_text
from flows.settings import configured_secret
from flows.workspace import Workspace
from flows.workspace_key import key_fault, own_secret

_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
#: how far two clocks may be apart
_CLOCK_S = 300.0
#: files that hold keys, below the workspace
_KEYS = ("secret.key", "secret.check", "registry/audit.key")
_LEAST_INODES = 10_000


def python() -> Check:
    """Whether this Python is one of those the lock was made for."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    detail = f"{sys.version.split()[0]} (3.11 to 3.13 are supported)"
    return Check("python", "ok", detail) if good else Check("python", "failed", detail, "Set PYTHON and run `make`.")


def versions() -> Check:
    """The two combinations that install cleanly and then do not work, and what is not as the lock has it."""
    from flows.versions.environment import lock_differences

    faults: list[tuple[State, str, str]] = []
    again = "Run `make` again to install the lock."
    if _release("fastapi") >= (0, 151):
        faults.append(("failed", "fastapi must be below 0.151, or Prefect starts no server", again))
    if _release("sqlalchemy") >= (2, 1):
        faults.append(("failed", "SQLAlchemy must be below 2.1, or Prefect's cron schedules never fire", again))
    if others := lock_differences():
        faults.append(("warning", f"not as the lock has them: {', '.join(others[:8])}", again))
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("prefect", "mlflow", "torch", "pydicom"))
    return worst("versions", faults, shown)


def _release(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(name).split(".")[:2])


def packages() -> Check:
    """Our four packages have common names; a stranger of the same name in site-packages would win."""
    import data_contracts
    import flows
    import models
    import pipeline

    folders = {Path(str(package.__file__)).parents[1] for package in (data_contracts, flows, models, pipeline)}
    if len(folders) > 1:
        return Check("packages", "failed", "a stranger's package hides one of ours", "Make the environment anew.")
    return Check("packages", "ok", "data_contracts, pipeline, models and flows are ours")


def disk(workspace: Workspace) -> Check:
    """Room for bytes and for files where the workspace is."""
    usage = shutil.disk_usage(workspace.root)
    detail = f"{size_text(usage.free)} free at the workspace"
    todo = "Make room, or move the workspace; docs/oncall.md says what may go."
    if usage.free < NONE_BYTES:
        return Check("disk", "failed", detail, todo)
    inodes = os.statvfs(workspace.root)
    if inodes.f_files and inodes.f_favail < _LEAST_INODES:
        return Check("disk", "warning", f"{detail}, and room for {inodes.f_favail} more files", todo)
    return Check("disk", "warning", detail, todo) if usage.free < LITTLE_BYTES else Check("disk", "ok", detail)


def permissions(workspace: Workspace) -> Check:
    """Whether the workspace can be written, wherever the program writes, and not by everybody."""
    faults: list[tuple[State, str, str]] = []
    probe = workspace.root / f".write-{os.getpid()}"
    try:
        probe.write_bytes(b"0" * 4096)
    except OSError as error:
        todo = "Mend its mount, owner or room; or name another with --workspace."
        faults.append(("failed", f"the workspace cannot be written ({error.strerror})", todo))
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    owners = set()
    for path in sorted(workspace.root.iterdir()):
        owners.add(path.lstat().st_uid)
        if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            faults.append(("failed", f"{path.name}/ cannot be read and written", "Give it to who runs noduleflow."))
    if stat.S_IMODE(workspace.root.stat().st_mode) & stat.S_IWOTH:
        faults.append(("warning", "everybody on this machine may write the workspace", "chmod o-w it."))
    if len(owners) > 1:
        todo = "Run every noduleflow as one user, and chown the workspace to it."
        faults.append(("warning", f"files of {len(owners)} users are in the workspace", todo))
    return worst("permissions", faults, "the workspace can be read and written")


def keys(workspace: Workspace) -> Check:
    """Whether only their owner may read the files that hold keys, passwords and identities."""
    faults: list[tuple[State, str, str]] = []
    named = [
        Path(value) for name, value in os.environ.items() if name.startswith("NODULEFLOW_") and name.endswith("_FILE")
    ]
    for path in (*(workspace.root / name for name in _KEYS), *named, Path(".env")):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            if path in named:
                faults.append(("failed", f"{path.name} is named by a setting and is not there", "Put it there."))
            continue
        except OSError as error:
            faults.append(("failed", f"{path.name} cannot be looked at ({error.strerror})", "Mend its folder."))
            continue
        if path.name == ".env" and not _holds_secret(path):
            continue
        if mode & 0o077 and not (path in named and _is_handed_over(path)):
            faults.append(("failed", f"{path.name} has mode {mode:o}: others may read it", f"chmod 600 {path}."))
        elif not path.is_file() or not path.stat().st_size:
            faults.append(("failed", f"{path.name} is empty", "Restore it from a backup."))
    vault = workspace.identity_root
    if vault.is_dir() and stat.S_IMODE(vault.stat().st_mode) & 0o077:
        faults.append(("failed", "others may read identity/", f"chmod 700 {vault}."))
    with suppress(UsageError):  # a file that a setting names and that is not there was said above
        given = configured_secret()
        if fault := key_fault(workspace, given.encode() if given else own_secret(workspace)):
            faults.append(("failed", fault.what, fault.todo))
    return worst("keys", faults, "key files are of mode 600")


def _is_handed_over(path: Path) -> bool:
    """Whether a container engine put the file there, whose mode is not ours to change.

    It lies on a mount that nobody can write to, or belongs to another user and is closed to everybody beside a group.
    """
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return True
    found = path.stat()
    return found.st_uid != os.geteuid() and not stat.S_IMODE(found.st_mode) & stat.S_IRWXO


def _holds_secret(path: Path) -> bool:
    words = ("SECRET", "PASSWORD", "TOKEN", "AUTH", "KEY", "DATABASE")
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return True
    return any(
        any(word in name.upper() for word in words) and value.strip()
        for name, _, value in (one.partition("=") for one in lines if not one.lstrip().startswith("#"))
    )


def egress() -> Check:
    """Telemetry is off, and no proxy stands between this program and its own servers."""
    faults: list[tuple[State, str, str]] = []
    wrong = [name for name, value in _TELEMETRY.items() if os.environ.get(name) != value]
    if wrong:
        faults.append(("failed", f"telemetry is not off: {', '.join(wrong)}", "Unset them: noduleflow sets them."))
    proxies = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES}
    hosts = sorted({urlsplit(value).hostname or "?" for value in proxies.values() if value})
    spared = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    if hosts and "*" not in spared and not {"127.0.0.1", "localhost"} & set(spared):
        todo = "Set NO_PROXY=127.0.0.1,localhost (and your PACS), or unset the proxy."
        faults.append(("failed", f"requests to our own servers would go to the proxy {', '.join(hosts)}", todo))
    through = f"; a proxy is set ({', '.join(hosts)})" if hosts else ""
    return worst("egress", faults, f"telemetry of Prefect and MLflow is off, pickled models are refused{through}")


def clock(workspace: Workspace) -> Check:
    """Whether this machine's time goes with what was written before, and the time zones are known."""
    faults: list[tuple[State, str, str]] = []
    now = time.time()
    todo = "Set the clock (`timedatectl set-ntp true`), before the next run: files and audit lines carry its time."
    newest = max((_changed(path) for path in _dated(workspace)), default=0.0)
    if newest - now > _CLOCK_S:
        faults.append(("failed", f"files of the workspace are {lasting(newest - now)} ahead of this clock", todo))
    if datetime.now(UTC).year < 2025:
        faults.append(("failed", f"this machine takes today for {datetime.now(UTC):%Y-%m-%d}", todo))
    zone = os.environ.get("TZ", "")
    if zone and not _is_zone(zone):
        faults.append(("warning", f"TZ={zone[:40]} is no time zone", "Set TZ to a name such as Europe/Berlin."))
    if not _is_zone("Europe/Berlin"):
        faults.append(("failed", "no time zones are installed", "Install the package tzdata."))
    return worst("clock", faults, f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, nothing here is from the future")


def _dated(workspace: Workspace) -> list[Path]:
    found = [
        workspace.audit_file,
        workspace.series_table,
        workspace.mlflow_database,
        workspace.prefect_home / "prefect.db",
    ]
    return [*found, *workspace.reviews_root.glob("*/review.json"), *workspace.runs_root.glob("*/model_card.json")]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name.removeprefix(":"))
    except (OSError, ValueError, KeyError):
        return False
    return True
