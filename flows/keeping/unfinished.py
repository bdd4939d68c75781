"""A folder that appears under its name only when it is whole; what a kill leaves of it is cleared by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_contracts.errors import UsageError, WorkspaceError

_SUFFIX, _LOCK = ".unfinished", "at-work.lock"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when the block ends without an error, and is removed where it does not.

    Raises
    ------
    UsageError: the target is there already and not empty, or cannot be made there.
    WorkspaceError: the disk is full or fails; nothing is left.
    """
    from filelock import FileLock

    _check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_killed(target.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_SUFFIX, dir=target.parent))
    except OSError as error:
        raise UsageError(f"a backup cannot be written there ({error.strerror})", where=str(target)) from None
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    try:
        yield folder
        os.sync()
        folder.rename(target)
        (target / _LOCK).unlink(missing_ok=True)
        _sync(target.parent)
    except OSError as error:
        raise WorkspaceError(
            f"the backup could not be written ({error.strerror or type(error).__name__}), and nothing is left of it",
            where=str(target),
            todo="Mend that, or choose another disk, and run it again.",
        ) from None
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _check_free(target: Path) -> None:
    if target.is_symlink() or target.is_file():
        raise UsageError("the backup needs a new folder, and this is none", where=str(target))
    try:
        is_taken = target.is_dir() and any(target.iterdir())
    except OSError as error:
        raise UsageError(f"the folder cannot be read ({error.strerror})", where=str(target)) from None
    if is_taken:
        raise UsageError("the folder of the backup is not empty", where=str(target), todo="Name a new one.")
    if target.is_dir() and os.path.ismount(target):
        raise UsageError(
            "a disk is mounted at the folder of the backup", where=str(target), todo="Name a new folder below it."
        )


def _clear_killed(parent: Path) -> None:
    """Remove the unfinished backups whose process is gone."""
    from filelock import FileLock, Timeout

    for folder in parent.glob(f".*{_SUFFIX}"):
        if not (folder / _LOCK).is_file():
            continue
        try:
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
