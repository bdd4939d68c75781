"""Archives of DICOM files, unpacked so that no member can do harm."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from data_contracts.errors import DecodeError, NoduleflowError, WorkspaceError

#: bounds that no CT study reaches
MAX_MEMBERS = 500_000
MAX_MEMBER_BYTES = 8 * 2**30
#: a tar.xz of CT slices shrinks by 2 to 4; far beyond that it is a bomb
MAX_RATIO = 200
_RATIO_FROM_BYTES = 256 * 2**20
#: left free on the disk
_RESERVE_BYTES = 512 * 2**20
_CHUNK_BYTES = 1 << 20
_ZIP = (b"PK\3\4", b"PK\5\6")
#: beginnings of what a tar may be packed in
_PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,
}
#: a header of a tar is read whole into memory; one for names and times is smaller than this
_MAX_HEADER_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Member:
    """One member of an archive: where it was unpacked, or why not (`unsafe`). name: its path in the archive."""

    name: str
    path: Path | None
    unsafe: str = ""


def is_archive(path: Path) -> bool:
    """Whether the file is a zip or a tar, by its content."""
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        return False
    if head[:4] in _ZIP:
        return True
    try:
        with _tar_stream(path, None) as inside, _tar(inside):
            return True
    except (tarfile.TarError, DecodeError, OSError, lzma.LZMAError, zlib.error, EOFError, ValueError):
        return False


def _begins_as_zip(path: Path) -> bool:
    """By the beginning: the end of a tar is a zip's where its last member is one."""
    with path.open("rb") as stream:
        return stream.read(4) in _ZIP


def unpack(path: Path, scratch: Path) -> list[Member]:
    """Unpack the regular files of a .zip or .tar(.gz/.bz2/.xz) below `scratch`, under numbers instead of their names.

    Members that are links or devices, leave their folder or grow beyond the bounds are not unpacked and come back
    as unsafe.

    Raises
    ------
    DecodeError: the archive is torn, encrypted or grows like a bomb.
    WorkspaceError: the disk has no room.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    budget = _Budget(path.stat().st_size, shutil.disk_usage(scratch).free - _RESERVE_BYTES)
    try:
        members = _zip_members(path) if _begins_as_zip(path) else _tar_members(path, budget.ratio_bytes)
        found = []
        for number, (name, unsafe, stream) in enumerate(members):
            if number >= MAX_MEMBERS:
                raise DecodeError(f"the archive has more than {MAX_MEMBERS} members")
            unsafe = unsafe or _unsafe_name(name)
            if unsafe or stream is None:
                found.append(Member(name, None, unsafe or "not a regular file"))
                continue
            target = scratch / f"{number:06d}"
            with stream, target.open("wb") as out:
                complete = budget.copy(stream, out)
            if not complete:
                target.unlink()
            found.append(Member(name, target if complete else None, "" if complete else "larger than any CT slice"))
        return found
    except NoduleflowError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ):
        raise DecodeError("the archive is torn or encrypted", todo="Pack it again.") from None


def _unsafe_name(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        return "leaves its folder"
    return ""


class _Budget:
    """Bytes an archive may still become."""

    def __init__(self, archive_bytes: int, room_bytes: int) -> None:
        self._room = room_bytes
        self.ratio_bytes = max(archive_bytes * MAX_RATIO, _RATIO_FROM_BYTES)
        self._total = 0

    def copy(self, source: IO[bytes], target: IO[bytes]) -> bool:
        """Copy a member; False where it is larger than one may be."""
        size = 0
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            self._total += len(chunk)
            if size > MAX_MEMBER_BYTES:
                return False
            if self._total > self.ratio_bytes:
                raise DecodeError(f"the archive grows more than {MAX_RATIO}-fold", todo="Unpack it by hand.")
            if self._total > self._room:
                raise WorkspaceError("no room on the disk to unpack the archive", todo="Free disk space.")
            target.write(chunk)
        return True


def _zip_members(path: Path) -> Iterator[tuple[str, str, IO[bytes] | None]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            unsafe = "a link or a device" if kind not in (0, stat.S_IFREG) else ""
            yield info.filename, unsafe, None if unsafe else archive.open(info)


def _tar_members(path: Path, most_bytes: int) -> Iterator[tuple[str, str, IO[bytes] | None]]:
    with _tar_stream(path, most_bytes) as stream, _tar(stream) as archive:
        for info in archive:
            if info.isdir():
                continue
            unsafe = "" if info.isreg() else "a link or a device"
            yield info.name, unsafe, None if unsafe else archive.extractfile(info)
            archive.members = []  # type: ignore[attr-defined]  # every member is seen once


def _tar(stream: _Forward) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:")


@contextmanager
def _tar_stream(path: Path, most_bytes: int | None) -> Iterator[_Forward]:
    """What a tar holds, unpacked as it is read."""
    with path.open("rb") as stream:
        head = stream.read(6)
    opener = next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)
    with opener(path) if opener is not None else path.open("rb") as source:
        yield _Forward(cast("IO[bytes]", source), most_bytes if opener is not None else None)


class _Forward:
    """A stream read forward in small pieces: tarfile takes a header of any length into memory, and skips any member.

    most_bytes: what the archive may grow to; None where it is not packed.
    """

    def __init__(self, source: IO[bytes], most_bytes: int | None) -> None:
        self._source = source
        self._most = most_bytes
        self._at = 0

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def seek(self, place: int, whence: int = 0) -> int:
        """Go on to `place`; raises TarError where that is behind."""
        if whence or place < self._at:
            raise tarfile.ReadError("not read forward")
        if self._most is None:
            self._at = self._source.seek(place)
        while self._at < place and self.read(min(place - self._at, _CHUNK_BYTES)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; raises DecodeError beyond the bounds."""
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise DecodeError("a header in the archive is larger than any name", todo="Unpack it by hand.")
        found = self._source.read(size)
        self._at += len(found)
        if self._most is not None and self._at > self._most:
            raise DecodeError(f"the archive grows more than {MAX_RATIO}-fold", todo="Unpack it by hand.")
        return found
