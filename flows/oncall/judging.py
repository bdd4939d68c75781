"""Which runs and schedules do not go on by themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flows.oncall.far_schedules import HORIZON
from flows.oncall.findings import Findings, ago, lasting
from flows.oncall.prefect_view import FlowRun, PrefectView
from flows.scheduled.deployments import JOBS

#: a run gives a sign of life every 30 s where it gives any; see flows.scheduled.deploying
_SILENCE = timedelta(minutes=5)
#: a worker takes a run up within this
_PENDING = timedelta(minutes=10)
#: a run by the clock that has not begun by then
_LATE = timedelta(minutes=10)
#: a run is slow when it takes this many times as long as the longest of late, and no less than an hour
_SLOW_FACTOR, _SLOW_S = 3.0, 3600.0
#: a failure that nobody mended by then is history
_FORGOTTEN = timedelta(days=7)
_FAILED = ("FAILED", "CRASHED", "CANCELLED")


def judge_runs(view: PrefectView, found: Findings, *, at_work: bool | None, now: datetime | None = None) -> None:
    """Runs that hang, were killed or wait for a worker, and jobs whose last run failed.

    at_work: whether any process is at work on this workspace; None where runs are of other machines as well.
    """
    now = now or datetime.now(UTC)
    for run in view.runs:
        if run.type == "RUNNING":
            _judge_running(run, view, found, at_work, now)
        elif run.type in ("PENDING", "CANCELLING", "PAUSED") and _since(run, now) > _PENDING.total_seconds():
            what = f"{run.flow} is {run.state} since {lasting(_since(run, now))}"
            found.add(what, _after_waiting(run, at_work))
    # One that found another at work and left says nothing of how the work went.
    worked = replace(view, runs=tuple(run for run in view.runs if run.state != "Skipped"))
    for run in last_of_each(worked):
        ended = run.end or run.start or now
        if run.type in _FAILED and now - ended < _FORGOTTEN:
            why = f", {_clipped(run.message)}" if run.message else ""
            found.add(f"the last {run.flow} {run.state} {ago(ended, now)}{why}", _after_failure(run))


def _after_waiting(run: FlowRun, at_work: bool | None) -> str:
    if at_work is False:
        return "its process is gone; the next command marks it Crashed"
    if run.flow in JOBS:
        return "see that a worker or `noduleflow serve` runs, or cancel it in Prefect"
    return "its command ended while the server was away; give it again, and cancel this run in Prefect"


def _judge_running(run: FlowRun, view: PrefectView, found: Findings, at_work: bool | None, now: datetime) -> None:
    if at_work is False:
        found.add(
            f"{run.flow} is Running in Prefect since {lasting(_since(run, now))} and no process is at work",
            "it was killed; start it again, the next command marks it Crashed",
        )
        return
    if run.alive is not None and now - run.alive > _SILENCE:
        found.add(
            f"{run.flow} runs since {lasting(_since(run, now))} and gave no sign of life for "
            f"{lasting((now - run.alive).total_seconds())}",
            "its process is dead or hangs; end it, then start it again",
        )
        return
    before = [other.seconds for other in view.runs if other.flow == run.flow and other.type == "COMPLETED"]
    usual = max((seconds for seconds in before if seconds is not None), default=0.0)
    if _since(run, now) > max(_SLOW_S, _SLOW_FACTOR * usual):
        found.add(
            f"{run.flow} runs since {lasting(_since(run, now))}, the longest of late took {lasting(usual)}",
            "look whether its process works or hangs",
        )


def judge_schedules(view: PrefectView, found: Findings, *, is_served: bool, now: datetime | None = None) -> None:
    """Schedules that are paused, have no runs to come, or are late.

    is_served: whether something keeps the clock: `serve`, or a Prefect server of its own.
    """
    now = now or datetime.now(UTC)
    active = [schedule for schedule in view.schedules if schedule.is_active or schedule.is_paused]
    if view.where == "embedded" and active and not is_served:
        names = ", ".join(schedule.name for schedule in active)
        found.add(f"nobody keeps the schedules ({names})", "start `noduleflow serve --config FILE`")
        return
    for schedule in active:
        late = [time for time in schedule.overdue if now - time > _LATE]
        if schedule.is_paused:
            found.add(
                f"the schedule of {schedule.name} is paused",
                f"`prefect deployment schedule resume` or `prefect deployment resume {schedule.name}`, or start "
                "`noduleflow serve` or `noduleflow deploy` again",
            )
        elif late:
            oldest = lasting((now - late[0]).total_seconds())
            found.add(
                f"{len(late)} runs of {schedule.name} are late, the oldest by {oldest}",
                "no worker takes them: start `deploy/start worker`, `prefect worker start --pool noduleflow` with "
                "PREFECT_API_URL set, or `noduleflow serve`",
            )
        elif schedule.due is not None and schedule.due - now > HORIZON:
            continue
        elif not schedule.coming and not schedule.overdue:
            found.add(
                f"the schedule of {schedule.name} has no run to come",
                "the scheduler of Prefect creates none: `noduleflow doctor` checks SQLAlchemy, then restart the server",
            )


def last_of_each(view: PrefectView) -> list[FlowRun]:
    """The newest run of every flow that has begun, newest first."""
    seen: dict[str, FlowRun] = {}
    for run in view.runs:
        if run.type != "SCHEDULED" and run.start is not None:
            seen.setdefault(run.flow, run)
    return list(seen.values())


def _since(run: FlowRun, now: datetime) -> float:
    begun = run.start or run.expected or now
    return max(0.0, (now - begun).total_seconds())


def _after_failure(run: FlowRun) -> str:
    if run.type == "CRASHED":
        return "start it again, it goes on where it was"
    return "mend that and start it again" if run.scheduled else "give the command again"


def _clipped(message: str) -> str:
    words = " ".join(message.split())
    return words.rstrip(".") if len(words) <= 160 else f"{words[:157]}..."
