"""Studies of a server that a pull has looked at, how many of them one ingest takes, and what that may cost."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from flows.running.batches import MOST_TASKS
from pipeline.exchange.dicomweb import PulledSeries
from pipeline.exchange.qido import FoundStudy

#: studies that are ingested at once where few are new, and bunches that many make
_FEW_STUDIES, _MOST_BUNCHES = 50, 64
#: what lies on the disk before its ingest: an eighth of the free disk, within these bounds
_LEAST_BYTES, _MOST_BYTES = 8 << 30, 64 << 30
#: studies are locked while they wait for their ingest; a slow server fills no bunch in that time
_MOST_WAIT_S = 900.0


@dataclass
class LookedAt:
    """A study in its turn. whole: its new series on disk. is_stored: whether the outcome of all of it is stored."""

    study: FoundStudy
    key: str = ""
    whole: list[PulledSeries] = field(default_factory=list)
    is_stored: bool = True


class Bunches:
    """Bunches of studies, each of which one ingest takes, and their shares of the task runs of a pull.

    n_studies: that may be new. folder: on the disk that takes what is fetched.
    """

    def __init__(self, n_studies: int, folder: Path) -> None:
        self._n_left = n_studies
        self._most = max(_FEW_STUDIES, math.ceil(n_studies / _MOST_BUNCHES))
        self._tasks_left = MOST_TASKS
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._n_bytes = self._n_studies = 0
        self._since_s: float | None = None
        self._room = min(max(_LEAST_BYTES, shutil.disk_usage(self._folder).free // 8), _MOST_BYTES)

    def is_full(self, looked: LookedAt) -> bool:
        """Whether the bunch, with a study that was just looked at, is as much as one ingest takes."""
        if looked.whole:
            self._n_studies += 1
            self._since_s = self._since_s or time.monotonic()
            folders = (series.retrieved.folder for series in looked.whole)
            self._n_bytes += sum(file.stat().st_size for folder in folders for file in folder.iterdir())
        return (
            self._n_studies >= self._most
            or self._n_bytes >= self._room
            or (self._since_s is not None and time.monotonic() - self._since_s >= _MOST_WAIT_S)
        )

    def end(self) -> int:
        """Begin another bunch; how many task runs the ingest of this one may cost, at least one."""
        if not self._n_studies:
            return 1
        share = self._tasks_left * self._n_studies // max(self._n_left, self._n_studies)
        share = max(share, 1)
        self._tasks_left = max(self._tasks_left - share, 0)
        self._n_left = max(self._n_left - self._n_studies, 0)
        self._begin()
        return share
