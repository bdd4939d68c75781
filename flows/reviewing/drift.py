"""Drift: the studies that a version reviewed last against the sample kept with it, and the alarm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from data_contracts.drift import DRIFT_TABLE, REFERENCE_TABLE, DriftReport
from data_contracts.errors import ContractError, NoduleflowError
from data_contracts.params import DriftParams
from data_contracts.records import digest_of
from flows.progress import say
from flows.workspace import Workspace

REFERENCE_FILE = "reference.parquet"
_STAMP = "%Y%m%dT%H%M%S%f"
_DEFAULTS = DriftParams()


def keep_study(workspace: Workspace, run_id: str, parts: list[pd.DataFrame], now: datetime | None = None) -> None:
    """Write the nodules of one reviewed study as a part that is never changed; a study without nodules leaves none."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return
    when = now or datetime.now(UTC)
    table = pd.concat(parts, ignore_index=True).assign(reviewed_utc=when.isoformat(timespec="seconds"))
    study = str(table["study_key"].iloc[0])
    name = f"{when.strftime(_STAMP)}-{digest_of([run_id, study])}.parquet"
    DRIFT_TABLE.write(workspace.drift_root / run_id / name, table)


def window_of(workspace: Workspace, run_id: str, params: DriftParams, now: datetime) -> pd.DataFrame:
    """The nodules of the last reviewed studies, each study as its last review saw it."""
    since = (now - timedelta(days=params.window_days)).strftime(_STAMP)
    parts = sorted((workspace.drift_root / run_id).glob("*.parquet"), key=lambda path: path.name, reverse=True)
    newest: dict[str, Path] = {}
    for path in parts:
        stamp, _, study = path.stem.partition("-")
        if stamp >= since:
            newest.setdefault(study, path)
    tables = []
    for path in list(newest.values())[: params.window_studies]:
        try:
            tables.append(DRIFT_TABLE.read(path))
        except ContractError as error:
            say(f"drift: {error.line()}")
    return pd.concat(tables, ignore_index=True) if tables else DRIFT_TABLE.empty()


def drift_report(
    workspace: Workspace,
    model_name: str,
    version: str,
    folder: Path,
    params: DriftParams = _DEFAULTS,
    now: datetime | None = None,
) -> DriftReport:
    """The verdict on the studies that a version reviewed last, against its reference.

    folder: of the run of the version, already compared with its seal.
    """
    when = now or datetime.now(UTC)
    window = window_of(workspace, folder.name, params, when)
    path = folder / REFERENCE_FILE
    reference = REFERENCE_TABLE.read(path) if path.is_file() else REFERENCE_TABLE.empty()
    times = sorted(window["reviewed_utc"])
    known: dict[str, Any] = {
        "model_name": model_name,
        "version": version,
        "run_id": folder.name,
        "created_utc": when.isoformat(timespec="seconds"),
        "n_studies": int(window["study_key"].nunique()),
        "n_patients": int(window["patient_key"].nunique()),
        "n_nodules": len(window),
        "n_reference_nodules": len(reference),
        "n_reference_patients": int(reference["patient"].nunique()),
        "first_utc": times[0] if times else "",
        "last_utc": times[-1] if times else "",
    }
    if (missing := _too_few(known, params)) is not None:
        return DriftReport(**known, verdict="too few", reasons=(missing,))
    from pipeline.scoring.drift import drift_checks, overall  # scipy: `status` reads reports without it

    current = window.rename(columns={"patient_key": "patient", "series_key": "series"})
    checks = drift_checks(reference, current, params)
    verdict, reasons = overall(checks)
    return DriftReport(**known, verdict=verdict, reasons=reasons, checks=checks)


