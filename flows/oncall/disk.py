"""Room on the disk of a workspace, and what the workspace takes of it."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

#: below this a night does not end well
LITTLE_BYTES = 5 * 2**30
#: below this nothing can be written
NONE_BYTES = 200 * 2**20
_BUDGET_S = 1.0


@dataclass(frozen=True)
class Room:
    """Bytes. is_whole: the workspace was walked to its end; else its size is a lower bound."""

    free: int
    total: int
    used_by_workspace: int
    is_whole: bool


def room(root: Path, budget_s: float = _BUDGET_S) -> Room:
    """Free room at a folder, and the size of what is below it, as far as `budget_s` seconds reach."""
    usage = shutil.disk_usage(root)
    deadline, size, is_whole = time.monotonic() + budget_s, 0, True
    folders = [str(root)]
    while folders:
        if time.monotonic() > deadline:
            is_whole = False
            break
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            size += entry.stat(follow_symlinks=False).st_size
                    except OSError:
                        continue
        except OSError:
            continue
    return Room(usage.free, usage.total, size, is_whole)
