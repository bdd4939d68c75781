"""Sources that are ingested together, because each list and each table is a task; and what is heard of their series."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.series import Rejection, SeriesRecord
from flows.intake.known_sources import Outcome, SourceMemory
from flows.progress import Stage
from pipeline.intake.discover import RawSeries
from pipeline.intake.known_scan import KnownScan

#: groups that many sources make; each costs a task for its list, one for its tables, and its share of the batches
MOST_GROUPS = 16
#: what was ingested is noted at least so often, for a run that is killed
_NOTE_EVERY_S = 20.0


@dataclass
class Scanned:
    """A source whose files were listed. outcomes: of its series, by group key; of those that stand, none."""

    source: Path
    memory: SourceMemory
    found: KnownScan
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def items(self) -> Outcome:
        return [item for outcome in self.outcomes.values() for item in outcome]

    def note(self, *, tables: bool) -> None:
        """As `SourceMemory.note`."""
        self.memory.note(self.found, self.outcomes, tables=tables)


def scratch_of(memory: SourceMemory) -> Path:
    """Where a source that is an archive is unpacked; the caller removes it."""
    return memory.workspace.scratch_root / f"ingest-{os.getpid()}-{memory.key}"


def groups_of(sources: Sequence[Path], folder: Path) -> Iterator[tuple[Path, ...]]:
    """The sources in order, at most 16 groups of them; their archives are an eighth of the free disk of `folder`."""
    most = math.ceil(len(sources) / MOST_GROUPS)
    room = shutil.disk_usage(folder).free / 8
    group: list[Path] = []
    unpacked = 0.0
    for source in sources:
        n_bytes = source.stat().st_size if source.is_file() else 0
        if group and (len(group) >= most or unpacked + n_bytes > room):
            yield tuple(group)
            group, unpacked = [], 0.0
        group.append(source)
        unpacked += n_bytes
    if group:
        yield tuple(group)


def rounds_of(scanned: Sequence[Scanned]) -> Iterator[list[Scanned]]:
    """The sources of a group in order, none of which holds a series of another of its round.

    A series that lies in two sources is ingested once and then found there, as if the sources came one by one.
    """
    some: list[Scanned] = []
    taken: set[str] = set()
    for one in scanned:
        keys = {raw.group_key for raw in one.found.discovery.series}
        if taken & keys:
            yield some
            some, taken = [], set()
        some.append(one)
        taken |= keys
    if some:
        yield some


class Heard:
    """What is known of the outcomes of a round so far: each is shown once, and noted for the case of a kill."""

    def __init__(self, series: Sequence[tuple[Scanned, RawSeries]], progress: Stage, differences: list[str]) -> None:
        self._of = {raw.group_key: one for one, raw in series}
        self._progress = progress
        self._differences = differences
        self._noted = time.monotonic()
        self._not_noted: dict[str, Scanned] = {}
        self._guard = threading.Lock()

    def of(self, key: str, items: Outcome, damaged: list[str]) -> None:
        """Take the outcome of the series of a group key; a second time changes nothing."""
        one = self._of[key]
        with self._guard:
            if key in one.outcomes:
                return
            one.outcomes[key] = items
            self._not_noted[one.memory.key] = one
            self._differences += [f"a stored volume was damaged and is written again: {name}" for name in damaged]
            self._progress.advance("; ".join(_line(item) for item in items) or "nothing")
            if time.monotonic() - self._noted > _NOTE_EVERY_S:
                for changed in self._not_noted.values():
                    changed.note(tables=False)
                self._not_noted.clear()
                self._noted = time.monotonic()


def _line(item: SeriesRecord | Rejection) -> str:
    if isinstance(item, Rejection):
        return f"refused ({item.reason.value})"
    flags = ", ".join(finding.code.value for finding in item.findings)
    return f"series {item.series_key}, {item.n_slices} slices" + (f" ({flags})" if flags else "")
