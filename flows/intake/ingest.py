"""Ingest: sources in, de-identified volumes and refusals out."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.errors import NothingUsableError
from data_contracts.params import IngestParams
from data_contracts.series import Rejection, SeriesRecord
from flows.engine import step
from flows.intake.batch import HeldBatch, Order, Outcomes, SealedBatch
from flows.intake.identity import INGEST, ingest_policy, note_policy
from flows.intake.known_sources import Outcome, SourceMemory, refusals_of, study_keys_of, summary
from flows.intake.left_alone import left_alone
from flows.intake.series_choice import remember_preference, states_another
from flows.intake.sources import PrivatePaths
from flows.log_filter import register_identifiers
from flows.progress import Stage, say, stage
from flows.running.batches import batches
from flows.running.elsewhere import Terms, terms_of
from flows.running.opaque import Opaque
from flows.running.runners import ConfiguredRunner, completed
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import RawSeries
from pipeline.intake.known_scan import KnownScan, scan_source
from pipeline.intake.known_source import FileDigests, KnownSource
from pipeline.intake.settling import without_arriving
from pipeline.intake.verify import told_otherwise

#: voxels from which on a task takes no more series than it must
_VOXELS_OF_A_TASK = 8 << 20
#: what was ingested is noted at least so often, for a run that is killed
_NOTE_EVERY_S = 20.0


@step("discover")
def scan(
    source: PrivatePaths,
    pseudonymizer: Opaque[Pseudonymizer],
    known: Opaque[KnownSource],
    scratch: Path,
    series_root: Path,
) -> KnownScan:
    found = scan_source(source.paths[0], pseudonymizer.value, known.value, scratch, series_root)
    assert found is not None, "a scan without a bound always ends in one"
    return found


@step("ingest-series")
def ingest_batch(batch: Opaque[HeldBatch | SealedBatch], order: Opaque[Order]) -> Outcomes:
    return batch.value.ingest(order.value, batch.told)


@step("rebuild-tables")
def rebuild_tables(workspace: Workspace) -> None:
    workspace.rebuild_series_tables()


@flow(name="ingest", task_runner=ConfiguredRunner(), log_prints=False)
def ingest_flow(
    workspace_root: str,
    sources: PrivatePaths,
    site: str,
    params: IngestParams,
    keep_identity: bool,
    verify: bool = False,
    settle_s: float = 0.0,
    leave_known: bool = False,
) -> dict[str, Any]:
    """Every series of every source that is new or changed; safe to run again, and beside another run.

    verify: read all, known or not, and tell what is not as it was stored. settle_s: studies to which something was
    added within so many seconds wait for another run; `studies_arriving` counts them. leave_known: series that the
    workspace has stay as they are, whatever policy or site they came in under.
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
        memory = SourceMemory.of(source, workspace, pseudonymizer, params, site, leave_known=leave_known)
        scratch = workspace.scratch_root / f"ingest-{os.getpid()}-{memory.key}"
        try:
            found, n_held = without_arriving(_scan(source, memory, scratch, verify), source, settle_s)
            n_arriving += n_held
            register_identifiers(
                text for raw in found.discovery.series if raw.slices for text in raw.slices[0].identifiers
            )
            left = left_alone(workspace, found.discovery.series, pseudonymizer) if leave_known else {}
            if left:
                say(f"ingest: {len(left)} series are in the workspace and stay as they are")
            order = Order(params, site, keep_identity, verify)
            outcomes = left | _ingest_all(found, left.keys(), memory, order, source, differences)
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
    record = summary(study_keys, before, rejected, n_arriving)
    if n_arriving:
        say(f"ingest: {n_arriving} studies are still arriving and wait for the next run")
    if verify:
        record["differences"] = differences
        say(f"verify: {len(differences)} differences" if differences else "verify: everything is as it was stored")
    if not study_keys and not n_arriving:
        counted = ", ".join(f"{count} x {reason}" for reason, count in record["refused"].items()) or "no file at all"
        detail = f" ({rejected[0].detail})" if len(rejected) == 1 and rejected[0].detail else ""
        raise NothingUsableError(
            "no usable CT series in the sources",
            where=counted + detail,
            todo="rejected.parquet lists each item with its reason.",
        )
    return record


def _scan(source: Path, memory: SourceMemory, scratch: Path, verify: bool) -> KnownScan:
    known = KnownSource(memory.known.context) if verify else memory.known
    private = PrivatePaths(paths=(source,))
    series_root = memory.workspace.series_root
    found: KnownScan = scan(private, Opaque(memory.pseudonymizer), Opaque(known), scratch, series_root)
    if found.distrusted:
        say("ingest: files of this source changed without a trace; all of it is read again")
    elif found.standing:
        say(f"ingest: {len(found.standing)} series were read before and did not change")
    return found


def _ingest_all(
    found: KnownScan, left: Set[str], memory: SourceMemory, order: Order, source: Path, differences: list[str]
) -> dict[str, Outcome]:
    """The outcome of each series that was read, by group key, but for those left alone.

    `differences` takes what a verification finds.
    """
    series = tuple(raw for raw in found.discovery.series if raw.group_key not in left)
    with terms_of(memory.workspace) as terms, stage("ingest", len(series)) as progress:
        heard = _Heard(found, memory, progress, differences)
        futures = [
            ingest_batch.submit(Opaque(_batch(some, number, memory, source, terms), heard.of), Opaque(order))
            for number, some in enumerate(batches(series, weight=_voxels, full=_VOXELS_OF_A_TASK))
        ]
        for outcomes in completed(futures):
            for key, (items, damaged) in outcomes.items():
                heard.of(key, items, damaged)
    if order.verify:
        differences += told_otherwise(memory.known, found, heard.outcomes, FileDigests(memory.pseudonymizer.secret))
    return heard.outcomes


def _batch(
    some: tuple[RawSeries, ...], number: int, memory: SourceMemory, source: Path, terms: Terms | None
) -> HeldBatch | SealedBatch:
    if terms is None:
        return HeldBatch(some, memory.pseudonymizer, memory.workspace.series_root)
    return SealedBatch.of(terms, f"batch-{number:05d}", source, some)


def _voxels(raw: RawSeries) -> float:
    return sum(max(header.n_frames, 1) * header.rows * header.columns for header in raw.slices)


class _Heard:
    """What is known of the outcomes so far: each is shown once, and noted for the case of a kill."""

    def __init__(self, found: KnownScan, memory: SourceMemory, progress: Stage, differences: list[str]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._found = found
        self._memory = memory
        self._progress = progress
        self._differences = differences
        self._noted = time.monotonic()
        self._guard = threading.Lock()

    def of(self, key: str, items: Outcome, damaged: list[str]) -> None:
        with self._guard:
            if key in self.outcomes:
                return
            self.outcomes[key] = items
            self._differences += [f"a stored volume was damaged and is written again: {name}" for name in damaged]
            self._progress.advance("; ".join(_line(item) for item in items) or "nothing")
            if time.monotonic() - self._noted > _NOTE_EVERY_S:
                self._memory.note(self._found, self.outcomes, tables=False)
                self._noted = time.monotonic()


def _line(item: SeriesRecord | Rejection) -> str:
    if isinstance(item, Rejection):
        return f"refused ({item.reason.value})"
    flags = ", ".join(finding.code.value for finding in item.findings)
    return f"series {item.series_key}, {item.n_slices} slices" + (f" ({flags})" if flags else "")
