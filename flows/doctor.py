"""Checks of the installation, each with what it found and what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from data_contracts.errors import NoduleflowError
from flows.settings import Settings
from flows.workspace import Workspace

State = Literal["ok", "warning", "failed"]
_MIN_FREE_BYTES = 5 * 2**30
_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


@dataclass(frozen=True)
class Check:
    """One answer of the doctor."""

    name: str
    state: State
    detail: str


def examine(workspace: Workspace, settings: Settings) -> tuple[dict[str, Any], str]:
    """Run every check; `healthy` is False where one failed."""
    examinations: list[Callable[[], Check]] = [
        _python,
        _versions,
        _packages,
        lambda: _disk(workspace),
        _egress,
        _weights,
        lambda: _prefect(workspace),
        lambda: _registry(workspace, settings),
    ]
    checks = []
    for examination in examinations:
        try:
            checks.append(examination())
        except NoduleflowError as error:
            checks.append(Check(getattr(examination, "__name__", "check").strip("_<>"), "failed", error.line()))
    record = {
        "healthy": all(check.state != "failed" for check in checks),
        "checks": [asdict(check) for check in checks],
    }
    return record, "\n".join(f"{check.state:<8} {check.name:<9} {check.detail}" for check in checks)


def _python() -> Check:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check("python", "ok" if good else "failed", f"{sys.version.split()[0]} (3.11 to 3.13 are supported)")


def _versions() -> Check:
    """The two combinations that install cleanly and then do not work."""
    fastapi, sqlalchemy = _release("fastapi"), _release("sqlalchemy")
    bad = []
    if fastapi >= (0, 151):
        bad.append("fastapi must be below 0.151, or Prefect starts no server")
    if sqlalchemy >= (2, 1):
        bad.append("SQLAlchemy must be below 2.1, or Prefect's cron schedules never fire")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("prefect", "mlflow", "torch", "pydicom"))
    if bad:
        return Check("versions", "failed", f"{'; '.join(bad)}. Run `make` again to install the lock.")
    return Check("versions", "ok", shown)


def _release(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(name).split(".")[:2])


def _packages() -> Check:
    """Our four packages have common names; a stranger of the same name in site-packages would win."""
    import data_contracts
    import flows
    import models
    import pipeline

    folders = {Path(str(package.__file__)).parents[1] for package in (data_contracts, flows, models, pipeline)}
    if len(folders) > 1:
        return Check("packages", "failed", "a stranger's package hides one of ours: make the environment anew")
    return Check("packages", "ok", "data_contracts, pipeline, models and flows are ours")


def _disk(workspace: Workspace) -> Check:
    workspace.create()
    free = shutil.disk_usage(workspace.root).free
    state: State = "ok" if free > _MIN_FREE_BYTES else "warning"
    return Check("disk", state, f"{free / 2**30:.1f} GiB free at the workspace")


def _egress() -> Check:
    wrong = [name for name, value in _TELEMETRY.items() if os.environ.get(name) != value]
    if wrong:
        return Check("egress", "failed", f"telemetry is not off: {', '.join(wrong)}")
    return Check("egress", "ok", "telemetry of Prefect and MLflow is off, pickled models are refused")


def _weights() -> Check:
    """Whether a pretrained ResNet50 is at hand, without asking the network for it."""
    import torch

    cached = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("resnet50-*"))
    if not cached:
        return Check("weights", "warning", "no pretrained ResNet50 in torchvision's cache: offline, use --weights FILE")
    return Check("weights", "ok", f"pretrained ResNet50 is cached ({cached[0].name})")


def _prefect(workspace: Workspace) -> Check:
    from flows.engine import engine

    with engine(workspace) as address:
        return Check("prefect", "ok", f"a server answers at {address}")


def _registry(workspace: Workspace, settings: Settings) -> Check:
    """Aliases against the account of the last move, files of champion and previous champion, audit, lock."""
    from flows.registry import CHAMPION, Registry
    from flows.registry.faults import all_faults
    from flows.registry.lock import lock_database

    registry = Registry(workspace, settings.model_name)
    if faults := all_faults(registry):
        return Check("registry", "failed", "; ".join(fault.line() for fault in faults))
    detail = f"MLflow answers, the audit holds; champion: {registry.alias(CHAMPION) or 'none'}"
    if settings.mlflow_tracking_uri.startswith("http") and not lock_database(workspace):
        return Check(
            "registry",
            "warning",
            f"{detail}. Promotions of this machine wait for each other, those of others do not: where several machines "
            "share the MLflow server, set NODULEFLOW_REGISTRY_LOCK_URL to a PostgreSQL database",
        )
    return Check("registry", "ok", detail)
