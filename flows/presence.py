"""Who else is at work on a workspace, and what to clear away when nobody is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.workspace import Workspace


@contextmanager
def presence(workspace: Workspace) -> Iterator[bool]:
    """Be counted among the processes at work here; yields whether this one came alone.

    Alone, it first clears what killed runs left behind: half-written files and scratch folders.
    """
    folder = _folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / str(os.getpid())
    with workspace.lock("presence"):
        alone = not others(workspace)
        if alone:
            _clear_leftovers(workspace)
        mine.touch()
    try:
        yield alone
    finally:
        mine.unlink(missing_ok=True)


def others(workspace: Workspace) -> list[int]:
    """Process ids of the living others; the marks of dead ones are removed."""
    import psutil

    living = []
    for mark in _folder(workspace).glob("[0-9]*"):
        if psutil.pid_exists(int(mark.name)) and int(mark.name) != os.getpid():
            living.append(int(mark.name))
        elif int(mark.name) != os.getpid():
            mark.unlink(missing_ok=True)
    return living


def _folder(workspace: Workspace) -> Path:
    return workspace.root / ".users"


def _clear_leftovers(workspace: Workspace) -> None:
    for path in workspace.root.rglob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in workspace.scratch_root.glob("ingest-*"):
        shutil.rmtree(path, ignore_errors=True)
