"""What a working copy knows of its bucket: for each file, as it was when it and its object were last the same."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import NamedTuple

from data_contracts.records import write_bytes_atomic
from flows.remote.address import MARK
from flows.remote.store import Entry
from flows.workspace import Workspace


class Known(NamedTuple):
    """Size and time of change of the file, and the entry of the object."""

    size_bytes: int
    changed_ns: int
    etag: str

    def is_as_was(self, path: Path) -> bool:
        """Whether the file is as it was."""
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size_bytes, self.changed_ns)

    @property
    def entry(self) -> Entry:
        return Entry(self.etag, self.size_bytes)


class Memory:
    """Names to what is known of them; kept in .remote/state.json, by several processes of one machine."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._file = workspace.root / MARK / "state.json"
        self._guard = threading.Lock()
        self._fresh: dict[str, Known | None] = {}
        self.names: dict[str, Known] = self._read()

    def note(self, name: str, entry: Entry) -> None:
        """The file and its object are the same now."""
        found = (self._workspace.root / name).stat()
        with self._guard:
            self.names[name] = self._fresh[name] = Known(found.st_size, found.st_mtime_ns, entry.etag)

    def forget(self, name: str) -> None:
        """There is no such object."""
        with self._guard:
            self.names.pop(name, None)
            self._fresh[name] = None

    def keep(self) -> None:
        """Write what is new, beside what other processes have written."""
        with self._guard:
            fresh, self._fresh = self._fresh, {}
        if not fresh:
            return
        with self._workspace.lock("remote-state"):
            merged: dict[str, Known | None] = {**self._read(), **fresh}
            kept = {name: known for name, known in merged.items() if known is not None}
            write_bytes_atomic(self._file, json.dumps(kept, separators=(",", ":")).encode())

    def _read(self) -> dict[str, Known]:
        try:
            return {name: Known(*values) for name, values in json.loads(self._file.read_bytes()).items()}
        except (OSError, ValueError, TypeError):
            return {}
