"""What a workspace holds, and what is stuck in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from data_contracts.errors import NoduleflowError
from data_contracts.series import REJECTED_TABLE
from flows.settings import Settings
from flows.workspace import Workspace


def describe(workspace: Workspace, settings: Settings) -> tuple[dict[str, Any], str]:
    """A record and its text: stages with their counts, the champion, and what needs a hand."""
    records = workspace.series_records()
    refused: Counter[str] = Counter()
    if workspace.rejected_table.exists():
        refused.update(REJECTED_TABLE.read(workspace.rejected_table)["reason"])
    nodules = workspace.nodules()
    runs = sorted(path.parent.name for path in workspace.runs_root.glob("*/model_card.json"))
    unfinished = sorted(
        path.name for path in workspace.runs_root.glob("*") if path.is_dir() and not (path / "model_card.json").exists()
    )
    record: dict[str, Any] = {
        "workspace": str(workspace.root),
        "series": len(records),
        "series_by_site": dict(sorted(Counter(item.site for item in records).items())),
        "patients": len({item.patient_key for item in records}),
        "refused": dict(sorted(refused.items())),
        "nodules": int(nodules["nodule_id"].nunique()),
        "datasets": sorted(path.parent.name for path in workspace.datasets_root.glob("*/dataset.json")),
        "runs": runs,
        "reviews": len(list(workspace.reviews_root.glob("*/review.json"))),
        **_registry(workspace, settings),
    }
    record["drift"], drift_lines = _drift(workspace, settings, record["champion"])
    record["stuck"] = [*_stuck(workspace, unfinished), *record.pop("registry_faults")]
    sites = ", ".join(f"{site} {count}" for site, count in record["series_by_site"].items()) or "none"
    reasons = ", ".join(f"{reason} {count}" for reason, count in record["refused"].items()) or "none"
    lines = [
        f"workspace   {workspace.root}",
        f"series      {record['series']} of {record['patients']} patients ({sites}); refused: {reasons}",
        f"nodules     {record['nodules']}",
        f"datasets    {', '.join(record['datasets']) or 'none'}",
        f"runs        {', '.join(runs) or 'none'}",
        f"versions    champion {record['champion'] or 'none'}, challenger {record['challenger'] or 'none'}, "
        f"previous champion {record['previous_champion'] or 'none'}",
        f"reviews     {record['reviews']}",
        *drift_lines,
    ]
    lines += [f"sign-off    {line}" for line in record["waiting_for_signoff"]]
    lines += [f"stuck       {line}" for line in record["stuck"]] or ["stuck       nothing"]
    return record, "\n".join(lines)


def _drift(workspace: Workspace, settings: Settings, champion: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    """What the last review by the champion said of drift: verdict, reasons and counts, and lines for a person."""
    from flows.drift import newest_report

    report = newest_report(workspace, settings.model_name, champion) if champion else None
    if report is None:
        return None, ["drift       not looked at yet: no review by a champion"]
    seen = f"{report.n_nodules} nodules of {report.n_patients} patients, {report.created_utc}"
    lines = [f"drift       {report.verdict} ({seen})", *(f"drift       {reason}" for reason in report.reasons)]
    if report.verdict in ("watch", "alert"):
        lines.append("drift       `noduleflow drift` shows every figure; docs/drift.md says what to do")
    return report.model_dump(mode="json", exclude={"checks"}), lines


def _registry(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Aliases, versions that wait for people's words, and what is wrong with the registry."""
    from flows.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
    from flows.registry.faults import audit_faults, quick_faults
    from flows.registry.signoffs import policy_of, waiting

    names = (CHAMPION, CHALLENGER, PREVIOUS)
    record: dict[str, Any] = {**dict.fromkeys(names), "waiting_for_signoff": [], "registry_faults": []}
    if workspace.mlflow_database.exists() or settings.mlflow_tracking_uri:
        registry = Registry(workspace, settings.model_name)
        record |= {alias: registry.alias(alias) for alias in names}
        record["registry_faults"] = [fault.line() for fault in quick_faults(registry)]
        record["waiting_for_signoff"] = waiting(registry, policy_of(settings))
    try:
        record["registry_faults"] += [f"audit {fault}" for fault in audit_faults(workspace, settings)]
    except NoduleflowError as error:
        record["registry_faults"].append(error.line())
    return record


def _stuck(workspace: Workspace, unfinished: list[str]) -> list[str]:
    """Sentences: what does not go on by itself and what to do."""
    found = [f"run {name} is unfinished: run the same `noduleflow train` again to go on" for name in unfinished]
    scratch = [path.name for path in workspace.scratch_root.glob("*")] if workspace.scratch_root.exists() else []
    if scratch:
        found.append(f"{len(scratch)} folders in scratch/ are left of killed runs: the next ingest clears them")
    return found
