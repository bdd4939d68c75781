"""Every file of a source: a folder walked without following links to folders, a single file, or an unpacked archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.errors import DecodeError
from pipeline.intake.archive import unpack


@dataclass(frozen=True)
class FileState:
    """What changes when a file is written again: size, time of change, inode."""

    n_bytes: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path | os.DirEntry[str]) -> FileState:
        """The state of a file now; raises OSError where it is gone."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(slots=True)
class SourceFile:
    """One file: its path (None where there is nothing to open, `problem` then says why), and its path in the source.

    folder: `problem` concerns a folder. unsafe: it is an archive's member that was not unpacked. state: None where it
    was not asked for, or the file is an archive's member.
    """

    path: Path | None = field(repr=False)
    relative: str = field(repr=False)
    problem: str = ""
    unsafe: bool = False
    folder: bool = False
    state: FileState | None = None


def folder_files(source: Path, *, with_state: bool) -> Iterator[SourceFile]:
    """Every regular file below a folder in a fixed order, links to files included.

    Pipes, sockets and devices are passed over; links to nothing and folders that cannot be opened are told.
    with_state: ask for the state of each, before anything of it is read.
    """
    stack: list[tuple[Path, str]] = [(source, "")]
    while stack:
        folder, prefix = stack.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield SourceFile(None, prefix.rstrip("/") or ".", "the folder cannot be opened", folder=True)
            continue
        below: list[tuple[Path, str]] = []
        for entry in found:
            name = entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append((folder / name, f"{prefix}{name}/"))
                elif entry.is_file():
                    state = FileState.of(entry) if with_state else None
                    yield SourceFile(folder / name, prefix + name, state=state)
                elif entry.is_symlink() and not entry.is_dir() and not _is_there(entry):
                    yield SourceFile(None, prefix + name, "a link to nothing")
            except OSError:
                yield SourceFile(None, prefix + name, "gone while the folder was read")
        stack += reversed(below)


def _is_there(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:
        return False
    return True


def archive_members(source: Path, scratch: Path) -> Iterator[SourceFile]:
    """The files of an archive, unpacked below `scratch`; one file without a path where it is torn, encrypted or a bomb.

    Raises
    ------
    WorkspaceError: no room to unpack.
    """
    try:
        members = unpack(source, scratch)
    except DecodeError as error:
        yield SourceFile(None, source.name, error.what)
        return
    for member in members:
        yield SourceFile(member.path, member.name, member.unsafe, unsafe=bool(member.unsafe))
