"""Ingest: sources in, de-identified volumes and refusals out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, model_serializer

from data_contracts.errors import NoduleflowError, NothingUsableError, UsageError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from flows.engine import scrubbed, step
from flows.identity import INGEST, ingest_policy, note_policy, seal_accepted
from flows.known_sources import Outcome, SourceMemory, refusals_of, study_keys_of, summary
from flows.log_filter import register_identifiers
from flows.progress import say, stage
from flows.series_choice import remember_preference, states_another
from flows.settings import configured_secret, series_workers
from flows.sources import PrivatePaths
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import RawSeries
from pipeline.intake.ingest_series import ingest_series
from pipeline.intake.known_scan import KnownScan, scan_source
from pipeline.intake.known_source import FileDigests, KnownSource
from pipeline.intake.settling import without_arriving
from pipeline.intake.verify import discard_damaged, told_otherwise

#: series that share a task where thousands come, and the voxels from which on a task is full
_SERIES_OF_A_TASK = 32
_VOXELS_OF_A_TASK = 8 << 20
#: what was ingested is noted at least so often, for a run that is killed
_NOTE_EVERY_S = 20.0


class PrivateSeries(BaseModel):
    """Discovered series as a task's parameter; their header facts stay in this process."""

    model_config = {"arbitrary_types_allowed": True}
    series: tuple[RawSeries, ...]

    @model_serializer
    def hide(self) -> dict[str, int]:
        return {"n_series": len(self.series)}


@step("discover")
def scan(
    source: PrivatePaths, pseudonymizer: Pseudonymizer, known: KnownSource, scratch: Path, series_root: Path
) -> KnownScan:
    found = scan_source(source.paths[0], pseudonymizer, known, scratch, series_root)
    assert found is not None, "a scan without a bound always ends in one"
    return found


@step("ingest-series")
def ingest_some(
    some: PrivateSeries, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str, verify: bool
) -> dict[str, tuple[Outcome, list[str]]]:
    """Outcome of each series, and the keys of its stored volumes that were damaged, by group key.

    An error nobody foresaw refuses its series and leaves the others alone.
    """
    found: dict[str, tuple[Outcome, list[str]]] = {}
    for raw in some.series:
        damaged: list[str] = []
        try:
            items = scrubbed(ingest_series)(raw, pseudonymizer, params, series_root, site)
            if verify and (damaged := scrubbed(discard_damaged)(items, series_root)):
                items = scrubbed(ingest_series)(raw, pseudonymizer, params, series_root, site)
            scrubbed(seal_accepted)(items, raw, pseudonymizer, params, series_root.parent / "identity")
        except (WorkspaceError, UsageError):
            raise
        except NoduleflowError as error:
            path = pseudonymizer.path(raw.relative)
            items = [Rejection(path=path, reason=ReasonCode.INTERNAL_ERROR, detail=error.line())]
        found[raw.group_key] = items, damaged
    return found


@step("rebuild-tables")
def rebuild_tables(workspace: Workspace) -> None:
    workspace.rebuild_series_tables()


