"""drift-check: whether what the champion reviewed last still resembles what it was judged on."""

from __future__ import annotations

from flows.registry import CHAMPION, Registry
from flows.reviewing.drift import line_of, watch
from flows.scheduled.jobs import Outcome
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan
from flows.workspace import Workspace


def check_drift(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """The verdict over the window of today; an alert is shown by `status` and is a Prefect event."""
    registry = Registry(workspace, settings.model_name)
    champion = registry.alias(CHAMPION)
    if champion is None:
        return Outcome("no champion yet, so nothing is watched", is_new=False)
    report = watch(workspace, settings.model_name, champion, registry.verified_folder(champion)[0], plan.drift)
    return Outcome(line_of(report))
