"""Files into a backup and out of it: each with its digest, mode and time, and no file torn."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from data_contracts.backup import BackupFile, BackupFolder

_BLOCK = 1 << 20
_SQLITE = b"SQLite format 3\0"
_SIDECARS = ("-wal", "-shm", "-journal")
#: of processes at work, and what is made again when it is asked for
_PASSING = frozenset({".locks", ".users", "scratch", "cache", ".restore.json", "lost+found"})
#: what a backup of tables leaves out, beside volumes: a source or a `prepare` gives it again
_LARGE = frozenset({"datasets", "features", "inbox", "exchange"})
_SERIES_RECORD = "series.json"


class Tree:
    """What of a workspace belongs into a backup.

    Links are not followed below the top, where a folder may well lie on another disk; they are listed in `links`.
    """

    def __init__(self, root: Path, *, tables_only: bool) -> None:
        self.root = root
        self.links: set[str] = set()
        self._tables_only = tables_only

    def entries(self) -> Iterator[tuple[str, os.stat_result, bool]]:
        """(path below the root, state, whether it is a folder), folders before what they hold."""
        yield from self._below("")

    def _below(self, folder: str) -> Iterator[tuple[str, os.stat_result, bool]]:
        try:
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:  # moved or removed meanwhile
            return
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if self._is_out(path):
                continue
            if folder and entry.is_symlink():
                self.links.add(path)
                continue
            with suppress(FileNotFoundError):
                state = entry.stat()
                if entry.is_dir():
                    yield path, state, True
                    yield from self._below(path)
                elif entry.is_file():
                    yield path, state, False

    def _is_out(self, path: str) -> bool:
        top, _, rest = path.partition("/")
        name = path.rpartition("/")[2]
        is_half = name.startswith(".") and name.endswith(".tmp")
        if top in _PASSING or is_half or (not rest and name.startswith(".write-")):
            return True
        if name.endswith(_SIDECARS) and is_sqlite(self.root / path.rpartition("-")[0]):
            return True
        if top == "prefect" and rest:  # beside its database: notes of a running server
            return not is_sqlite(self.root / path)
        if not self._tables_only:
            return False
        return top in _LARGE or (top == "series" and path.count("/") == 2 and name != _SERIES_RECORD)


def is_sqlite(path: Path) -> bool:
    """Whether a file is a database of sqlite, which must not be copied while it is written."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


class Copies:
    """The copies of a tree below a folder, brought up to date as often as it is asked for.

    Parameters
    ----------
    prefix: folder of the backup that the tree goes to, as paths of the record begin.
    """

    def __init__(self, tree: Tree, backup: Path, prefix: str) -> None:
        self._tree, self._backup, self._prefix = tree, backup, prefix
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._files: dict[str, BackupFile] = {}
        self._folders: dict[str, BackupFolder] = {}
        self.databases: list[str] = []

    def update(self) -> int:
        """Copy what is new or changed, drop what is gone; returns how many files were copied.

        Databases are not copied, but listed in `databases`.
        """
        n_copied, there = 0, set()
        self.databases = []
        for path, state, is_folder in self._tree.entries():
            there.add(path)
            name = f"{self._prefix}/{path}"
            if is_folder:
                (self._backup / name).mkdir(parents=True, exist_ok=True)
                self._folders[path] = BackupFolder(path=name, mode=state.st_mode & 0o7777)
                continue
            if is_sqlite(self._tree.root / path):
                self.databases.append(path)
                continue
            mark = (state.st_size, state.st_mtime_ns, state.st_ino)
            if self._seen.get(path) == mark:
                continue
            try:
                self._files[path] = copy_file(self._tree.root / path, self._backup, name, state)
            except FileNotFoundError:
                there.discard(path)
                continue
            self._seen[path] = mark
            n_copied += 1
        self._drop(there)
        return n_copied

    def _drop(self, there: set[str]) -> None:
        for path in [path for path in self._files if path not in there]:
            (self._backup / self._files.pop(path).path).unlink(missing_ok=True)
            del self._seen[path]
        for path in sorted((path for path in self._folders if path not in there), reverse=True):
            (self._backup / self._folders.pop(path).path).rmdir()

    def put(self, path: str, write: Callable[[Path], None]) -> None:
        """Add a file of the tree that another writes, such as a database; its mode and time are those of the tree's."""
        state = (self._tree.root / path).stat()
        name = f"{self._prefix}/{path}"
        target = self._backup / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target)
        self._files[path] = described(target, name, mode=state.st_mode & 0o7777, changed_ns=state.st_mtime_ns)

    def files(self) -> list[BackupFile]:
        """Every file that was copied, by path."""
        return [self._files[path] for path in sorted(self._files)]

    def folders(self) -> list[BackupFolder]:
        """Every folder, parents first."""
        return [self._folders[path] for path in sorted(self._folders)]


def copy_file(source: Path, backup: Path, name: str, state: os.stat_result) -> BackupFile:
    """Copy one file to `name` below `backup`; the digest is of what was written, whatever becomes of the source."""
    target = backup / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = _copied(source, target)
    os.utime(target, ns=(state.st_mtime_ns, state.st_mtime_ns))
    target.chmod(state.st_mode & 0o7777)
    return BackupFile(path=name, bytes=size, sha256=digest, mode=state.st_mode & 0o7777, changed_ns=state.st_mtime_ns)


def described(target: Path, name: str, *, mode: int, changed_ns: int) -> BackupFile:
    """The entry of a file that stands in the backup already; it gets this mode."""
    target.chmod(mode)
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return BackupFile(path=name, bytes=target.stat().st_size, sha256=digest, mode=mode, changed_ns=changed_ns)


def put_back(backup: Path, file: BackupFile, target: Path) -> bool:
    """Copy a file out of a backup with its mode and time; whether it is what was put in."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = _copied(backup / file.path, target)
    target.chmod(file.mode)
    os.utime(target, ns=(file.changed_ns, file.changed_ns))
    return digest == file.sha256 and size == file.bytes


def fault_of(backup: Path, file: BackupFile) -> str:
    """What is wrong with a file of a backup; "" where nothing is."""
    path = backup / file.path
    try:
        if path.is_symlink() or path.stat().st_size != file.bytes:
            return "has another size"
        with path.open("rb") as stream:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if same else "was changed"


def _copied(source: Path, target: Path) -> tuple[str, int]:
    """(sha256, bytes) of what was written; nobody else may read the target before it has its mode."""
    digest, size = hashlib.sha256(), 0
    target.unlink(missing_ok=True)
    with source.open("rb") as read:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as write:
            while block := read.read(_BLOCK):
                digest.update(block)
                write.write(block)
                size += len(block)
    return digest.hexdigest(), size
