"""Ingest: sources in, de-identified volumes and refusals out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.errors import NoduleflowError, NothingUsableError
from data_contracts.params import IngestParams
from data_contracts.series import Rejection
from flows.engine import scrubbed, step
from flows.intake.batch import HeldBatch, Order, Outcomes, SealedBatch
from flows.intake.identity import INGEST, ingest_policy, note_policy
from flows.intake.known_sources import SourceMemory, refusals_of, study_keys_of, summary
from flows.intake.left_alone import left_alone
from flows.intake.series_choice import remember_preference, states_another
from flows.intake.source_groups import MOST_GROUPS, Heard, Scanned, groups_of, rounds_of, scratch_of
from flows.intake.sources import PrivatePaths
from flows.log_filter import register_identifiers
from flows.progress import say, stage
from flows.running.batches import MOST_TASKS, batches
from flows.running.elsewhere import Terms, terms_of
from flows.running.opaque import Opaque
from flows.running.runners import ConfiguredRunner, completed
from flows.settings import configured_secret, series_workers
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import RawSeries
from pipeline.intake.known_scan import scan_source
from pipeline.intake.known_source import FileDigests, KnownSource
from pipeline.intake.settling import without_arriving
from pipeline.intake.verify import told_otherwise

#: voxels from which on a task takes no more series than it must
_VOXELS_OF_A_TASK = 8 << 20


@scrubbed
def _scan(memories: Opaque[list[tuple[Path, SourceMemory]]], verify: bool, scanned: Opaque[list[Scanned]]) -> None:
    """List the files of each source; what was listed before an error stays in `scanned`."""
    for source, memory in memories.value:
        known = KnownSource(memory.known.context) if verify else memory.known
        series_root = memory.workspace.series_root
        found = scan_source(source, memory.pseudonymizer, known, scratch_of(memory), series_root)
        assert found is not None, "a scan without a bound always ends in one"
        if found.distrusted:
            say("ingest: files of this source changed without a trace; all of it is read again")
        elif found.standing:
            say(f"ingest: {len(found.standing)} series were read before and did not change")
        scanned.value.append(Scanned(source, memory, found))


@scrubbed
def _rebuild_tables(workspace: Workspace) -> None:
    workspace.rebuild_series_tables()


scan = step("discover")(_scan)
rebuild_tables = step("rebuild-tables")(_rebuild_tables)


@step("ingest-series")
def ingest_batch(batch: Opaque[HeldBatch | SealedBatch], order: Opaque[Order]) -> Outcomes:
    return batch.value.ingest(order.value, batch.told)


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
    order = Order(params, site, keep_identity, verify)
    workspace = Workspace(Path(workspace_root)).create()
    return ingest_sources(workspace, sources.paths, order, settle_s=settle_s, leave_known=leave_known)


def ingest_sources(
    workspace: Workspace,
    sources: Sequence[Path],
    order: Order,
    *,
    settle_s: float = 0.0,
    leave_known: bool = False,
    n_tasks: int = 0,
) -> dict[str, Any]:
    """What `ingest_flow` does, for a flow that has the task runner of the configuration.

    n_tasks: task runs that all the sources may cost together, for a caller with many such calls; lists and tables get
    none then. 0: some 130 for their series, and one a list and a table for each of up to 16 groups.

    Raises
    ------
    NothingUsableError: no source has a series that can be used.
    """
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), order.keep_identity)
    note_policy(workspace, INGEST, ingest_policy(order.params, order.keep_identity))
    new_preference = states_another(workspace.preference_file, order.params)
    remember_preference(workspace.preference_file, order.params)
    before = workspace.series_keys()
    groups = [tuple(sources)] if n_tasks else list(groups_of(sources, workspace.root))
    run = _Run(
        workspace,
        order,
        pseudonymizer,
        before,
        settle_s,
        leave_known,
        own_steps=not n_tasks and len(groups) <= MOST_GROUPS,
        n_tasks=n_tasks or max(MOST_TASKS // max(len(groups), 1), 1),
        new_preference=new_preference,
    )
    for group in groups:
        run.ingest(group)
    record = summary(run.study_keys, before, run.rejected, run.n_arriving)
    if run.n_arriving:
        say(f"ingest: {run.n_arriving} studies are still arriving and wait for the next run")
    if order.verify:
        record["differences"] = run.differences
        say(
            f"verify: {len(run.differences)} differences"
            if run.differences
            else "verify: everything is as it was stored"
        )
    if not run.study_keys and not run.n_arriving:
        counted = ", ".join(f"{count} x {reason}" for reason, count in record["refused"].items()) or "no file at all"
        detail = f" ({run.rejected[0].detail})" if len(run.rejected) == 1 and run.rejected[0].detail else ""
        raise NothingUsableError(
            "no usable CT series in the sources",
            where=counted + detail,
            todo="rejected.parquet lists each item with its reason.",
        )
    return record


@dataclass
class _Run:
    """One ingest: what it was asked for, and what came of the groups so far.

    before: series keys of the workspace when it began. own_steps: list and tables are task runs of their own. n_tasks:
    most task runs for the series of a group. new_preference: the tables choose otherwise now.
    """

    workspace: Workspace
    order: Order
    pseudonymizer: Pseudonymizer
    before: set[str]
    settle_s: float
    leave_known: bool
    own_steps: bool
    n_tasks: int
    new_preference: bool
    study_keys: dict[str, str] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    n_arriving: int = 0

    def ingest(self, sources: Sequence[Path]) -> None:
        """Ingest a group of sources; where one cannot be listed, those before it are ingested before it is said."""
        params, site, leave = self.order.params, self.order.site, self.leave_known
        memories = [
            (one, SourceMemory.of(one, self.workspace, self.pseudonymizer, params, site, leave_known=leave))
            for one in sources
        ]
        scanned: list[Scanned] = []
        failure: NoduleflowError | None = None
        try:
            try:
                (scan if self.own_steps else _scan)(Opaque(memories), self.order.verify, Opaque(scanned))
            except NoduleflowError as error:
                failure = error
            for one in scanned:
                one.found, n_held = without_arriving(one.found, one.source, self.settle_s)
                self.n_arriving += n_held
            for some in rounds_of(scanned):
                self._ingest_series(some)
        finally:
            for _, memory in memories:
                shutil.rmtree(scratch_of(memory), ignore_errors=True)
        self._keep(scanned)
        if failure is not None:
            raise failure

    def _ingest_series(self, scanned: Sequence[Scanned]) -> None:
        found = [raw for one in scanned for raw in one.found.discovery.series]
        register_identifiers(text for raw in found if raw.slices for text in raw.slices[0].identifiers)
        left = left_alone(self.workspace, found, self.pseudonymizer) if self.leave_known else {}
        if left:
            say(f"ingest: {len(left)} series are in the workspace and stay as they are")
        series: list[tuple[Scanned, RawSeries]] = []
        for one in scanned:
            for raw in one.found.discovery.series:
                if raw.group_key in left:
                    one.outcomes[raw.group_key] = left[raw.group_key]
                else:
                    series.append((one, raw))
        with terms_of(self.workspace) as terms, stage("ingest", len(series)) as progress:
            heard = Heard(series, progress, self.differences)
            parts = list(batches(series, weight=_voxels, full=_VOXELS_OF_A_TASK, most_tasks=self.n_tasks))
            # few tasks must not leave cores idle
            threads = -(-series_workers() // max(len(parts), 1))
            futures = [
                ingest_batch.submit(Opaque(self._batch(part, number, terms, threads), heard.of), Opaque(self.order))
                for number, part in enumerate(parts)
            ]
            for outcomes in completed(futures):
                for key, (items, damaged) in outcomes.items():
                    heard.of(key, items, damaged)
        if self.order.verify:
            digests = FileDigests(self.pseudonymizer.secret)
            for one in scanned:
                self.differences += told_otherwise(one.memory.known, one.found, one.outcomes, digests)

    def _batch(
        self, part: Sequence[tuple[Scanned, RawSeries]], number: int, terms: Terms | None, threads: int
    ) -> HeldBatch | SealedBatch:
        series = tuple(raw for _, raw in part)
        if terms is None:
            return HeldBatch(series, self.pseudonymizer, self.workspace.series_root, threads)
        return SealedBatch.of(terms, f"batch-{number:05d}", sorted({one.source for one, _ in part}), series)

    def _keep(self, scanned: Sequence[Scanned]) -> None:
        """Refusals, tables, and what is known of each source from now on."""
        changed: list[Scanned] = []
        is_known = self.workspace.has_series_tables()
        for one in scanned:
            refused, keys = refusals_of(one.found, one.items), study_keys_of(one.found, one.items)
            is_other = self.workspace.add_rejections(one.memory.key, refused) or not keys.keys() <= self.before
            is_known = is_known and one.memory.known.tables and not is_other
            if is_other or self.new_preference or not one.memory.known.tables or one.found.discovery.files:
                changed.append(one)
            self.study_keys |= keys
            self.rejected += refused
        if scanned and (not is_known or self.new_preference):
            (rebuild_tables if self.own_steps else _rebuild_tables)(self.workspace)
            self.new_preference = False
        for one in changed:
            one.note(tables=True)


def _voxels(item: tuple[Scanned, RawSeries]) -> float:
    return sum(max(header.n_frames, 1) * header.rows * header.columns for header in item[1].slices)
