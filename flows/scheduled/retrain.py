"""weekly-retrain and whole-run: a challenger from what is known today."""

from __future__ import annotations

from data_contracts.errors import NothingUsableError
from flows.registry import Registry
from flows.scheduled.jobs import Outcome
from flows.settings import Settings
from flows.whole.nightly import learn, run_plan
from flows.whole.nightly_config import RunPlan
from flows.workspace import Workspace


def retrain(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """One version a preset; the gates decide, or a person where the policy asks for a sign-off."""
    if not workspace.nodule_table.is_file():
        raise NothingUsableError(
            "no nodule is annotated yet", todo="`noduleflow annotate`, or annotations in the plan."
        )
    before = len(Registry(workspace, settings.model_name).versions())
    record = learn(workspace, plan, settings.model_name)
    answers = "; ".join(f"version {run['version']} ({run['preset']}): {run['gate']}" for run in record["runs"])
    is_new = len(Registry(workspace, settings.model_name).versions()) > before
    return Outcome(answers if is_new else f"nothing new to learn from; {answers}", is_new=is_new)


def run_everything(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """Every stage in order, as `noduleflow run`."""
    record, _ = run_plan(workspace, settings, plan)
    answers = "; ".join(f"version {run['version']}: {run['gate']}" for run in record["runs"])
    return Outcome(f"{record['ingest']['new']} new series; {answers}", is_new=record["ingest"]["new"] > 0)