@flow(name="ingest", task_runner=ThreadPoolTaskRunner(max_workers=series_workers()), log_prints=False)
def ingest_flow(
    workspace_root: str,
    sources: PrivatePaths,
    site: str,
    params: IngestParams,
    keep_identity: bool,
    verify: bool = False,
    settle_s: float = 0.0,
) -> dict[str, Any]:
    """Every series of every source that is new or changed; safe to run again, and beside another run.

    verify: read all, known or not, and tell what is not as it was stored. settle_s: studies to which something was
    added within so many seconds wait for another run; `studies_arriving` counts them.
    """
    workspace = Workspace(Path(workspace_root)).create()
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep_identity)
    note_policy(workspace, INGEST, ingest_policy(params, keep_identity))
    new_preference = states_another(workspace.preference_file, params)
    remember_preference(workspace.preference_file, params)
    before = workspace.series_keys()
    study_keys: dict[str, str] = {}
    rejected: list[Rejection] = []
    differences: list[str] = []
    n_arriving = 0
    for source in sources.paths:
        memory = SourceMemory.of(source, workspace, pseudonymizer, params, site)
        scratch = workspace.scratch_root / f"ingest-{os.getpid()}-{memory.key}"
        try:
            found, n_held = without_arriving(_scan(source, memory, scratch, verify), source, settle_s)
            n_arriving += n_held
            register_identifiers(
                text for raw in found.discovery.series if raw.slices for text in raw.slices[0].identifiers
            )
            outcomes = _ingest_all(found, memory, params, site, verify, differences)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        items = [item for outcome in outcomes.values() for item in outcome]
        refused, keys = refusals_of(found, items), study_keys_of(found, items)
        changed = workspace.add_rejections(memory.key, refused) or new_preference or not keys.keys() <= before
        if changed or not memory.known.tables or not workspace.has_series_tables():
            rebuild_tables(workspace)
            new_preference = False
        if changed or not memory.known.tables or found.discovery.files:
            memory.note(found, outcomes, tables=True)
        study_keys |= keys
        rejected += refused
    record = summary(study_keys, before, rejected) | {"studies_arriving": n_arriving}
    if n_arriving:
        say(f"ingest: {n_arriving} studies are still arriving and wait for the next run")
    if verify:
        record["differences"] = differences
        say(f"verify: {len(differences)} differences" if differences else "verify: everything is as it was stored")
    if not study_keys and not n_arriving:
        raise NothingUsableError(
            "no usable CT series in the sources",
            where=", ".join(f"{count} x {reason}" for reason, count in record["refused"].items()) or "no file at all",
            todo="rejected.parquet lists each item with its reason.",
        )
    return record


def _scan(source: Path, memory: SourceMemory, scratch: Path, verify: bool) -> KnownScan:
    known = KnownSource(memory.known.context) if verify else memory.known
    private = PrivatePaths(paths=(source,))
    found: KnownScan = scan(private, memory.pseudonymizer, known, scratch, memory.workspace.series_root)
    if found.distrusted:
        say("ingest: files of this source changed without a trace; all of it is read again")
    elif found.standing:
        say(f"ingest: {len(found.standing)} series were read before and did not change")
    return found


def _ingest_all(
    found: KnownScan, memory: SourceMemory, params: IngestParams, site: str, verify: bool, differences: list[str]
) -> dict[str, Outcome]:
    """The outcome of each series that was read, by group key; `differences` takes what a verification finds."""
    from prefect.futures import as_completed

    outcomes: dict[str, Outcome] = {}
    noted = time.monotonic()
    with stage("ingest", len(found.discovery.series)) as progress:
        futures = [
            ingest_some.submit(
                PrivateSeries(series=some), memory.pseudonymizer, params, memory.workspace.series_root, site, verify
            )
            for some in _tasks(found.discovery.series)
        ]
        for future in as_completed(futures):
            for key, (items, damaged) in future.result().items():
                outcomes[key] = items
                differences += [f"a stored volume was damaged and is written again: {name}" for name in damaged]
                progress.advance("; ".join(_line(item) for item in items) or "nothing")
            if time.monotonic() - noted > _NOTE_EVERY_S:
                memory.note(found, outcomes, tables=False)
                noted = time.monotonic()
    if verify:
        differences += told_otherwise(memory.known, found, outcomes, FileDigests(memory.pseudonymizer.secret))
    return outcomes


def _tasks(series: Sequence[RawSeries]) -> Iterator[tuple[RawSeries, ...]]:
    """Series by task: one each, but small ones together where there are many; a task costs some ten milliseconds."""
    most = min(_SERIES_OF_A_TASK, len(series) // 32 + 1)
    some: list[RawSeries] = []
    voxels = 0
    for raw in series:
        some.append(raw)
        voxels += sum(max(header.n_frames, 1) * header.rows * header.columns for header in raw.slices)
        if len(some) >= most or voxels >= _VOXELS_OF_A_TASK:
            yield tuple(some)
            some, voxels = [], 0
    if some:
        yield tuple(some)


def _line(item: SeriesRecord | Rejection) -> str:
    if isinstance(item, Rejection):
        return f"refused ({item.reason.value})"
    flags = ", ".join(finding.code.value for finding in item.findings)
    return f"series {item.series_key}, {item.n_slices} slices" + (f" ({flags})" if flags else "")
