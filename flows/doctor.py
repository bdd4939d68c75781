"""Checks of the installation, each with what it found and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from data_contracts.errors import NoduleflowError
from flows.oncall import checks_machine as machine
from flows.oncall import checks_site as site
from flows.oncall.check import Check
from flows.oncall.findings import cause_of
from flows.settings import Settings
from flows.workspace import Workspace


def examine(workspace: Workspace, settings: Settings) -> tuple[dict[str, Any], str]:
    """Run every check, whatever the others found; `healthy` is False where one failed. Keys: docs/oncall.md."""
    examinations: dict[str, Callable[[], Check]] = {
        "python": machine.python,
        "versions": machine.versions,
        "packages": machine.packages,
        "disk": lambda: machine.disk(workspace),
        "permissions": lambda: machine.permissions(workspace),
        "keys": lambda: machine.keys(workspace),
        "clock": lambda: machine.clock(workspace),
        "egress": machine.egress,
        "weights": lambda: site.weights(workspace),
        "tables": lambda: site.tables(workspace),
        "policy": lambda: site.policy(settings),
        "schedules": lambda: site.schedules(workspace, settings),
        "prefect": lambda: site.prefect(workspace, settings),
        "mlflow": lambda: site.mlflow(workspace),
        "registry": lambda: site.registry(workspace, settings),
    }
    checks: list[Check] = []
    try:
        workspace.create()
    except NoduleflowError as error:
        checks.append(Check("workspace", "failed", error.what, error.todo))
    for name, examination in examinations.items():
        if name == "registry" and any(check.name == "mlflow" and check.state == "failed" for check in checks):
            checks.append(Check(name, "failed", "not looked at, because MLflow's database is damaged"))
            continue
        checks.append(_examined(name, examination))
    record = {
        "healthy": all(check.state != "failed" for check in checks),
        "checks": [asdict(check) for check in checks],
    }
    return record, "\n".join(check.line() for check in checks)


def _examined(name: str, examination: Callable[[], Check]) -> Check:
    try:
        return examination()
    except NoduleflowError as error:
        where = f" ({error.where})" if error.where else ""
        return Check(name, "failed", f"{error.what}{where}", error.todo)
    except Exception as error:  # a doctor who falls over helps nobody
        return Check(name, "failed", f"could not be looked at ({cause_of(error)})", "--debug shows the traceback.")
