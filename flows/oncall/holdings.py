"""What the tables and folders of a workspace hold, each read by itself so that a torn one hides no other."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.oncall.findings import Findings
from flows.oncall.volumes import MEND, lacking_volumes, told

if TYPE_CHECKING:
    from flows.workspace import Workspace

_REBUILT = "`noduleflow ingest` of any source writes it again from series/*/series.json"
_REBUILT_NODULES = "the next command that reads it writes it again from annotations/"


def holdings(workspace: Workspace, found: Findings) -> dict[str, Any]:
    """Counts of series, refusals, nodules, datasets, runs and reviews."""
    series = _columns(workspace.series_table, ("site", "patient_key"), found, _REBUILT)
    refused = _columns(workspace.rejected_table, ("reason",), found, _REBUILT)
    nodules = _columns(workspace.nodule_table, ("nodule_id",), found, _REBUILT_NODULES)
    folders = found.section("series/", workspace.series_keys, set())
    n_series = len(series["site"]) if series is not None else 0
    if len(folders) != n_series and (series is not None or not workspace.series_table.exists()):
        n_records = sum(_is_record(workspace.series_root / key / "series.json") for key in folders)
        if n_records and series is None:
            found.add(f"{n_records} series are in no table", _REBUILT)
        elif n_records != n_series:
            found.add(f"series.parquet has {n_series} series, series/ has {n_records}", _REBUILT)
    if series is None:
        n_series = len(folders)
    elif lacking := found.section("volumes", lambda: lacking_volumes(workspace), []):
        found.add(told(lacking), MEND)
    runs, unfinished = _runs(workspace, found)
    return {
        "series": n_series,
        "series_by_site": dict(sorted(Counter(series["site"]).items())) if series else {},
        "patients": len(set(series["patient_key"])) if series else 0,
        "refused": dict(sorted(Counter(refused["reason"]).items())) if refused else {},
        "nodules": len(set(nodules["nodule_id"])) if nodules else 0,
        "datasets": sorted(path.parent.name for path in workspace.datasets_root.glob("*/dataset.json")),
        "runs": runs,
        "unfinished_runs": unfinished,
        "reviews": sum(1 for _ in workspace.reviews_root.glob("*/review.json")),
    }


def _columns(path: Path, names: tuple[str, ...], found: Findings, todo: str) -> dict[str, list[Any]] | None:
    """Some columns of a table as lists; None where it is not there or cannot be read, which is said."""
    if not path.exists():
        return None

    def read() -> dict[str, list[Any]]:
        import pyarrow.parquet as pq

        return dict(pq.read_table(path, columns=list(names)).to_pydict())

    columns = found.section(path.name, read, None, todo)
    if columns is not None and set(columns) != set(names):
        found.add(f"{path.name} lacks columns", todo)
        return None
    return columns


def _is_record(path: Path) -> bool:
    """Whether a file is the record of a series; a torn one is of none, and `doctor` names it."""
    try:
        return bool(json.loads(path.read_bytes())["series_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _runs(workspace: Workspace, found: Findings) -> tuple[list[str], list[str]]:
    """Names of finished and of unfinished runs."""

    def names() -> list[str]:
        if not workspace.runs_root.is_dir():
            return []
        with os.scandir(workspace.runs_root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    every = found.section("runs/", names, [])
    finished = [name for name in every if (workspace.runs_root / name / "model_card.json").exists()]
    return finished, [name for name in every if name not in finished]


def leftovers(workspace: Workspace, found: Findings, *, at_work: bool) -> None:
    """What killed runs left behind, where nobody is at work."""
    if at_work or not workspace.scratch_root.is_dir():
        return
    # A folder for pulls stays and is empty between them.
    left = [path for path in workspace.scratch_root.glob("*") if not path.is_dir() or _holds_a_file(path)]
    if left:
        found.add(
            f"{len(left)} folders in scratch/ are left of killed runs",
            "the command that was killed, given again, uses or clears them",
        )


def _holds_a_file(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder))


def last_refusal(workspace: Workspace, model_name: str, found: Findings) -> dict[str, Any] | None:
    """The last version of a model that gates refused and that is not champion since: version, time and gates."""

    def read() -> dict[str, Any] | None:
        if not workspace.audit_file.exists():
            return None
        refused: dict[str, Any] | None = None
        for raw in workspace.audit_file.read_bytes().splitlines():
            if b'"promote_refused"' not in raw and b'"promote_done"' not in raw:
                continue
            line = json.loads(raw)
            if line.get("detail", {}).get("model", model_name) != model_name:
                continue
            if line.get("action") == "promote_refused":
                refused = line
            elif refused is not None and line.get("action") == "promote_done" and line["subject"] == refused["subject"]:
                refused = None
        if refused is None:
            return None
        detail = refused.get("detail", {})
        failed = [gate for gate in detail.get("gates", []) if not gate.get("passed")]
        reasons = [f"{gate.get('gate')}: {gate.get('detail')}" for gate in failed]
        if not reasons:
            reasons = [str(detail[name]) for name in ("reason", "error", "refused") if detail.get(name)]
        return {"version": str(refused.get("subject")), "time_utc": str(refused.get("time_utc")), "reasons": reasons}

    return found.section("audit.jsonl", read, None, "`noduleflow audit --verify` names the line")
