"""nightly-review: a report for each study that has none yet."""

from __future__ import annotations

import pandas as pd

from flows.nightly_config import RunPlan
from flows.registry import CHAMPION, Registry
from flows.review import review_flow
from flows.scheduled.jobs import Outcome
from flows.settings import Settings
from flows.workspace import Workspace


def review_new_studies(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """Reports by the champion; without one nothing is reviewed, because nobody has answered for a model yet."""
    if Registry(workspace, settings.model_name).alias(CHAMPION) is None:
        return Outcome("no champion yet, so nothing is reviewed", is_new=False)
    keys = studies_without_report(workspace)
    if not keys:
        return Outcome("every study has its report", is_new=False)
    reports = review_flow(str(workspace.root), keys, settings.model_name)["reports"]
    n_findings = sum(report["n_findings"] for report in reports)
    return Outcome(f"{len(reports)} studies reviewed, {n_findings} findings")


def studies_without_report(workspace: Workspace) -> list[str]:
    """Keys of the studies in series.parquet that have no review.json, sorted."""
    if not workspace.series_table.is_file():
        return []
    keys = set(pd.read_parquet(workspace.series_table, columns=["study_key"])["study_key"])
    return sorted(key for key in keys if not (workspace.reviews_root / key / "review.json").is_file())
