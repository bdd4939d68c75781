"""What is known of the sources of a workspace, and the answer of an ingest that finds nothing new in them.

No Prefect here: an ingest with nothing to do needs no server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.errors import NoduleflowError
from data_contracts.params import IngestParams
from data_contracts.records import digest_of
from data_contracts.series import Rejection, SeriesRecord
from flows.intake.series_choice import states_another
from flows.intake.sources import PrivatePaths
from flows.progress import say
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.known_scan import KnownScan, known_after, scan_source
from pipeline.intake.known_source import FileDigests, KnownSource, program_digest, read_known, write_known

Outcome = list[SeriesRecord | Rejection]

#: files that may be read again without a server: those whose refusal is never taken for granted
_FEW_FILES = 64


@dataclass(frozen=True)
class SourceMemory:
    """What is known of one source under one policy, site and program."""

    key: str
    workspace: Workspace
    pseudonymizer: Pseudonymizer
    known: KnownSource

    @classmethod
    def of(
        cls,
        source: Path,
        workspace: Workspace,
        pseudonymizer: Pseudonymizer,
        params: IngestParams,
        site: str,
        *,
        leave_known: bool = False,
    ) -> SourceMemory:
        """leave_known: as in `ingest_flow`; what it left was not ingested under this policy and site."""
        key = pseudonymizer.uid_key(str(source.resolve()))
        terms = [program_digest(), params.digest(), site, pseudonymizer.keep_identity]
        context = digest_of([*terms, "left"] if leave_known else terms)
        return cls(key, workspace, pseudonymizer, read_known(_file(workspace, key), context))

    def note(self, scan: KnownScan, outcomes: Mapping[str, Outcome], *, tables: bool) -> None:
        """Keep what an ingest made of the source so far. tables: they hold it already."""
        digests = FileDigests(self.pseudonymizer.secret)
        known = known_after(scan, outcomes, digests, self.workspace.series_root, tables=tables)
        write_known(_file(self.workspace, self.key), known)


def _file(workspace: Workspace, key: str) -> Path:
    return workspace.known_root / f"{key}.npz"


def nothing_new(
    workspace: Workspace, sources: PrivatePaths, site: str, params: IngestParams, keep_identity: bool
) -> dict[str, Any] | None:
    """The record of an ingest of sources in which nothing changed; None where there is something to do."""
    if not workspace.has_series_tables() or states_another(workspace.preference_file, params):
        return None
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep_identity)
    study_keys: dict[str, str] = {}
    rejected: list[Rejection] = []
    for source in sources.paths:
        memory = SourceMemory.of(source, workspace, pseudonymizer, params, site)
        if not memory.known.tables:
            return None
        scratch = workspace.scratch_root
        try:
            scan = scan_source(source, pseudonymizer, memory.known, scratch, workspace.series_root, at_most=_FEW_FILES)
        except NoduleflowError:
            return None
        if scan is None or scan.distrusted or scan.discovery.series or len(scan.standing) < len(memory.known.groups):
            return None
        refused = refusals_of(scan, ())
        if not workspace.has_rejections(memory.key, refused):
            return None
        rejected += refused
        study_keys |= study_keys_of(scan, ())
    before = workspace.series_keys()
    if not study_keys or not study_keys.keys() <= before:
        return None
    return summary(study_keys, before, rejected)


def refusals_of(scan: KnownScan, items: Iterable[SeriesRecord | Rejection]) -> list[Rejection]:
    """Every refusal of a source: of its files, of the series ingested now (`items`), of those that stand."""
    standing = [item for group in scan.standing for item in group.rejections]
    return [*scan.discovery.rejections, *(item for item in items if isinstance(item, Rejection)), *standing]


def study_keys_of(scan: KnownScan, items: Iterable[SeriesRecord | Rejection]) -> dict[str, str]:
    """Series key -> study key of every accepted series of a source."""
    standing = {item.series_key: item.study_key for group in scan.standing for item in group.series}
    return standing | {item.series_key: item.study_key for item in items if isinstance(item, SeriesRecord)}


def summary(
    study_keys: Mapping[str, str], before: set[str], rejected: Sequence[Rejection], n_arriving: int = 0
) -> dict[str, Any]:
    """The record of an ingest.

    study_keys: series key -> study key of what was accepted. before: series keys of the workspace before the run.
    n_arriving: studies that wait for another run.
    """
    new = study_keys.keys() - before
    if study_keys and not new:
        say("ingest: every series was there already; nothing to do")
    return {
        "accepted": len(study_keys),
        "new": len(new),
        "already_there": len(study_keys) - len(new),
        "studies_arriving": n_arriving,
        "n_refused": len(rejected),
        "refused": dict(sorted(Counter(item.reason.value for item in rejected).items())),
        "series_keys": sorted(study_keys),
        "study_keys": sorted(set(study_keys.values())),
    }
