"""The inbox: instances as they arrive, each safe on disk before its sender is told so, a folder a study.

    <root>/.incoming/           files that are being written; what a kill left there was never acknowledged
    <root>/<study>/             instances that arrived, named by digests
    <root>/.claimed/<study>-*/  settled studies that an ingest has taken over

A file that arrives while its study is being ingested finds the study's folder gone and begins a new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from data_contracts.errors import DecodeError
from data_contracts.records import digest_of
from pipeline.exchange.instance_file import examine

_Buffer = bytes | memoryview


class MismatchError(DecodeError):
    """The data set is another instance than the one that was announced."""


@dataclass(frozen=True)
class Received:
    """A file of the inbox. study: name of its folder. is_new: False where the same bytes were there already."""

    study: str
    is_new: bool


class Inbox:
    """The inbox below `root`.

    key: keyed digest of (kind, value), so that no name shows an identifier. reserve_bytes: left free on the disk.
    """

    def __init__(self, root: Path, key: Callable[[str, str], str], *, reserve_bytes: int = 256 * 2**20) -> None:
        self.root = root
        self._key = key
        self._reserve_bytes = reserve_bytes
        self._incoming = root / ".incoming"
        self._claimed = root / ".claimed"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._claimed.mkdir(exist_ok=True)

    def put(self, sender: str, sop_class_uid: str, sop_instance_uid: str, pieces: Iterable[_Buffer]) -> Received:
        """Store one DICOM file durably. The same bytes again change nothing; other bytes stand beside the first.

        Raises
        ------
        DecodeError: not a whole DICOM file.
        MismatchError: not the instance that was announced.
        OSError: the disk is full or cannot be written. Nothing of the file stays, whatever is raised.
        """
        if shutil.disk_usage(self.root).free < self._reserve_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary = self._incoming / secrets.token_hex(12)
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as stream:
                for piece in pieces:
                    digest.update(piece)
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            facts = examine(temporary)
            if (facts.sop_class_uid, facts.sop_instance_uid) != (sop_class_uid, sop_instance_uid):
                raise MismatchError("another instance than the one announced")
            study = self._key("inbox", f"{sender}\0{facts.study_instance_uid}")
            name = f"{self._key('uid', facts.sop_instance_uid)}-{digest.hexdigest()[:12]}.dcm"
            return Received(study, self._move(temporary, study, name))
        finally:
            temporary.unlink(missing_ok=True)

    def _move(self, temporary: Path, study: str, name: str) -> bool:
        folder = self.root / study
        while True:
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                _sync(self.root)
            is_new = not (folder / name).exists()
            if is_new:
                try:
                    temporary.replace(folder / name)
                except FileNotFoundError:
                    continue  # an ingest has just claimed the folder
            # One that is claimed now took the file along: the name is made durable wherever it is.
            for place in (folder, *self._claimed.glob(f"{study}-*")):
                with contextlib.suppress(FileNotFoundError):
                    _sync(place)
            return is_new

    def clear_unfinished(self) -> None:
        """Remove what a kill left half received; call it before anything is received."""
        for file in self._incoming.iterdir():
            file.unlink(missing_ok=True)

    def waiting(self) -> list[Path]:
        """Folders of the studies that are there and not claimed."""
        return sorted(folder for folder in self.root.iterdir() if folder.is_dir() and not folder.name.startswith("."))

    def claim_settled(self, settle_s: float, busy: Collection[str] = ()) -> list[Path]:
        """Take over the studies to which nothing was added for `settle_s`, and those a killed ingest had taken over.

        busy: names of folders to which an open association writes. One ingest at a time may claim.
        """
        now = time.time()
        for folder in self.waiting():
            if folder.name in busy:
                continue
            with contextlib.suppress(FileNotFoundError):
                files = sorted(file.name for file in folder.iterdir())
                if now - folder.stat().st_mtime >= settle_s and files:
                    self._claim(folder, digest_of(files, length=8))
        return sorted(self._claimed.iterdir())

    def _claim(self, folder: Path, content: str) -> None:
        for number in range(1000):
            target = self._claimed / f"{folder.name}-{content}{f'-{number}' if number else ''}"
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            _sync(self.root)
            return

    def remove(self, claimed: Path) -> None:
        """Remove a claimed study whose outcome is stored."""
        shutil.rmtree(claimed)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
