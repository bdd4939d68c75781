"""What ran, what is stuck, what was refused, what waits for a person: ten lines, whatever is broken.

Nothing is imported that takes seconds and nothing is started; a part of the workspace that cannot be read is named,
and the rest is told all the same.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from flows.oncall.disk import LITTLE_BYTES, Room, room
from flows.oncall.findings import Findings, ago, lasting, size_text
from flows.oncall.holdings import holdings, last_refusal, leftovers
from flows.oncall.judging import judge_runs, judge_schedules, last_of_each
from flows.oncall.prefect_view import PrefectView, server_note, view
from flows.oncall.registry_view import registry_view
from flows.oncall.waiting import waiting_for_readers
from flows.registry.state import ALIASES
from flows.settings import Settings
from flows.workspace import Workspace

#: of one kind, on a line for a person; --json has them all
_SHOWN = 3


def describe(workspace: Workspace, settings: Settings) -> tuple[dict[str, Any], str]:
    """A record and its ten lines; `stuck` holds each fault as a sentence with its mend. Keys: docs/oncall.md."""
    found = Findings()
    now = datetime.now(UTC)
    at_work = found.section("processes", lambda: _at_work(workspace), None)
    prefect = found.section("Prefect", lambda: view(workspace, settings), PrefectView("unknown"))
    embedded = prefect.where == "embedded"
    judge_runs(prefect, found, at_work=at_work if embedded else None, now=now)
    note = server_note(workspace) if embedded else None
    judge_schedules(prefect, found, is_served=not embedded or bool(note and note.get("by_the_clock")), now=now)
    held = holdings(workspace, found)
    unfinished = held.pop("unfinished_runs")
    for name in unfinished if not at_work else ():
        found.add(f"run {name} is unfinished", "run the same `noduleflow train` again to go on")
    leftovers(workspace, found, at_work=bool(at_work))
    record: dict[str, Any] = {
        "workspace": str(workspace.root),
        "time_utc": now.isoformat(timespec="seconds"),
        **held,
        "unfinished_runs": unfinished,
        **registry_view(workspace, settings, found),
        "ran": [_ran(run) for run in last_of_each(prefect)],
        "schedules": [_scheduled(one) for one in prefect.schedules],
        "refused_promotion": last_refusal(workspace, settings.model_name, found),
    }
    record["drift"], drift_lines = found.section(
        "drift/", lambda: _drift(workspace, settings, record["champion"]), (None, ["drift       cannot be read"])
    )
    record["waiting"], record["overrides"] = waiting_for_readers(workspace, found)
    disk = found.section("the disk", lambda: room(workspace.root), Room(0, 0, 0, False))
    record["disk"] = {"free_bytes": disk.free, "total_bytes": disk.total, "workspace_bytes": disk.used_by_workspace}
    if disk.total and disk.free < LITTLE_BYTES:
        found.add(f"only {size_text(disk.free)} are free on the disk", "make room; docs/oncall.md says what may go")
    record["stuck"] = found.lines
    return record, "\n".join(_lines(record, prefect, drift_lines, disk, now))


def _lines(
    record: dict[str, Any], prefect: PrefectView, drift_lines: list[str], disk: Room, now: datetime
) -> list[str]:
    """The ten."""
    sites = ", ".join(f"{site} {count}" for site, count in record["series_by_site"].items()) or "none"
    aliases = [f"{name.replace('_', ' ')} {record[name] or 'none'}" for name in ALIASES]
    held = [f"{record['nodules']} nodules", *(f"{len(record[name])} {name}" for name in ("datasets", "runs"))]
    held.append(f"{record['reviews']} reports")
    size = f"{'' if disk.is_whole else 'at least '}{size_text(disk.used_by_workspace)}"
    return [
        f"workspace   {record['workspace']}",
        f"data        {record['series']} series of {record['patients']} patients ({sites}), {', '.join(held)}",
        f"ran         {_ran_text(prefect, now)}",
        f"stuck       {_listed(record['stuck'])}",
        f"refused     {_refused_text(record)}",
        f"waiting     {_waiting_text(record)}",
        f"versions    {', '.join(aliases)}",
        _joined(drift_lines),
        f"overrides   {_overrides_text(record)}",
        f"disk        {size_text(disk.free)} free of {size_text(disk.total)}, the workspace takes {size}",
    ]


def _ran_text(prefect: PrefectView, now: datetime) -> str:
    runs = []
    for run in last_of_each(prefect)[: _SHOWN + 1]:
        took = f" after {lasting(run.seconds)}" if run.seconds is not None else ""
        runs.append(f"{run.flow} {run.state}{took}, {ago(run.end or run.start, now)}")
    coming = sorted((one.coming[0], one.name) for one in prefect.schedules if one.coming and not one.is_paused)
    if coming:
        runs.append(f"next {coming[0][1]} {ago(coming[0][0], now)}")
    return "; ".join(runs) or "nothing yet"


def _refused_text(record: dict[str, Any]) -> str:
    reasons = sorted(record["refused"].items(), key=lambda item: -item[1])
    parts = [_listed([f"{reason} {count}" for reason, count in reasons])] if reasons else []
    if (promotion := record["refused_promotion"]) is not None:
        why = _listed(promotion["reasons"]) if promotion["reasons"] else "no reason is written"
        parts.append(f"version {promotion['version']} at {promotion['time_utc'][:16]}: {why}")
    return "; ".join(parts) or "nothing"


def _waiting_text(record: dict[str, Any]) -> str:
    waits = record["waiting"]
    parts = list(record["waiting_for_signoff"])
    for name, words in (
        ("adjudications", "findings to adjudicate"),
        ("second_reads", "blind second readings"),
        ("second_readers", "findings read by one reader"),
        ("unanswered_reports", "reports that no reader has answered"),
        ("reports_for_the_pacs", "reports that are not in the PACS yet"),
    ):
        if waits[name]:
            parts.append(f"{waits[name]} {words}")
    return "; ".join(parts) or "nothing"


def _overrides_text(record: dict[str, Any]) -> str:
    own = record["overrides"].get(record["champion"] or "")
    if own is not None:
        return f"readers overrode {own['words']} findings of version {record['champion']}"
    others = [f"version {version} {one['words']}" for version, one in record["overrides"].items()]
    return "; ".join(others) or "no reader has answered a report of the champion"


def _listed(parts: list[str]) -> str:
    more = f"; and {len(parts) - _SHOWN} more (--json)" if len(parts) > _SHOWN else ""
    return "; ".join(part.rstrip(".") for part in parts[:_SHOWN]) + more if parts else "nothing"


def _joined(lines: list[str]) -> str:
    """Several lines of one label as one."""
    return f"drift       {'; '.join(line.removeprefix('drift').strip() for line in lines)}"


def _ran(run: Any) -> dict[str, Any]:
    return {
        "flow": run.flow,
        "state": run.state,
        "type": run.type,
        "start_utc": run.start.isoformat(timespec="seconds") if run.start else None,
        "seconds": None if run.seconds is None else round(run.seconds, 1),
        "message": run.message,
        "by_the_clock": run.scheduled,
    }


def _scheduled(one: Any) -> dict[str, Any]:
    return {
        "job": one.name,
        "active": one.is_active,
        "paused": one.is_paused,
        "next_utc": one.coming[0].isoformat(timespec="seconds") if one.coming else None,
        "overdue": len(one.overdue),
    }


def _at_work(workspace: Workspace) -> bool:
    from flows.presence import others

    return bool(others(workspace))


def _drift(workspace: Workspace, settings: Settings, champion: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    """What the last review by the champion said of drift: verdict, reasons and counts, and lines for a person."""
    report = _newest_drift(workspace, settings.model_name, champion) if champion else None
    if report is None:
        return None, ["drift       not looked at yet: no review by a champion"]
    seen = f"{report['n_nodules']} nodules of {report['n_patients']} patients, {report['created_utc']}"
    lines = [f"drift       {report['verdict']} ({seen})", *(f"drift       {reason}" for reason in report["reasons"])]
    if report["verdict"] in ("watch", "alert"):
        lines.append("drift       `noduleflow drift` shows every figure; docs/drift.md says what to do")
    return {name: value for name, value in report.items() if name not in ("checks", "schema_version")}, lines


def _newest_drift(workspace: Workspace, model_name: str, version: str) -> dict[str, Any] | None:
    """The newest report on a version as it was written; a torn one is passed over."""
    for path in sorted(workspace.drift_root.glob("*/reports/*.json"), key=lambda path: path.name, reverse=True):
        try:
            report = json.loads(path.read_bytes())
            if (report["model_name"], report["version"]) == (model_name, version):
                return dict(report)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
