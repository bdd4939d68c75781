"""A lock that also holds among machines whose shared file system keeps no flock.

Beside the flock, which a kill releases at once, the holder makes a file that only one can make (by a hard link, which
is atomic on NFS) and touches it while it holds the lock. What a dead machine left is taken over when nobody has touched
it for a while, by the clock of the file system.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOUCH_S = 15.0
#: an untouched file is nobody's after so long
STALE_S = 90.0
_POLL_S = 0.05

_held: set[Path] = set()
_guard = threading.Lock()
_toucher: list[threading.Thread] = []


@contextmanager
def lease(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold `path` among machines; the caller holds a flock among the processes of this one.

    Raises
    ------
    TimeoutError: another machine holds it for longer.
    """
    deadline = time.monotonic() + timeout_s
    while not _made(path):
        if _is_stale(path):
            _take_away(path)
        elif time.monotonic() > deadline:
            raise TimeoutError
        else:
            time.sleep(_POLL_S)
    keep_fresh(path)
    try:
        yield
    finally:
        let_go(path)


def keep_fresh(path: Path) -> None:
    """Touch a file from time to time, from now on."""
    with _guard:
        _held.add(path)
        if not _toucher or not _toucher[0].is_alive():
            _toucher[:] = [threading.Thread(target=_touch_all, name="leases", daemon=True)]
            _toucher[0].start()


def let_go(path: Path) -> None:
    """Remove a file that was kept fresh."""
    with _guard:
        _held.discard(path)
    path.unlink(missing_ok=True)


def file_system_now(folder: Path) -> float:
    """The time by the clock that stamps files in `folder`."""
    probe = folder / f".clock-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _made(path: Path) -> bool:
    """Make the file with our machine's name in it, unless it is there."""
    own = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}")
    own.write_text(socket.gethostname())
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _made_without_link(path)
    finally:
        own.unlink(missing_ok=True)
    return True


def _made_without_link(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as stream:
        stream.write(socket.gethostname())
    return True


def _is_stale(path: Path) -> bool:
    try:
        holder, touched = path.read_text(), path.stat().st_mtime
    except OSError:
        return False
    if holder == socket.gethostname():
        return True  # the flock is ours, so whoever made it here is dead
    return file_system_now(path.parent) - touched > STALE_S


def _take_away(path: Path) -> None:
    """Remove a stale file; of several who try, one does."""
    aside = path.with_name(f"{path.name}.stale-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        aside.unlink()


def _touch_all() -> None:
    while True:
        time.sleep(TOUCH_S)
        with _guard:
            held = list(_held)
        for path in held:
            with suppress(OSError):
                os.utime(path)
