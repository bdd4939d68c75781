"""The mark of a restore that is at work: of which backup, and which databases it has begun to fill."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path

from data_contracts.backup import BackupManifest
from data_contracts.records import digest_of, write_bytes_atomic
from flows.workspace import UNRESTORED


class Mark:
    """The file that says so, in the folder of the workspace."""

    def __init__(self, root: Path, manifest: BackupManifest) -> None:
        self._file = root / UNRESTORED
        self._own = digest_of([manifest.created_utc, manifest.mac])

    def is_ours(self) -> bool:
        """Whether a restore of this backup was cut off here."""
        lines = self._lines()
        return bool(lines) and hmac.compare_digest(lines[0].encode(), self._own.encode())

    def begun(self) -> frozenset[str]:
        """Places of databases that a restore of this backup has begun to fill: what is in them is its own."""
        return frozenset(self._lines()[1:]) if self.is_ours() else frozenset()

    def write(self, begun: Iterable[str] = ()) -> None:
        """Mark the folder; what was begun before stays so."""
        write_bytes_atomic(self._file, "\n".join([self._own, *sorted({*self.begun(), *begun})]).encode())

    def remove(self) -> None:
        """The restore is done."""
        self._file.unlink()

    def _lines(self) -> list[str]:
        try:
            return self._file.read_text(errors="replace").splitlines()
        except OSError:
            return []
