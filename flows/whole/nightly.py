"""Every stage in order, from ingest to review; run again, it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.errors import GateRefusedError, NothingUsableError
from data_contracts.manifest import Split
from flows.datasets.features import feature_params, features_flow
from flows.datasets.prepare import prepare_flow
from flows.intake.plan_intake import annotate_all, ingest_source
from flows.learning.training import train_flow
from flows.progress import say
from flows.registry import CHALLENGER, CHAMPION, Registry
from flows.registry.policy import read_policy
from flows.registry.promotion import NO_CHAMPION, promote
from flows.reviewing.review import review_flow
from flows.settings import Settings
from flows.whole.nightly_config import PrivatePlan, RunPlan
from flows.whole.summary import figures_text
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader


@flow(name="noduleflow", log_prints=False)
def nightly_flow(workspace_root: str, private: PrivatePlan, model_name: str) -> dict[str, Any]:
    """The whole line; returns what came in, what was refused, the versions and the reports."""
    plan, workspace = private.plan, Workspace(Path(workspace_root))
    record: dict[str, Any] = {"ingest": _ingest(workspace, plan)}
    if (annotated := annotate_all(workspace, plan)) is not None:
        record["annotate"] = annotated
    record |= learn(workspace, plan, model_name)
    record["reviews"] = _review(workspace, plan, record["prepare"]["dataset_id"], model_name)
    return record


def learn(workspace: Workspace, plan: RunPlan, model_name: str) -> dict[str, Any]:
    """A dataset, its features, a version for each preset, and what the gate says of each."""
    record: dict[str, Any] = {}
    record["prepare"] = prepare_flow(str(workspace.root), "", plan.patches, plan.split, plan.labels)
    dataset_id = record["prepare"]["dataset_id"]
    record["features"], record["runs"] = [], []
    for params in plan.train_params():
        if (wanted := feature_params(params)) is not None:
            record["features"].append(features_flow(str(workspace.root), dataset_id, wanted))
        trained = train_flow(str(workspace.root), dataset_id, params, model_name)
        record["runs"].append({**trained, "preset": params.preset, "gate": _gate(workspace, plan, trained["version"])})
    return record


def _ingest(workspace: Workspace, plan: RunPlan) -> dict[str, Any]:
    """Every source; a source without anything usable does not stop the others."""
    total: dict[str, Any] = {"accepted": 0, "new": 0, "refused": {}, "by_site": {}}
    for source in plan.sources:
        try:
            found = ingest_source(workspace, plan, source)
        except NothingUsableError as error:
            say(f"ingest {source.site}: {error.line()}")
            continue
        total["accepted"] += found["accepted"]
        total["new"] += found["new"]
        total["by_site"][source.site] = total["by_site"].get(source.site, 0) + found["accepted"]
        for reason, count in found["refused"].items():
            total["refused"][reason] = total["refused"].get(reason, 0) + count
    if not total["accepted"]:
        raise NothingUsableError("no source gave a usable series", todo="rejected.parquet says why.")
    return total


def _gate(workspace: Workspace, plan: RunPlan, version: str) -> str:
    """Ask for promotion against whoever is champion now; returns the answer as a sentence."""
    if not plan.promote:
        return "not asked"
    settings = Settings()
    champion = Registry(workspace, settings.model_name).alias(CHAMPION)
    if champion == version:
        return f"version {version} is champion already"
    if champion is not None and int(champion) > int(version):
        return f"version {version} was judged before; version {champion} is champion"
    try:
        policy = plan.policy if settings.policy is None else read_policy(settings.policy)
        promote(workspace, settings, version, expect=champion or NO_CHAMPION, policy=policy)
    except GateRefusedError as error:
        return f"refused: {error.what}"
    return f"version {version} passed every gate and is champion" + (f", {champion} stepped down" if champion else "")


def _review(workspace: Workspace, plan: RunPlan, dataset_id: str, model_name: str) -> list[dict[str, Any]]:
    """Reports of held-out studies that nobody trained on, those with most nodules first."""
    settings = Settings()
    if plan.review == 0:
        return []
    champion = Registry(workspace, settings.model_name).alias(CHAMPION)
    version = CHAMPION if champion is not None else CHALLENGER
    index = PatchReader(workspace.datasets_root / dataset_id).index
    held_out = index[index["split"] == Split.TEST.value]
    studies = {record.series_key: record.study_key for record in workspace.series_records()}
    counts = held_out["series_key"].map(studies).value_counts()
    keys = sorted(counts.index, key=lambda key: (-counts[key], key))[: plan.review]
    record = review_flow(str(workspace.root), keys, model_name, version, plan.reports, plan.drift)
    return list(record["reports"])


def run_plan(workspace: Workspace, settings: Settings, plan: RunPlan) -> tuple[dict[str, Any], str]:
    """Run a plan; returns its record and the summary a person reads."""
    record = nightly_flow(str(workspace.root), PrivatePlan(plan=plan), settings.model_name)
    return record, summary_text(workspace, settings, record)


def summary_text(workspace: Workspace, settings: Settings, record: dict[str, Any]) -> str:
    """What came in, what was refused, every version's figures, who is champion and why."""
    came, refused = record["ingest"], record["ingest"]["refused"]
    sites = ", ".join(f"{count} from {site}" for site, count in came["by_site"].items())
    reasons = ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "nothing"
    lines = [
        f"came in     {came['accepted']} series ({sites}), {came['new']} of them new",
        f"refused     {reasons}",
        f"prepared    {record['prepare']['n_patches']} nodules in dataset {record['prepare']['dataset_id']}",
    ]
    for run in record["runs"]:
        lines += ["", f"== version {run['version']}, preset {run['preset']}, network {run['network']}"]
        lines += [figures_text(Path(run["folder"])), f"gate        {run['gate']}"]
    champion = Registry(workspace, settings.model_name).alias(CHAMPION)
    lines += ["", f"champion    version {champion}" if champion else "champion    none: every version was refused"]
    return "\n".join(lines)
