"""Studies of a server that a pull has looked at, and how many of them one ingest takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.exchange.dicomweb import PulledSeries
from pipeline.exchange.qido import FoundStudy

#: studies that are ingested in one run: each run costs the Prefect server some tasks, and a kill loses the ingest of it
_STUDIES_OF_A_RUN, _BYTES_OF_A_RUN = 50, 8 << 30


@dataclass
class LookedAt:
    """A study in its turn. whole: its new series on disk. is_stored: whether the outcome of all of it is stored."""

    study: FoundStudy
    key: str = ""
    whole: list[PulledSeries] = field(default_factory=list)
    is_stored: bool = True


def is_enough(looked: list[LookedAt]) -> bool:
    """Whether what was fetched is as much as one ingest takes."""
    fetched = [series for one in looked for series in one.whole]
    n_bytes = sum(file.stat().st_size for series in fetched[-1:] for file in series.retrieved.folder.iterdir())
    return sum(bool(one.whole) for one in looked) >= _STUDIES_OF_A_RUN or n_bytes * len(fetched) >= _BYTES_OF_A_RUN
