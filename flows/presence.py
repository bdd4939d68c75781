"""Who else is at work on a workspace, and what to clear away when nobody is."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.running.lease import STALE_S, file_system_now, keep_fresh, let_go
from flows.workspace import Workspace

#: folders in scratch/ of commands that are counted here; half a dataset or a pull is not among them: those go on
_SCRATCH = ("ingest-*", "version-*", "push-*", "images-*", "deidentify-*")
#: process id in the name of a temporary file, as `atomic_path` gives it
_WRITER = re.compile(r"\.(\d+)\.\w+\.tmp$")


@contextmanager
def presence(workspace: Workspace) -> Iterator[bool]:
    """Be counted among the processes at work here; yields whether this one came alone.

    Alone, it first clears what killed runs left behind: half-written files and scratch folders. Processes of other
    machines that share the folder count as long as they touch their marks.
    """
    folder = _folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with workspace.lock("presence"):
        alone = not others(workspace)
        if alone:
            _clear_leftovers(workspace)
        mine = _own_mark(folder)
        mine.write_text(socket.gethostname())
    keep_fresh(mine)
    try:
        yield alone
    finally:
        let_go(mine)


def others(workspace: Workspace) -> list[int]:
    """Process ids of the living others, on whichever machine; the marks of dead ones are removed."""
    import psutil

    living = []
    for mark in _folder(workspace).glob("[0-9]*"):
        pid, host = int(mark.name.partition("@")[0]), _host_of(mark)
        if host == socket.gethostname():
            if pid == os.getpid():
                continue
            is_alive = psutil.pid_exists(pid)
        else:
            is_alive = _is_fresh(mark)
        if is_alive:
            living.append(pid)
        else:
            mark.unlink(missing_ok=True)
    return living


def machines(workspace: Workspace) -> set[str]:
    """Names of the other machines that are at work here."""
    others(workspace)
    return {_host_of(mark) for mark in _folder(workspace).glob("[0-9]*")} - {socket.gethostname()}


def _own_mark(folder: Path) -> Path:
    """A file of our process id, or with the name of our machine where another one's process has the same."""
    mark = folder / str(os.getpid())
    if mark.exists() and _host_of(mark) != socket.gethostname():
        return folder / f"{os.getpid()}@{socket.gethostname()}"
    return mark


def _host_of(mark: Path) -> str:
    try:
        return mark.read_text() or socket.gethostname()
    except OSError:
        return socket.gethostname()


def _is_fresh(mark: Path) -> bool:
    try:
        return file_system_now(mark.parent) - mark.stat().st_mtime < STALE_S
    except OSError:
        return False


def _folder(workspace: Workspace) -> Path:
    return workspace.root / ".users"


def _clear_leftovers(workspace: Workspace) -> None:
    for path in workspace.root.rglob(".*.tmp"):
        if _has_living_writer(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in (path for name in _SCRATCH for path in workspace.scratch_root.glob(name)):
        shutil.rmtree(path, ignore_errors=True)


def _has_living_writer(path: Path) -> bool:
    """Whether a process that is not counted here, such as a promotion, is writing this file now."""
    import psutil

    found = _WRITER.search(path.name)
    return found is not None and int(found[1]) != os.getpid() and psutil.pid_exists(int(found[1]))
