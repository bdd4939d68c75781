"""Ingest: sources in, de-identified volumes and refusals out."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, model_serializer

from data_contracts.errors import NoduleflowError, NothingUsableError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from flows.engine import scrubbed, step
from flows.progress import say, stage
from flows.series_choice import remember_preference
from flows.settings import configured_secret
from flows.sources import PrivatePaths
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import Discovery, RawSeries, discover
from pipeline.intake.ingest_series import ingest_series


class PrivateSeries(BaseModel):
    """A discovered series as a task's parameter; its header facts stay in this process."""

    model_config = {"arbitrary_types_allowed": True}
    series: RawSeries

    @model_serializer
    def hide(self) -> dict[str, str]:
        return {"series": "private"}


@step("discover")
def discover_source(
    source: PrivatePaths, pseudonymizer: Pseudonymizer, params: IngestParams, scratch: Path
) -> Discovery:
    return discover(source.paths[0], pseudonymizer, params, scratch)


@step("ingest-series")
def ingest_one(
    raw: PrivateSeries, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str
) -> list[SeriesRecord | Rejection]:
    """One series; an error nobody foresaw refuses this series and leaves the others alone."""
    try:
        return scrubbed(ingest_series)(raw.series, pseudonymizer, params, series_root, site)
    except WorkspaceError:
        raise
    except NoduleflowError as error:
        path = pseudonymizer.path(raw.series.relative)
        return [Rejection(path=path, reason=ReasonCode.INTERNAL_ERROR, detail=error.line())]


@step("rebuild-tables")
def rebuild_tables(workspace: Workspace, source_key: str, rejections: list[Rejection]) -> None:
    workspace.add_rejections(source_key, rejections)
    workspace.rebuild_series_tables()


@flow(name="ingest", task_runner=ThreadPoolTaskRunner(max_workers=max(2, os.cpu_count() or 2)), log_prints=False)
def ingest_flow(
    workspace_root: str, sources: PrivatePaths, site: str, params: IngestParams, keep_identity: bool
) -> dict[str, Any]:
    """Every series of every source, one task a series; safe to run again, and beside another run."""
    workspace = Workspace(Path(workspace_root)).create()
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep_identity)
    remember_preference(workspace.preference_file, params)
    known = {record.series_key for record in workspace.series_records()}
    accepted: dict[str, SeriesRecord] = {}
    rejected: list[Rejection] = []
    for source in sources.paths:
        source_key = pseudonymizer.uid_key(str(source.resolve()))
        scratch = workspace.scratch_root / f"ingest-{os.getpid()}-{source_key}"
        try:
            discovery = discover_source(PrivatePaths(paths=(source,)), pseudonymizer, params, scratch)
            outcomes = _ingest_all(discovery, pseudonymizer, params, workspace, site)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        refused = [*discovery.rejections, *(item for item in outcomes if isinstance(item, Rejection))]
        accepted |= {item.series_key: item for item in outcomes if isinstance(item, SeriesRecord)}
        rejected += refused
        rebuild_tables(workspace, source_key, refused)
    summary = _summary(accepted, known, rejected)
    if not accepted:
        raise NothingUsableError(
            "no usable CT series in the sources",
            where=", ".join(f"{count} x {reason}" for reason, count in summary["refused"].items()) or "no file at all",
            todo="rejected.parquet lists each item with its reason.",
        )
    return summary


def _ingest_all(
    discovery: Discovery, pseudonymizer: Pseudonymizer, params: IngestParams, workspace: Workspace, site: str
) -> list[SeriesRecord | Rejection]:
    from prefect.futures import as_completed

    outcomes: list[SeriesRecord | Rejection] = []
    with stage("ingest", len(discovery.series)) as progress:
        futures = [
            ingest_one.submit(PrivateSeries(series=raw), pseudonymizer, params, workspace.series_root, site)
            for raw in discovery.series
        ]
        for future in as_completed(futures):
            items = future.result()
            outcomes += items
            progress.advance("; ".join(_line(item) for item in items) or "nothing")
    return outcomes


def _line(item: SeriesRecord | Rejection) -> str:
    if isinstance(item, Rejection):
        return f"refused ({item.reason.value})"
    flags = ", ".join(finding.code.value for finding in item.findings)
    return f"series {item.series_key}, {item.n_slices} slices" + (f" ({flags})" if flags else "")


def _summary(accepted: dict[str, SeriesRecord], known: set[str], rejected: list[Rejection]) -> dict[str, Any]:
    new = sorted(set(accepted) - known)
    if accepted and not new:
        say("ingest: every series was there already; nothing to do")
    return {
        "accepted": len(accepted),
        "new": len(new),
        "already_there": len(accepted) - len(new),
        "n_refused": len(rejected),
        "refused": _count_reasons(rejected),
        "series_keys": sorted(accepted),
        "study_keys": sorted({record.study_key for record in accepted.values()}),
    }


def _count_reasons(refused: list[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(item.reason.value for item in refused).items()))
