"""Which studies of a server a pull looks at, which of them are known as they are, and which still arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.remote.opening import bucket_of
from flows.workspace import Workspace
from pipeline.exchange.dicomweb import days_before, is_same
from pipeline.exchange.pull_state import KnownSeries, PullState
from pipeline.exchange.qido import FoundStudy, find_instances, find_series, find_studies
from pipeline.exchange.web_client import WebClient
from pipeline.intake.volume_file import holds_volume

#: how far before its mark an automatic pull looks again: studies reach a PACS after their date
_OVERLAP_DAYS = 3
#: how often an automatic pull lists all, because studies reach a PACS long after their date
_LIST_ALL_S = 24 * 3600.0


@dataclass
class Listing:
    """One look at a server.

    policy: digest of the parameters of the ingest. settle_s: a study waits until its count of instances has not changed
    for so long; 0 waits for none. key_of: keyed digest of a UID.
    """

    workspace: Workspace
    state: PullState
    key_of: Callable[[str], str]
    policy: str
    modality: str
    settle_s: float = 0.0

    def __post_init__(self) -> None:
        # a working copy of a bucket has only the volumes that something asked for
        self._has_volumes = not bucket_of(self.workspace)
        self._lists_all = False
        self._late_before = ""

    def studies(self, client: WebClient, named: tuple[str, ...], since: str) -> list[FoundStudy]:
        """The studies to look at, oldest first. since: as of the request, "auto" for what is new since the mark."""
        if named:
            return [FoundStudy(uid, "") for uid in named]
        if since != "auto":
            self.state.begin(self.modality, since[:8])
            self._lists_all = not since
        else:
            mark = self.state.mark(self.modality)
            self._late_before = days_before(mark.day, _OVERLAP_DAYS) if mark.day else ""
            self._lists_all = not mark.day or not 0 <= time.time() - mark.listed_s < _LIST_ALL_S
            since = mark.floor if self._lists_all else self._late_before
        return list(find_studies(client, since=since, modality=self.modality))

    def ended(self, waiting: list[FoundStudy]) -> None:
        """Every study was looked at. waiting: those that are not stored; the usual look must find them again."""
        if self._lists_all and not any(study.moment[:8] < self._late_before for study in waiting):
            self.state.note_listed(self.modality, time.time())

    def advance(self, study: FoundStudy) -> None:
        """Everything up to this study is stored. A scanner whose clock runs ahead moves no mark beyond today."""
        if study.moment:
            self.state.advance(self.modality, min(study.moment[:8], f"{datetime.now(UTC):%Y%m%d}"))

    def known_series(self, study: FoundStudy) -> int | None:
        """How many series are known of a study that is stored as the server counts it; None where one has to ask."""
        known = self.state.study(self.key_of(study.uid))
        if study.n_instances is None or known.whole.get(self.modality) != study.n_instances:
            return None
        return len(known.series) if all(map(self._stands, known.series.values())) else None

    def n_unknown(self, studies: list[FoundStudy], limit: int) -> int:
        """How many studies one has to ask for, at most `limit` of them where that is not 0."""
        n = sum(self.known_series(study) is None for study in studies)
        return min(n, limit or n)

    def note_whole(self, study: FoundStudy) -> None:
        """All of a study is stored."""
        if study.n_instances is not None:
            self.state.note_whole(self.key_of(study.uid), self.modality, study.n_instances)

    def is_arriving(self, client: WebClient, study: FoundStudy) -> bool:
        """Whether a study may still grow."""
        if self.settle_s <= 0:
            return False
        count = _counted(client, study) if study.n_instances is None else study.n_instances
        return self.state.quiet_s(self.key_of(study.uid), count, time.time()) < self.settle_s

    def knowledge(self, study_key: str) -> Callable[[str, int | None, str | None], bool]:
        """Whether a series of a study has its outcome stored, as the server lists it now."""
        known = self.state.study(study_key).series

        def is_known(key: str, n_listed: int | None, listing: str | None) -> bool:
            entry = known.get(key)
            return entry is not None and is_same(entry, n_listed, listing) and self._stands(entry)

        return is_known

    def _stands(self, entry: KnownSeries) -> bool:
        return entry.policy in ("", self.policy) and all(
            self._is_stored(self.workspace.series_root / series) for series in entry.accepted
        )

    def _is_stored(self, folder: Path) -> bool:
        return (folder / "series.json").is_file() and (not self._has_volumes or holds_volume(folder))


def _counted(client: WebClient, study: FoundStudy) -> int:
    """Instances of a study on a server that does not count them for its list of studies."""
    found = find_series(client, study.uid)
    return sum(len(find_instances(client, one)) if one.n_instances is None else one.n_instances for one in found)
