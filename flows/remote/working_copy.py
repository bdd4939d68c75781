"""The working copy of a bucket on this machine: bring in, hand on, and lose nothing that another machine wrote.

What a name says of its content is written once and never again (If-None-Match). A table is made anew from its parts,
which are in the bucket before it, and takes the place of the table that was there before the parts were listed, or is
made again (If-Match): so the last table to be written holds the parts of everybody. A kill leaves objects that no
record speaks of yet, and the next command goes on.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from data_contracts.errors import WorkspaceError
from flows.remote.kinds import TABLES, TIMED, Kind, file_of, kind_of, object_of
from flows.remote.memory import Memory
from flows.remote.merging import merge_into
from flows.remote.store import ChangedError, Entry, Store
from flows.workspace import Workspace

_AT_A_TIME = 8
_SAVE_EVERY = 200
_TABLE_ATTEMPTS = 50


class WorkingCopy:
    """The folder of a workspace beside its bucket.

    machine: a name of this machine's folder among those that share the bucket.
    Raises ExchangeError where the bucket's server does not answer or refuses.
    """

    def __init__(self, workspace: Workspace, store: Store, machine: str) -> None:
        self._workspace = workspace
        self._store = store
        self._machine = machine
        self._memory = Memory(workspace)

    def bring_in(self) -> int:
        """Take what others changed, but what is heavy and was not asked for; the number of files."""
        with self._workspace.lock("remote"):
            return self._bring_in(self._store.entries(), tables=True)

    def fetch(self, names: Iterable[str]) -> None:
        """Take the files that begin with one of these names and are not here; nothing is asked where all are files."""
        wanted = [name for name in names if not (self._workspace.root / name).is_file()]
        for below in wanted:
            self._take_all(self._store.entries(below))
        self._memory.keep()

    def hand_on(self) -> int:
        """Give the bucket what changed here; the number of objects."""
        with self._workspace.lock("remote"):
            changed = self._changed()
            for rank in range(4):
                names = sorted(name for name, kind in changed.items() if kind.rank == rank)
                self._each(names, lambda name: self._give(name, changed[name]))
                self._memory.keep()
            rooms = {name.partition("/")[0] for name, kind in changed.items() if kind.rank in (1, 2)}
            gone = self._give_up()
            tables = [name for name, kind in changed.items() if kind.rule == "table"]
            if tables or gone or rooms & {"series", "rejected", "annotations"}:
                self._hand_on_tables()
            return len(changed)

    def _take_all(self, entries: dict[str, Entry]) -> None:
        names = {file: name for name in entries if (file := file_of(name, self._machine)) is not None}
        missing = [file for file in names if not (self._workspace.root / file).exists()]
        self._each(sorted(missing, key=_rank), lambda file: self._take(file, names[file], entries[names[file]]))

    def _bring_in(self, entries: dict[str, Entry], *, tables: bool) -> int:
        wanted: dict[str, str] = {}
        for name, entry in entries.items():
            file = file_of(name, self._machine)
            kind = kind_of(file) if file is not None else None
            if file is None or kind is None or (kind.rule == "table" and not tables):
                continue
            known, path = self._memory.names.get(file), self._workspace.root / file
            if path.exists():
                is_ours = known is None or not known.is_as_was(path)
                if is_ours or (known is not None and known.etag == entry.etag):
                    continue
            elif kind.heavy or (known is not None and known.etag == entry.etag and file.startswith("annotations/")):
                continue  # asked for later, or taken out here and not yet there
            wanted[file] = name
        self._each(sorted(wanted, key=_rank), lambda file: self._take(file, wanted[file], entries[wanted[file]]))
        self._drop_what_others_took_out(entries)
        self._memory.keep()
        return len(wanted)

    def _take(self, file: str, name: str, entry: Entry) -> None:
        path = self._workspace.root / file
        self._store.fetch(name, path, keep_time=file.partition("/")[0] in TIMED and not _is_array(file))
        if file.startswith("identity/"):
            path.chmod(0o600)
        self._memory.note(file, entry)

    def _drop_what_others_took_out(self, entries: dict[str, Entry]) -> None:
        for file, known in list(self._memory.names.items()):
            path = self._workspace.root / file
            if file.startswith("annotations/") and file not in entries and known.is_as_was(path):
                path.unlink(missing_ok=True)
                self._memory.forget(file)

    def _changed(self) -> dict[str, Kind]:
        found: dict[str, Kind] = {}
        for folder, folders, files in os.walk(self._workspace.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                path = Path(folder) / file
                name = path.relative_to(self._workspace.root).as_posix()
                kind = kind_of(name)
                if kind is None or _is_others(name):
                    continue
                known = self._memory.names.get(name)
                if known is None or not known.is_as_was(path):
                    found[name] = kind
        return found

    def _give(self, file: str, kind: Kind) -> None:
        if kind.rule == "table":
            return
        path, name = self._workspace.root / file, object_of(file, self._machine)
        known = self._memory.names.get(file)
        expected = known.entry if known is not None and kind.rule != "same" else None
        for _ in range(_TABLE_ATTEMPTS):
            try:
                entry = self._store.put(name, path, expect=expected)
            except ChangedError:
                there = self._store.entry(name)
                if there is None:
                    expected = None
                    continue
                if there.etag == _md5(path):
                    return self._memory.note(file, there)
                if kind.rule == "same":
                    return self._take(file, name, there)
                if kind.rule == "own":
                    raise WorkspaceError(
                        "another machine of the same name and folder wrote to the audit in the bucket",
                        where=name,
                        todo="Give each machine a host name of its own.",
                    ) from None
                if kind.rule == "merge":
                    self._merge(file, name)
                expected = there
            else:
                return self._memory.note(file, entry)
        raise WorkspaceError("others write to the same file all the time", where=name, todo="Run the command again.")

    def _merge(self, file: str, name: str) -> None:
        with TemporaryDirectory(dir=self._workspace.root, prefix=".merge-") as folder:
            theirs = Path(folder) / Path(file).name
            self._store.fetch(name, theirs)
            merge_into(self._workspace, file, theirs)

    def _give_up(self) -> bool:
        """Delete the parts of annotations that were taken out here, unless another machine has changed them."""
        gone = False
        for file, known in list(self._memory.names.items()):
            if file.startswith("annotations/") and not (self._workspace.root / file).exists():
                if self._workspace.annotation_parts.is_dir() and self._store.entry(file) == known.entry:
                    self._store.remove(file)
                    gone = True
                self._memory.forget(file)
        self._memory.keep()
        return gone

    def _hand_on_tables(self) -> None:
        for attempt in range(_TABLE_ATTEMPTS):
            before = {name: self._store.entry(name) for name in TABLES}
            self._bring_in(self._store.entries(), tables=False)
            if self._workspace.series_root.is_dir() or self._workspace.rejected_parts.is_dir():
                self._workspace.rebuild_series_tables()
            if self._workspace.annotation_parts.is_dir():
                self._workspace.rebuild_nodule_table()
            try:
                for name in TABLES:
                    path, there = self._workspace.root / name, before[name]
                    if not path.exists():
                        continue
                    is_same = there is not None and there.etag == _md5(path)
                    entry = there if is_same and there else self._store.put(name, path, expect=there)
                    self._memory.note(name, entry)
            except ChangedError:
                time.sleep(random.uniform(0, 0.05 * 2 ** min(attempt, 6)))
                continue
            self._memory.keep()
            return
        raise WorkspaceError("other machines write to the tables all the time", todo="Run the command again.")

    def _each(self, names: list[str], work: Callable[[str], None]) -> None:
        if not names:
            return
        with ThreadPoolExecutor(min(_AT_A_TIME, len(names))) as pool:
            try:
                for number, _ in enumerate(pool.map(work, names), start=1):
                    if number % _SAVE_EVERY == 0:
                        self._memory.keep()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                self._memory.keep()
                raise


def _rank(file: str) -> tuple[int, str]:
    kind = kind_of(file)
    return (kind.rank if kind is not None else 0, file)


def _is_others(name: str) -> bool:
    """Whether a file came from another machine and is never changed here."""
    return name.startswith("rejected/") and "@" in name


def _is_array(name: str) -> bool:
    return name.endswith(".npy")


def _md5(path: Path) -> str:
    """What S3 calls an object of one piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
