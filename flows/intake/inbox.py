"""Ingest what was received: each study that has settled, once, and its files only as long as they are needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.errors import NothingUsableError
from data_contracts.params import IngestParams
from flows.intake.batch import Order
from flows.intake.ingest import ingest_sources
from flows.intake.listening import inbox_of
from flows.intake.pulling import PASSING_REASONS
from flows.intake.sources import PrivatePaths
from flows.progress import say
from flows.running.batches import MOST_TASKS, batches
from flows.running.runners import ConfiguredRunner
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: studies that are ingested together where few wait, and bunches that many make
_FEW_STUDIES, _MOST_BUNCHES = 50, 64


@flow(name="inbox", task_runner=ConfiguredRunner(), log_prints=False)
def inbox_flow(
    workspace_root: str, claimed: PrivatePaths, site: str, params: IngestParams, keep_identity: bool
) -> dict[str, Any]:
    """Ingest claimed studies of the inbox and remove the files whose outcome is stored.

    Files stay where another attempt may have another outcome (no disk space, an error of this program).
    """
    workspace = Workspace(Path(workspace_root)).create()
    inbox = inbox_of(workspace)
    keys = Pseudonymizer(workspace.secret(configured_secret()))
    refused: Counter[str] = Counter()
    series_keys: set[str] = set()
    study_keys: set[str] = set()
    new, kept = 0, 0
    order = Order(params, site, keep_identity, verify=False)
    bunches = list(batches(claimed.paths, size=max(_FEW_STUDIES, -(-len(claimed.paths) // _MOST_BUNCHES))))
    for folders in bunches:
        try:
            record = ingest_sources(workspace, folders, order, n_tasks=max(MOST_TASKS // len(bunches), 1))
            series_keys |= set(record["series_keys"])
            study_keys |= set(record["study_keys"])
            new += record["new"]
        except NothingUsableError:
            pass  # each item is in rejected.parquet, and counted below
        for folder in folders:
            source_key = keys.uid_key(str(folder.resolve()))
            reasons = workspace.rejection_reasons(source_key)
            refused.update(reason.value for reason in reasons)
            if PASSING_REASONS & set(reasons):
                kept += 1
            else:
                inbox.remove(folder)
                workspace.forget_source(source_key)
    in_parts = _in_parts(workspace, series_keys)
    if in_parts:
        say(f"inbox: {len(in_parts)} series came in parts; have the sender send those studies again, whole")
    return {
        "studies": len(claimed.paths),
        "accepted": len(series_keys),
        "new": new,
        "refused": dict(sorted(refused.items())),
        "kept_for_another_attempt": kept,
        "in_parts": in_parts,
        "series_keys": sorted(series_keys),
        "study_keys": sorted(study_keys),
    }


def _in_parts(workspace: Workspace, series_keys: set[str]) -> list[str]:
    """Series of which other instances were ingested at another time: a sender paused longer than the settle time."""
    if not series_keys:
        return []
    records = workspace.series_records()
    slices: dict[str, list[set[str]]] = {}
    for record in records:
        if record.series_key not in series_keys:
            slices.setdefault(record.series_uid_key, []).append(set(record.sop_uid_keys))
    found = []
    for record in records:
        others = slices.get(record.series_uid_key, []) if record.series_key in series_keys else []
        if any(not other & set(record.sop_uid_keys) for other in others):
            found.append(record.series_key)
    return sorted(found)
