"""`deploy`: the jobs on a Prefect server, and what they need there; run again, it changes nothing."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_contracts.errors import UsageError
from flows.scheduled.deployments import JOBS, deployment, schedule_of
from flows.scheduled.notifying import tell_of_failures
from flows.scheduled.single_flight import limit_name
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

#: how often a run gives a sign of life, and how long its silence lasts before it is taken for dead
HEARTBEAT_S = 30
SILENCE_S = 3 * HEARTBEAT_S
ZOMBIES = "noduleflow-zombies"
#: how long a run may take from its start by a worker to its first line, imports and images included
START_S = 600
STILLBORN = "noduleflow-stillborn"
#: where jobs may run, and what the names of pools cannot hold
_TYPES = ("process", "docker", "kubernetes")
_NOT_IN_A_NAME = frozenset("/%&><")
#: settings of this installation that a run on a worker needs as well; secrets come from files there
_HANDED_ON = ("NODULEFLOW_MODEL_NAME", "NODULEFLOW_MLFLOW_TRACKING_URI", "NODULEFLOW_SETTLE_S", "NODULEFLOW_THREADS")


def deploy_plan(
    settings: Settings, config: Path, plan: RunPlan, *, pool: str, pool_type: str, template: Path | None, image: str
) -> dict[str, Any]:
    """Register every scheduled job for a work pool, and make the pool, the limits and the automations.

    Parameters
    ----------
    config, settings.workspace: as the worker sees them.
    template: base job template of the pool as JSON, where it is made now and is no process pool.

    Raises
    ------
    UsageError: nothing is scheduled, the server is not named, or the pool is of another type or can be none.
    """
    from prefect.client.orchestration import get_client

    _check_pool(pool, pool_type, image)
    lines = schedule_of(plan)
    environment = {
        "NODULEFLOW_CONFIG": str(config),
        "NODULEFLOW_WORKSPACE": str(settings.workspace.absolute()),
        "NODULEFLOW_PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        **{name: os.environ[name] for name in _HANDED_ON if name in os.environ and not _has_password(os.environ[name])},
    }
    with get_client(sync_client=True) as client:
        made: dict[str, Any] = {"pool": _pool(client, pool, pool_type, template)}
        for job in JOBS:
            client.upsert_global_concurrency_limit_by_name(limit_name(job), 1)
        made["automations"] = _automations(client, settings)
        withdrawn = [job for job in JOBS if job not in lines and _withdraw(client, job)]
    variables: dict[str, Any] = {"env": environment}
    if image:
        variables["image"] = image
    for job, (cron, timezone) in lines.items():
        made_job = deployment(job, cron, timezone, work_pool_name=pool, job_variables=variables)
        made_job.apply()
    return {
        **made,
        "deployments": {job: {"cron": cron, "timezone": timezone} for job, (cron, timezone) in lines.items()},
        "withdrawn": withdrawn,
        "concurrency_limits": [limit_name(job) for job in JOBS],
    }


def _withdraw(client: SyncPrefectClient, job: str) -> bool:
    """Take a job off the server that the plan no longer schedules; whether it was there."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_deployment_by_name(f"{job}/{job}")
    except ObjectNotFound:
        return False
    client.delete_deployment(found.id)
    return True


def _has_password(value: str) -> bool:
    """Whether a value is an address with a password: Prefect would keep it for everybody who may look."""
    return "://" in value and urlsplit(value).password is not None


def _pool(client: SyncPrefectClient, name: str, pool_type: str, template: Path | None) -> str:
    """The pool, made where it is missing; raises UsageError for one of another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        body = _template(template) if template else {}
        client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=body))
        return f"{name} ({pool_type}), made"
    if found.type != pool_type:
        raise UsageError(
            f"the work pool {name!r} is of type {found.type}, not {pool_type}", todo="Name another with --pool."
        )
    return f"{name} ({pool_type})"


def _check_pool(pool: str, pool_type: str, image: str) -> None:
    """Raises UsageError for a pool that Prefect refuses, or whose runs could not start."""
    if not pool.strip() or _NOT_IN_A_NAME & set(pool):
        raise UsageError(f"{pool[:40]!r} is no name of a work pool", todo="Give --pool a name without / % & < >.")
    if pool_type not in _TYPES:
        raise UsageError(f"there is no work pool of type {pool_type[:40]!r}", todo=f"Known: {', '.join(_TYPES)}.")
    if pool_type == "docker" and not image:
        raise UsageError("a pool of type docker needs the image of its runs", todo="Name it with --image.")


def _template(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        raise UsageError("the base job template cannot be read", where=file.name, todo="Give a file of JSON.") from None


def _automations(client: SyncPrefectClient, settings: Settings) -> list[str]:
    """What the server does by itself; each is made anew, so that a changed setting takes effect."""
    alive, began = "prefect.flow-run.heartbeat", "prefect.flow-run.Running"
    wanted = [
        _silence_automation(
            ZOMBIES,
            "Marks runs as Crashed whose process is gone.",
            alive,
            alive,
            SILENCE_S,
            f"No sign of life for {SILENCE_S} s: the process is gone.",
        ),
        # Its worker died before it began, so it gave no sign of life at all and would be Pending for ever.
        _silence_automation(
            STILLBORN,
            "Marks runs as Crashed that were handed to a worker and never began.",
            "prefect.flow-run.Pending",
            began,
            START_S,
            f"Not begun {START_S} s after a worker took it: the worker is gone.",
        ),
    ]
    for automation in wanted:
        for found in client.read_automations_by_name(automation.name):
            client.delete_automation(found.id)
        client.create_automation(automation)
    return [*(automation.name for automation in wanted), *tell_of_failures(client, settings)]


_ENDS = tuple(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed"))


def _silence_automation(name: str, description: str, after: str, expected: str, within_s: int, message: str) -> Any:
    """Marks a run as Crashed that sent the event `after` and then for `within_s` neither `expected` nor an end."""
    from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType

    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={after},
            expect={expected, *_ENDS},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )
