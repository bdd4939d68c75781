"""The jobs as Prefect deployments: which there are, and when they run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_contracts.errors import UsageError
from flows.whole.nightly_config import RunPlan

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

#: job -> the flow behind it, in flows.scheduled.jobs; the name of the job is that of its deployment and of its limit
JOBS: Mapping[str, str] = {
    "ingest-watch": "ingest_watch",
    "nightly-review": "nightly_review",
    "weekly-retrain": "weekly_retrain",
    "drift-check": "drift_check",
    "whole-run": "whole_run",
}
_ROOM = "flows.scheduled.jobs"


_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_LINE = re.compile(rf"(?:[\d*,/\s-]|(?:{_NAMES})(?![a-z]))+")


def entrypoint(job: str) -> str:
    """Where a worker finds the flow of a job."""
    return f"{_ROOM}:{JOBS[job]}"


def schedule_of(plan: RunPlan) -> dict[str, tuple[str, str]]:
    """Job -> (cron line, time zone) of every job that the plan schedules.

    Raises
    ------
    UsageError: nothing is scheduled, a line is not cron's, or there is no such time zone.
    """
    if plan.cron:
        lines = {"whole-run": (plan.cron, plan.timezone)}
    elif plan.schedule is not None:
        own = "timezone" in plan.schedule.model_fields_set
        zone = plan.schedule.timezone if own else plan.timezone
        lines = {job: (getattr(plan.schedule, JOBS[job]), zone) for job in JOBS}
    else:
        lines = {}
    found = {job: line for job, line in lines.items() if line[0]}
    if not found:
        raise UsageError(
            "the configuration has no schedule",
            todo='Add a table [schedule] for the single jobs, or cron = "0 2 * * *" for all of it.',
        )
    for job, (cron, timezone) in found.items():
        _check(job, cron, timezone)
    return found


def _check(job: str, cron: str, timezone: str) -> None:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim, CronSimError

    try:
        # Prefect's own reader takes no LW and no 5L, and a sixth field for seconds.
        if len(cron.split()) != 5 or not _LINE.fullmatch(cron.lower()):
            raise CronSimError
        CronSim(cron, datetime.now(UTC))
    except CronSimError:
        raise UsageError(
            f"{cron[:40]!r} is not a cron line", where=job, todo='Five fields, such as "0 2 * * *" for two at night.'
        ) from None
    try:
        ZoneInfo(timezone)
    except (OSError, ValueError, KeyError):
        raise UsageError(
            f"there is no time zone {timezone[:40]!r}", where=job, todo="Use a name such as UTC or Europe/Berlin."
        ) from None


def deployment(job: str, cron: str, timezone: str, **options: Any) -> RunnerDeployment:
    """One job as a deployment. options: as of Flow.to_deployment."""
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.types.entrypoint import EntrypointType

    flow = getattr(import_module(_ROOM), JOBS[job])
    made: RunnerDeployment = flow.to_deployment(
        name=job,
        schedule=CronSchedule(cron=cron, timezone=timezone),
        description=flow.description,
        tags=["noduleflow"],
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )
    return made