def _too_few(known: dict[str, Any], params: DriftParams) -> str | None:
    nodules, patients = known["n_nodules"], known["n_patients"]
    if not known["n_reference_nodules"]:
        return "the version has no reference: it was trained before one was kept; train it again"
    for what, least in (("nodules", params.min_nodules), ("patients", params.min_patients)):
        if (held_out := known[f"n_reference_{what}"]) < least:
            return f"the reference of the version is too small: {held_out} held-out {what}, at least {least} are asked"
    if nodules < params.min_nodules:
        return f"too few nodules yet: {nodules} of {params.min_nodules}"
    if patients < params.min_patients:
        return f"too few patients yet: {patients} of {params.min_patients}"
    return None


def watch(workspace: Workspace, model_name: str, version: str, folder: Path, params: DriftParams) -> DriftReport:
    """After a review: judge the window, keep the report, tell MLflow, and raise the alarm where there is one.

    What fails here is said and does not fail the review.
    """
    report = drift_report(workspace, model_name, version, folder, params)
    when = datetime.fromisoformat(report.created_utc)
    report.write(reports_root(workspace, folder.name) / f"{datetime.now(UTC).strftime(_STAMP)}.json")
    say(line_of(report))
    try:
        from flows.reviewing.tracking_drift import log_drift

        log_drift(workspace, report, int(when.timestamp() * 1000))
    except (NoduleflowError, OSError) as error:
        say(f"drift: not logged to MLflow ({type(error).__name__})")
    if report.verdict in ("watch", "alert"):
        _emit(report)
    return report


def reports_root(workspace: Workspace, run_id: str) -> Path:
    """Where the reports on the version of a run are kept."""
    return workspace.drift_root / run_id / "reports"


def newest_report(workspace: Workspace, model_name: str, version: str) -> DriftReport | None:
    """What the last review by a version said, or None before the first; a torn report is passed over."""
    for path in sorted(workspace.drift_root.glob("*/reports/*.json"), key=lambda path: path.name, reverse=True):
        try:
            report = DriftReport.read(path)
        except ContractError as error:
            say(f"drift: {error.line()}")
            continue
        if (report.model_name, report.version) == (model_name, version):
            return report
    return None


def line_of(report: DriftReport) -> str:
    """The verdict on one line."""
    seen = f"{report.n_nodules} nodules of {report.n_patients} patients in {report.n_studies} studies"
    reasons = "; ".join(report.reasons)
    return f"drift of version {report.version}: {report.verdict}, {seen}" + (f"; {reasons}" if reasons else "")


def text_of(report: DriftReport) -> str:
    """The verdict and a table of the checks for a person."""
    lines = [line_of(report.model_copy(update={"reasons": ()}))]
    lines.append(
        f"reference: {report.n_reference_nodules} held-out nodules of {report.n_reference_patients} patients"
        + (f"; reviews from {report.first_utc} to {report.last_utc}" if report.first_utc else "")
    )
    if report.checks:
        lines.append(f"{'check':24}{'value':>9}{'p (Holm)':>10}{'watch':>8}{'alert':>8}  verdict")
    for check in report.checks:
        value = "-" if check.value is None else f"{check.value:.4f}"
        p = "-" if check.p_adjusted is None else f"{check.p_adjusted:.4f}"
        bounds = f"{check.watch_at:>8g}{check.alert_at:>8g}"
        lines.append(f"{check.name.replace('_', ' '):24}{value:>9}{p:>10}{bounds}  {check.verdict}")
    return "\n".join([*lines, *report.reasons])


def _emit(report: DriftReport) -> None:
    """A Prefect event, `noduleflow.drift.watch` or `.alert`; nothing where no server is known."""
    from prefect.events import emit_event
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return
    resource = {
        "prefect.resource.id": f"noduleflow.version.{report.model_name}.{report.version}",
        "prefect.resource.name": f"{report.model_name} version {report.version}",
        "noduleflow.verdict": report.verdict,
    }
    payload = report.model_dump(mode="json", exclude={"checks"})
    try:
        emit_event(event=f"noduleflow.drift.{report.verdict}", resource=resource, payload=payload)
    except Exception as error:  # an alarm that cannot be sent must not cost the report it is about
        say(f"drift: the event was not sent ({type(error).__name__})")
