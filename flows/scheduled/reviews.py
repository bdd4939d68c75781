"""nightly-review: a report for each study that has none yet, and its results to the PACS."""

from __future__ import annotations

import pandas as pd

from flows.progress import say
from flows.registry import CHAMPION, Registry
from flows.reviewing.outgoing_notes import note_waiting
from flows.reviewing.review import review_flow
from flows.scheduled.jobs import Outcome
from flows.scheduled.outgoing import outgoing, send_outgoing
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan
from flows.workspace import Workspace, is_table


def review_new_studies(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """Reports by the champion; without one nothing is reviewed, because nobody has answered for a model yet.

    Where the plan names a PACS, their results are stored there, and those that an earlier night could not store.
    """
    if Registry(workspace, settings.model_name).alias(CHAMPION) is None:
        return Outcome("no champion yet, so nothing is reviewed", is_new=False)
    said: list[str] = []
    if keys := studies_without_report(workspace):
        if plan.push is not None:
            note_waiting(workspace, keys)
        record = review_flow(str(workspace.root), keys, settings.model_name, CHAMPION, plan.reports, plan.drift)
        reports = record["reports"]
        said.append(f"{len(reports)} studies reviewed, {sum(report['n_findings'] for report in reports)} findings")
    if plan.push is not None and outgoing(workspace):
        said.append(send_outgoing(workspace, plan.push))
    return Outcome(", ".join(said)) if said else Outcome("every study has its report", is_new=False)


def studies_without_report(workspace: Workspace) -> list[str]:
    """Keys of the studies in series.parquet that have no review.json, sorted."""
    if not workspace.series_table.is_file():
        return []
    if not is_table(workspace.series_table):
        say("series.parquet cannot be read; it is written again from series/")
        workspace.rebuild_series_tables()
    keys = set(pd.read_parquet(workspace.series_table, columns=["study_key"])["study_key"])
    return sorted(key for key in keys if not (workspace.reviews_root / key / "review.json").is_file())
