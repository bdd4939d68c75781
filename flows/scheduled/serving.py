"""`serve`: the jobs of a plan in this process, by the clock of a Prefect server, until it is ended."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from data_contracts.errors import WorkspaceError
from flows.progress import say
from flows.scheduled.deployments import deployment, schedule_of
from flows.scheduled.notifying import tell_of_failures
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

#: how often the server is asked for work
_POLL_S = 5.0
#: how long runs may take to end after we were told to; what they leave is finished by their next run
_GRACE_S = 15.0
_STOP_S = 10.0


def serve_plan(settings: Settings, plan: RunPlan) -> None:
    """Run every scheduled job at its times; a webhook that the settings name hears of those that fail.

    Deployments are left active when this ends, so that the next `serve` finds them as they are.

    Raises
    ------
    UsageError: nothing is scheduled.
    """
    from prefect.client.orchestration import get_client

    lines = schedule_of(plan)
    jobs = [deployment(job, cron, timezone) for job, (cron, timezone) in lines.items()]
    for job, (cron, timezone) in lines.items():
        say(f"serving {job}: {cron} ({timezone})")
    with get_client(sync_client=True) as client:
        for automation in tell_of_failures(client, settings):
            say(f"automation {automation}")
    asyncio.run(_serve(jobs))
    say("serving has ended; runs that were at work are finished by the next one")


async def _serve(jobs: list[RunnerDeployment]) -> None:
    from prefect.runner import Runner

    # A deployment that is paused on the way out stays paused where the way out was a kill of the next start.
    runner = Runner(name="noduleflow", query_seconds=_POLL_S, pause_on_shutdown=False, limit=None)
    for job in jobs:
        await runner.aadd_deployment(job)
    ended = asyncio.Event()
    running = asyncio.create_task(runner.start())
    while not (runner.started or running.done()):
        await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # After its start: the runner's own handler leaves its work undone.
        loop.add_signal_handler(number, ended.set)
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        running.result()
        raise WorkspaceError("the scheduler ended by itself", todo="Start it again; the Prefect log says more.")
    await _stop(runner, running)


async def _stop(runner: Runner, running: asyncio.Task[None]) -> None:
    """End the runs, first with a request, then by force, and the runner after them."""
    say("ending: runs that are at work get some seconds")
    stopping = asyncio.create_task(runner.astop())
    await asyncio.wait({stopping}, timeout=_GRACE_S)
    if not stopping.done():
        _kill_children()
    await asyncio.wait({stopping, running}, timeout=_STOP_S)
    for task in (stopping, running):
        task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await running


def _kill_children() -> None:
    """The processes of runs; the embedded server has a session of its own and is stopped later."""
    import os

    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(child.pid) == os.getsid(0):
                child.kill()
