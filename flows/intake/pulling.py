"""What a pull has to do, study by study: what is new on a server, fetched, handed to the ingest, and remembered.

No Prefect here: a pull that finds nothing new needs no server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_serializer

from data_contracts.errors import NothingUsableError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from flows.progress import say, stage
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.exchange.dicomweb import PulledSeries, days_before, is_same, pull_study
from pipeline.exchange.pull_state import KnownSeries, PullState
from pipeline.exchange.qido import FoundStudy, find_series, find_studies
from pipeline.exchange.wado import remove_series
from pipeline.exchange.web_client import WebClient
from pipeline.exchange.web_server import WebServer

#: how far before its mark an automatic pull looks again: studies reach a PACS after their date
_OVERLAP_DAYS = 3
#: outcomes that another attempt can change, so that the files stay for it
PASSING_REASONS = {ReasonCode.LOW_DISK_SPACE, ReasonCode.INTERNAL_ERROR}
#: ingests folders, and gives the record of an ingest; raises NothingUsableError
IngestFolders = Callable[[tuple[Path, ...]], dict[str, Any]]
_COUNTED = (
    "studies_without_series",
    "series_known",
    "series_fetched",
    "instances_fetched",
    "instances_resumed",
    "new",
)


class PrivatePull(BaseModel):
    """What to pull. UIDs and dates are identity, so Prefect's database sees only how many studies are named.

    since: "", a moment as QIDO compares it, or "auto". limit: most studies that are fetched, 0 for all.
    """

    url: str
    study_uids: tuple[str, ...] = ()
    since: str = ""
    modality: str = "CT"
    limit: int = 0
    keep_files: bool = False

    @model_serializer
    def hide(self) -> dict[str, int]:
        return {"n_studies": len(self.study_uids)}


class Pull:
    """One pull: its server's records, its counts, and what is not whole."""

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
        self.state = PullState(workspace.exchange_root / self.server_key)
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.series_keys: set[str] = set()
        self.study_keys: set[str] = set()
        self.gaps: list[str] = []

    def nothing_new(self) -> dict[str, Any] | None:
        """The record of a pull that finds every series known; None where there is something to do."""
        with WebClient(self.server) as client:
            studies = self.studies(client)
            for study in studies:
                study_key = self.pseudonymizer.uid_key(study.uid)
                is_known = self._knowledge(study_key)
                series = find_series(client, study.uid, modality=self.request.modality)
                n_known = sum(is_known(self.pseudonymizer.uid_key(item.uid), item.n_instances, None) for item in series)
                if n_known < len(series) or any(item.n_instances is None for item in series):
                    return None
                self.counts["series_known"] += n_known
                self.counts["studies_without_series"] += not series
        for study in studies:
            self._advance(study)
        return self.record(len(studies))

    def run(self, ingest: IngestFolders) -> dict[str, Any]:
        """Every study, oldest first; the mark follows as long as everything before it is stored.

        Raises
        ------
        NothingUsableError: something was fetched, and nothing of it could be used; or no named study is there.
        ExchangeError: the server stopped answering; what is on disk stays.
        """
        may_advance, n_fetched = True, 0
        with WebClient(self.server) as client:
            studies = self.studies(client)
            with stage("pull", len(studies)) as progress:
                for study in studies:
                    if self.request.limit and n_fetched >= self.request.limit:
                        break
                    before = self.counts["series_fetched"] + len(self.gaps)
                    try:
                        is_stored = self._study(client, study.uid, ingest)
                    except OSError as error:
                        raise WorkspaceError(
                            f"what is fetched cannot be written ({error.strerror})",
                            where=str(self.workspace.scratch_root),
                            todo="Make room, and run the same command again to go on.",
                        ) from None
                    n_new = self.counts["series_fetched"] + len(self.gaps) - before
                    n_fetched += n_new > 0
                    may_advance = may_advance and is_stored
                    if may_advance:
                        self._advance(study)
                    progress.advance(f"{n_new} new series" if n_new else "nothing new")
        return self.record(len(studies))

    def studies(self, client: WebClient) -> list[FoundStudy]:
        """The studies to look at, oldest first."""
        if self.request.study_uids:
            return [FoundStudy(uid, "") for uid in self.request.study_uids]
        since = self.request.since
        if since == "auto":
            mark = self.state.mark(self.request.modality)
            since = days_before(mark, _OVERLAP_DAYS) if mark else ""
        return list(find_studies(client, since=since, modality=self.request.modality))

    def _advance(self, study: FoundStudy) -> None:
        """Everything up to this study is stored. A scanner whose clock runs ahead moves no mark beyond today."""
        if study.moment:
            self.state.advance(self.request.modality, min(study.moment[:8], f"{datetime.now(UTC):%Y%m%d}"))

    def _knowledge(self, study_key: str) -> Callable[[str, int | None, str | None], bool]:
        """Whether a series of a study has its outcome stored, as the server lists it now."""
        known = self.state.study(study_key).series
        policy = self.params.digest()

        def is_known(key: str, n_listed: int | None, listing: str | None) -> bool:
            entry = known.get(key)
            return (
                entry is not None
                and is_same(entry, n_listed, listing)
                and entry.policy in ("", policy)
                and all((self.workspace.series_root / series / "series.json").is_file() for series in entry.accepted)
            )

        return is_known

    def _study(self, client: WebClient, study_uid: str, ingest: IngestFolders) -> bool:
        """Bring and ingest what is new of a study; whether all of it is stored now."""
        study_key = self.pseudonymizer.uid_key(study_uid)
        folder = self.workspace.scratch_root / "pull" / self.server_key / study_key
        with self.workspace.lock(f"pull-{study_key}"):
            found = 0
            whole: list[PulledSeries] = []
            n_gaps = len(self.gaps)
            for series in pull_study(
                client,
                study_uid,
                folder,
                modality=self.request.modality,
                key_of=self.pseudonymizer.uid_key,
                is_known=self._knowledge(study_key),
            ):
                found += 1
                if series is None:
                    self.counts["series_known"] += 1
                    continue
                self.counts["instances_fetched"] += series.retrieved.n_fetched
                self.counts["instances_resumed"] += series.retrieved.n_kept
                if series.gap:
                    self._refuse(series)
                else:
                    whole.append(series)
            if not found:
                self.counts["studies_without_series"] += 1
            self.counts["series_fetched"] += len(whole)
            is_stored = self._ingest(study_key, whole, ingest) if whole else True
        return is_stored and len(self.gaps) == n_gaps

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

    def _ingest(self, study_key: str, whole: list[PulledSeries], ingest: IngestFolders) -> bool:
        """The usual ingest on the fetched folders; each outcome is noted, and its files are removed."""
        folders = tuple(series.retrieved.folder for series in whole)
        try:
            record = ingest(folders)
        except NothingUsableError:
            record = {"series_keys": [], "study_keys": [], "new": 0}
        accepted: dict[str, list[str]] = {}
        for key in record["series_keys"]:
            stored = SeriesRecord.read(self.workspace.series_root / key / "series.json")
            accepted.setdefault(stored.series_uid_key, []).append(key)
        self.series_keys |= set(record["series_keys"])
        self.study_keys |= set(record["study_keys"])
        self.counts["new"] += record["new"]
        is_stored = True
        notes: dict[str, KnownSeries] = {}
        for series in whole:
            reasons = self.workspace.rejection_reasons(self._source_key(series.retrieved.folder))
            self.refused.update(reason.value for reason in reasons)
            if PASSING_REASONS & set(reasons):
                is_stored = False
                continue
            notes[series.key] = KnownSeries(
                n_listed=series.n_listed,
                listing=series.listing,
                accepted=tuple(sorted(accepted.get(series.key, []))),
                policy=self.params.digest() if reasons else "",
            )
        self.state.note(study_key, notes)
        if not self.request.keep_files:
            for series in whole:
                if series.key in notes:
                    remove_series(series.retrieved.folder)
                    self.workspace.forget_source(self._source_key(series.retrieved.folder))
        return is_stored

    def record(self, n_studies: int) -> dict[str, Any]:
        """The answer of the command."""
        fetched, known = self.counts["series_fetched"] + len(self.gaps), self.counts["series_known"]
        if self.request.study_uids and self.counts["studies_without_series"] == n_studies:
            raise NothingUsableError(
                "the server has no such study", where=self.server.name, todo="Check the UIDs, and --modality."
            )
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
