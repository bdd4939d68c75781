"""The scheduled jobs as flows without parameters: Prefect keeps parameters, and what a path says is nobody's business.

Each reads the configuration that NODULEFLOW_CONFIG names, does what is new since the last time, and ends Completed
with a name that says what came of it: Done, NothingNew, or Skipped where the run before is still at work. A job that
was killed leaves nothing that its next run does not finish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from data_contracts.errors import ContractError, GateRefusedError, NoduleflowError, NothingUsableError, UsageError
from flows.engine import scrubbed
from flows.presence import presence
from flows.progress import say
from flows.remote.opening import shared_through_bucket
from flows.scheduled.single_flight import sole_run
from flows.settings import Settings, apply_to_work
from flows.whole.nightly_config import RunPlan, read_config
from flows.workspace import Workspace

#: what another attempt cannot mend
_LASTING = (UsageError, NothingUsableError, GateRefusedError, ContractError)
_ATTEMPTS = 4


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a sentence, and whether there was anything to do."""

    message: str
    is_new: bool = True


Work = Callable[[Workspace, Settings, RunPlan], Outcome]


def conduct(job: str, work: Work) -> State[Any]:
    """Do the work of a job, alone, with retries; returns the state in which its run ends."""
    settings = Settings()
    apply_to_work(settings)
    workspace = Workspace(settings.workspace).create()
    with (
        shared_through_bucket(settings),
        presence(workspace),
        sole_run(workspace, job, on_server=bool(settings.prefect_api_url)) as alone,
    ):
        if not alone:
            return _ended("Skipped", f"{job}: the run before is still at work")
        try:
            plan = read_config(settings.config or Path("missing"))
            before = _folders(workspace)
            outcome = _attempted(job, settings.job_retry_s, lambda: work(workspace, settings, plan))
            # An attempt that failed may have done the work, all but the end of it, that the last attempt finds done.
            is_new = outcome.is_new or _folders(workspace) != before
        except NothingUsableError as error:
            return _ended("NothingUsable", f"{job}: {error.what}")
        except NoduleflowError as error:
            # Where it happened may be a path; this text stays in Prefect's database.
            message = " ".join(part for part in (f"{job}: {error.what}.", error.todo) if part)
            say(f"{job}: {error.line()}")
            return Failed(message=message)
    return _ended("Done" if is_new else "NothingNew", f"{job}: {outcome.message}")


def _folders(workspace: Workspace) -> list[int]:
    """How many series, runs and reviews there are."""
    roots = (workspace.series_root, workspace.runs_root, workspace.reviews_root)
    return [sum(1 for _ in root.iterdir()) if root.is_dir() else 0 for root in roots]


def _ended(name: str, message: str) -> State[Any]:
    say(message)
    return Completed(name=name, message=message)


def _attempted(job: str, pause_s: float, work: Callable[[], Outcome]) -> Outcome:
    """Work as a task that is tried again, after pauses that grow, where another attempt may go better.

    It has no parameters: those of a task would be written to the server.
    """

    def may_pass(_task: object, _run: object, state: State[Any]) -> bool:
        return not isinstance(state.result(raise_on_failure=False), _LASTING)

    attempt = task(
        scrubbed(work),
        name=job,
        retries=_ATTEMPTS - 1,
        retry_delay_seconds=exponential_backoff(pause_s),
        retry_jitter_factor=0.2,
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    outcome: Outcome = attempt()
    return outcome


@flow(name="ingest-watch", log_prints=False)
def ingest_watch() -> State[Any]:
    """New studies of every source, each once it has settled."""
    from flows.scheduled.watch import watch

    return conduct("ingest-watch", watch)


@flow(name="nightly-review", log_prints=False)
def nightly_review() -> State[Any]:
    """A report for each study that has none yet."""
    from flows.scheduled.reviews import review_new_studies

    return conduct("nightly-review", review_new_studies)


@flow(name="weekly-retrain", log_prints=False)
def weekly_retrain() -> State[Any]:
    """A dataset of today's annotations, a challenger for each preset, and the answer of the gates."""
    from flows.scheduled.retrain import retrain

    return conduct("weekly-retrain", retrain)


@flow(name="drift-check", log_prints=False)
def drift_check() -> State[Any]:
    """Whether the studies of late still resemble those the champion was judged on."""
    from flows.scheduled.drift_check import check_drift

    return conduct("drift-check", check_drift)


@flow(name="whole-run", log_prints=False)
def whole_run() -> State[Any]:
    """Every stage in order, as `noduleflow run`."""
    from flows.scheduled.retrain import run_everything

    return conduct("whole-run", run_everything)
