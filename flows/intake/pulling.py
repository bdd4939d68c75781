"""What a pull has to do: what is new on a server, fetched, handed to the ingest some studies at a time, and remembered.

No Prefect here: a pull that finds nothing new needs no server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any

from data_contracts.errors import ExchangeError, NothingUsableError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from flows.intake.looked_at import Bunches, LookedAt
from flows.intake.pull_listing import Listing
from flows.intake.pull_request import PrivatePull
from flows.progress import say, stage
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.exchange.dicomweb import PulledSeries, pull_study
from pipeline.exchange.pull_state import KnownSeries, PullState
from pipeline.exchange.qido import FoundStudy, find_series
from pipeline.exchange.wado import remove_series
from pipeline.exchange.web_client import WebClient
from pipeline.exchange.web_server import WebServer

#: outcomes that another attempt can change, so that the files stay for it
PASSING_REASONS = {ReasonCode.LOW_DISK_SPACE, ReasonCode.INTERNAL_ERROR}
#: ingests folders, and gives the record of an ingest; raises NothingUsableError
IngestFolders = Callable[[tuple[Path, ...]], dict[str, Any]]
_COUNTED = (
    "studies_without_series",
    "studies_arriving",
    "series_known",
    "series_fetched",
    "instances_fetched",
    "instances_resumed",
    "new",
)


class Pull:
    """One pull: its server's records, its counts, and what is not whole. n_tasks: that the next ingest may cost."""

    def __init__(
        self, workspace: Workspace, request: PrivatePull, server: WebServer, site: str, params: IngestParams, keep: bool
    ) -> None:
        self.workspace = workspace
        self.request = request
        self.server = server
        self.site = site
        self.params = params
        self.keep_identity = keep
        self.pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep)
        self.server_key = self.pseudonymizer.key("server", server.root)
        self.state = PullState(workspace.exchange_root / self.server_key, self.pseudonymizer.secret)
        self.listing = Listing(
            workspace, self.state, self.pseudonymizer.uid_key, params.digest(), request.modality, request.settle_s
        )
        self.counts, self.refused = Counter[str](), Counter[str]()
        self.series_keys: set[str] = set()
        self.study_keys: set[str] = set()
        self.gaps: list[str] = []
        self.n_tasks = 1

    def nothing_new(self) -> dict[str, Any] | None:
        """The record of a pull that finds every series known; None where there is something to do."""
        with WebClient(self.server) as client:
            studies = self.listing.studies(client, self.request.study_uids, self.request.since)
            looked: list[LookedAt] = []
            for study in studies:
                if (passed := self._passed_over(client, study)) is None:
                    if (n_known := self._all_known(client, study)) is None:
                        self.counts.clear()
                        return None
                    self.listing.note_whole(study)
                    passed = self._known(study, n_known)
                looked.append(passed)
        self._end(looked)
        return self.record(len(studies))

    def _all_known(self, client: WebClient, study: FoundStudy) -> int | None:
        """How many series the server lists of a study, where all of them are known."""
        is_known = self.listing.knowledge(self.pseudonymizer.uid_key(study.uid))
        series = find_series(client, study.uid, modality=self.request.modality)
        known = [is_known(self.pseudonymizer.uid_key(item.uid), item.n_instances, None) for item in series]
        return len(series) if all(known) and all(item.n_instances is not None for item in series) else None

    def run(self, ingest: IngestFolders) -> dict[str, Any]:
        """Every study, oldest first; the mark follows as long as everything before it is stored.

        Raises
        ------
        NothingUsableError: something was fetched, and nothing of it could be used; or no named study is there.
        ExchangeError: the server stopped answering; what is on disk stays.
        """
        n_fetched = 0
        looked: list[LookedAt] = []
        done: list[LookedAt] = []
        with WebClient(self.server) as client, ExitStack() as locks:

            def store() -> None:
                self.n_tasks = bunches.end()
                self._ingest([one for one in looked if one.whole], ingest)
                locks.close()
                done.extend(looked)
                looked.clear()
                self._advance(done)

            studies = self.listing.studies(client, self.request.study_uids, self.request.since)
            bunches = Bunches(self.listing.n_unknown(studies, self.request.limit), self.workspace.root)
            with stage("pull", len(studies)) as progress:
                for study in studies:
                    if self.request.limit and n_fetched >= self.request.limit:
                        break
                    before = self.counts["series_fetched"] + len(self.gaps)
                    try:
                        self._look(client, study, looked, locks, store)
                        if bunches.is_full(looked[-1]):
                            store()
                    except ExchangeError:
                        store()  # what came before the server went away is whole
                        raise
                    except OSError as error:
                        raise WorkspaceError(
                            f"what is fetched cannot be written ({error.strerror})",
                            where=str(self.workspace.scratch_root),
                            todo="Make room, and run the same command again to go on.",
                        ) from None
                    n_new = self.counts["series_fetched"] + len(self.gaps) - before
                    n_fetched += n_new > 0
                    progress.advance(f"{n_new} new series" if n_new else "nothing new")
                store()
        if len(done) == len(studies):
            self._end(done)
        return self.record(len(studies))

    def _advance(self, looked: list[LookedAt]) -> None:
        """Move the mark as far as everything before it is stored."""
        if stored := list(takewhile(lambda one: one.is_stored, looked)):
            self.listing.advance(stored[-1].study)

    def _end(self, looked: list[LookedAt]) -> None:
        self._advance(looked)
        self.listing.ended([one.study for one in looked if not one.is_stored])

    def _look(
        self,
        client: WebClient,
        study: FoundStudy,
        looked: list[LookedAt],
        locks: ExitStack,
        store: Callable[[], None],
    ) -> None:
        """Bring what is new of a study; it is locked until it is ingested."""
        if (passed := self._passed_over(client, study)) is not None:
            looked.append(passed)
            return
        key = self.pseudonymizer.uid_key(study.uid)
        try:
            locks.enter_context(self.workspace.lock(f"pull-{key}", 0))
        except WorkspaceError:
            store()  # another pull has it, and may wait for what we hold
            locks.enter_context(self.workspace.lock(f"pull-{key}"))
        looked.append(self._fetched(client, study, key))

    def _passed_over(self, client: WebClient, study: FoundStudy) -> LookedAt | None:
        """A study that is known as it is, or still arrives, counted; None for one whose series are to be asked for."""
        if (n_known := self.listing.known_series(study)) is not None:
            return self._known(study, n_known)
        if self.listing.is_arriving(client, study):
            self.counts["studies_arriving"] += 1
            return LookedAt(study, is_stored=False)
        return None

    def _known(self, study: FoundStudy, n_series: int) -> LookedAt:
        self.counts["series_known"] += n_series
        self.counts["studies_without_series"] += not n_series
        return LookedAt(study)

    def _fetched(self, client: WebClient, study: FoundStudy, key: str) -> LookedAt:
        """A study whose new series are on disk now."""
        found = 0
        one = LookedAt(study, key)
        for series in pull_study(
            client,
            study.uid,
            self.workspace.scratch_root / "pull" / self.server_key / key,
            modality=self.request.modality,
            key_of=self.pseudonymizer.uid_key,
            is_known=self.listing.knowledge(key),
        ):
            found += 1
            if series is None:
                self.counts["series_known"] += 1
                continue
            self.counts["instances_fetched"] += series.retrieved.n_fetched
            self.counts["instances_resumed"] += series.retrieved.n_kept
            if series.gap:
                self._refuse(series)
                one.is_stored = False
            else:
                one.whole.append(series)
        self.counts["studies_without_series"] += not found
        self.counts["series_fetched"] += len(one.whole)
        if one.is_stored and not one.whole:
            self.listing.note_whole(study)
        return one

    def _source_key(self, folder: Path) -> str:
        return self.pseudonymizer.uid_key(str(folder.resolve()))

    def _refuse(self, series: PulledSeries) -> None:
        """A series with a gap is listed and never ingested; its files stay for the next run."""
        self.gaps.append(series.gap)
        self.refused[ReasonCode.INCOMPLETE_TRANSFER.value] += 1
        rejection = Rejection(
            path=series.key,
            reason=ReasonCode.INCOMPLETE_TRANSFER,
            detail=series.gap,
            sop_instance_uids=self.pseudonymizer.uids(sorted(series.retrieved.missing)),
            series_instance_uid=series.uid if self.keep_identity else None,
        )
        self.workspace.add_rejections(self._source_key(series.retrieved.folder), [rejection])
        self.workspace.rebuild_series_tables()

    def _ingest(self, looked: list[LookedAt], ingest: IngestFolders) -> None:
        """The usual ingest on the fetched folders of some studies; each outcome is noted, and its files are removed."""
        if not looked:
            return
        try:
            record = ingest(tuple(series.retrieved.folder for one in looked for series in one.whole))
        except NothingUsableError:
            record = {"series_keys": [], "study_keys": [], "new": 0}
        accepted: dict[str, list[str]] = {}
        for key in record["series_keys"]:
            stored = SeriesRecord.read(self.workspace.series_root / key / "series.json")
            accepted.setdefault(stored.series_uid_key, []).append(key)
        self.series_keys |= set(record["series_keys"])
        self.study_keys |= set(record["study_keys"])
        self.counts["new"] += record["new"]
        for one in looked:
            self._note(one, accepted)

    def _note(self, one: LookedAt, accepted: dict[str, list[str]]) -> None:
        """Remember the outcome of a study that was ingested. accepted: series keys by the key of the series' UID."""
        notes: dict[str, KnownSeries] = {}
        for series in one.whole:
            reasons = self.workspace.rejection_reasons(self._source_key(series.retrieved.folder))
            self.refused.update(reason.value for reason in reasons)
            if PASSING_REASONS & set(reasons):
                one.is_stored = False
                continue
            notes[series.key] = KnownSeries(
                n_listed=series.n_listed,
                listing=series.listing,
                accepted=tuple(sorted(accepted.get(series.key, []))),
                policy=self.params.digest() if reasons else "",
            )
        self.state.note(one.key, notes)
        if one.is_stored:
            self.listing.note_whole(one.study)
        if not self.request.keep_files:
            for series in one.whole:
                if series.key in notes:
                    remove_series(series.retrieved.folder)
                    self.workspace.forget_source(self._source_key(series.retrieved.folder))

    def record(self, n_studies: int) -> dict[str, Any]:
        """The answer of the command."""
        fetched, known = self.counts["series_fetched"] + len(self.gaps), self.counts["series_known"]
        if self.request.study_uids and self.counts["studies_without_series"] == n_studies:
            raise NothingUsableError(
                "the server has no such study", where=self.server.name, todo="Check the UIDs, and --modality."
            )
        if n_arriving := self.counts["studies_arriving"]:
            say(f"pull: {n_arriving} studies are still arriving and wait for the next run")
        if not fetched:
            say(f"pull: nothing new; {known} series were fetched before" if known else "pull: nothing new")
        elif not self.series_keys and not self.gaps:
            raise NothingUsableError(
                "no usable CT series in what was fetched",
                where=", ".join(f"{count} x {reason}" for reason, count in sorted(self.refused.items())),
                todo="rejected.parquet lists each item with its reason.",
            )
        return {
            "studies": n_studies,
            **{name: self.counts[name] for name in _COUNTED},
            "accepted": len(self.series_keys),
            "refused": dict(sorted(self.refused.items())),
            "incomplete": self.gaps,
            "series_keys": sorted(self.series_keys),
            "study_keys": sorted(self.study_keys),
        }
