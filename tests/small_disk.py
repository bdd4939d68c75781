"""A small disk of a test's own, a tmpfs, that can be filled or made read-only; skips where none may be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        done = _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        if done.returncode != 0:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def fill(self, leave_bytes: int = 0) -> None:
        """Write until no room is left but so much."""
        import shutil

        with (self.folder / "filling").open("wb") as stream:
            while (free := shutil.disk_usage(self.folder).free - leave_bytes) > 0:
                stream.write(b"\0" * min(free, 2**20))
                stream.flush()

    def free(self) -> None:
        """Take the filling away."""
        (self.folder / "filling").unlink(missing_ok=True)

    def read_only(self, yes: bool = True) -> None:
        """Let nothing be written any more, or again."""
        done = _run("mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.folder))
        if done.returncode != 0:
            pytest.skip(f"a tmpfs cannot be made read-only here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mounted for the time of the block."""
    disk = SmallDisk(folder, size)
    try:
        yield disk
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
