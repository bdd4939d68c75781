"""Series of a source that the workspace has already, for who asks for their studies and not for another ingest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from data_contracts.series import Rejection, SeriesRecord
from flows.intake.known_sources import Outcome
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import RawSeries
from pipeline.intake.store import has_volume


def left_alone(workspace: Workspace, series: Iterable[RawSeries], pseudonymizer: Pseudonymizer) -> dict[str, Outcome]:
    """The stored outcome, by group key, of each series of which every object was stored or refused before.

    Whatever the policy was: its record, its volume and its sealed identity, or none, stay as they are. A series with
    an object that is new, or whose volume is gone, is not among them.
    """
    stored: dict[str, list[SeriesRecord]] = defaultdict(list)
    for record in workspace.series_records():
        stored[record.series_uid_key].append(record)
    refused: list[Rejection] | None = None
    found: dict[str, Outcome] = {}
    for raw in series:
        records = stored.get(raw.series_uid_key, [])
        if not records or not all(has_volume(workspace.series_root / record.series_key, record) for record in records):
            continue
        keys = {pseudonymizer.uid_key(header.sop_instance_uid): header.sop_instance_uid for header in raw.slices}
        missing = keys.keys() - {key for record in records for key in record.sop_uid_keys}
        beside: list[Rejection] = []
        if missing:
            refused = _refusals(workspace) if refused is None else refused
            # a refusal names the UIDs themselves where identity is kept
            names = missing | {keys[key] for key in missing}
            beside = [item for item in refused if names & set(item.sop_instance_uids)]
            told = {uid for item in beside for uid in item.sop_instance_uids}
            if any(key not in told and keys[key] not in told for key in missing):
                continue
        found[raw.group_key] = [*beside, *records]
    return found


def _refusals(workspace: Workspace) -> list[Rejection]:
    """Every refusal of every source, each once."""
    lines = {line for part in workspace.rejected_parts.glob("*.jsonl") for line in part.read_text().splitlines()}
    return [Rejection.from_json(line, where=workspace.rejected_parts.name) for line in sorted(lines)]
