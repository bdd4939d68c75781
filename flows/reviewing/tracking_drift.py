"""Drift in MLflow: a few figures of each review, as further steps of the version's own run."""

from __future__ import annotations

from data_contracts.drift import DriftReport
from data_contracts.errors import ExchangeError
from flows.versions import tracking
from flows.workspace import Workspace

_LEVELS = {"too few": -1.0, "ok": 0.0, "watch": 1.0, "alert": 2.0}


def log_drift(workspace: Workspace, report: DriftReport, time_ms: int) -> None:
    """Log the verdict (-1 too few, 0 ok, 1 watch, 2 alert) and the figures; nothing where the run is not tracked.

    Raises ExchangeError where the tracker does not take them.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    figures = {"verdict": _LEVELS[report.verdict], "nodules": float(report.n_nodules)}
    psi = [check.value for check in report.checks if check.raw is not None and check.value is not None]
    if psi:
        figures["psi_largest"] = max(psi)
    for check in report.checks:
        if check.name in ("embeddings", "predicted prevalence") and check.value is not None and check.p is not None:
            name = "mmd2" if check.name == "embeddings" else "prevalence_change"
            figures[name], figures[f"{name}_p"] = check.value, check.p
    try:
        client = tracking.connect(workspace)
        run = tracking.find_run(client, report.run_id)
        if run is None:
            return
        step = len(list((workspace.drift_root / report.run_id / "reports").glob("*.json")))
        metrics = [Metric(f"drift/{name}", value, time_ms, step) for name, value in figures.items()]
        client.log_batch(str(run.info.run_id), metrics=metrics)
    except MlflowException as error:
        raise ExchangeError("MLflow did not take the figures of drift", where=type(error).__name__) from None
