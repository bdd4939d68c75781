"""Few-shot: episodes on cached features of a dataset, their figures as a record, a table, and an MLflow run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from data_contracts.errors import NothingUsableError
from data_contracts.features import FEATURE_TABLE, pooled_matrix
from data_contracts.few_shot import FewShotFigure, FewShotReport
from data_contracts.manifest import Split
from data_contracts.params import FeatureParams, FewShotParams
from data_contracts.records import atomic_path, digest_of
from flows.datasets.features import FeatureRun, feature_table
from flows.engine import step
from flows.progress import say
from flows.versions.tracking import EXPERIMENT, connect, find_run
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.few_shot import few_shot_episodes, few_shot_figures

REPORT_FILE = "few_shot.json"
#: part of a run's id: a change of what the episodes are makes new runs
_FORMAT = 1


@step("few-shot-episodes")
def run_episodes(
    workspace: Workspace, dataset_dir: Path, features: FeatureRun, params: FewShotParams
) -> tuple[Path, FewShotReport]:
    """Draw and score every episode once; few_shot.json, written last, says that all is there."""
    card = features.card
    identity = [_FORMAT, features.path.name, params.model_dump(mode="json")]
    run_id = digest_of(identity)
    folder = workspace.root / "evaluations" / f"few-shot-{run_id}"
    with workspace.lock(f"few-shot-{run_id}"):
        if (folder / REPORT_FILE).exists():
            say(f"few-shot: run {run_id} is finished already")
            return folder, FewShotReport.read(folder / REPORT_FILE)
        reader = PatchReader(dataset_dir)
        rows = reader.index[reader.index["label"].notna()]
        if params.nodules == "test":
            rows = rows[rows["split"] == Split.TEST.value]
        labels = rows["label"].to_numpy(dtype=np.int64)
        if np.unique(labels).size < 2:
            raise NothingUsableError(
                "the nodules do not show both labels", where=f"{len(rows)} labelled nodules of {dataset_dir.name}"
            )
        vectors = pooled_matrix(FEATURE_TABLE.read(features.path), list(rows["patch_id"]))
        episodes = few_shot_episodes(vectors, labels, rows["patient_key"].to_numpy(dtype=object), params)
        pretrained = card.weights != "none"
        report = FewShotReport(
            run_id=run_id,
            dataset_id=dataset_dir.name,
            backbone=card.backbone,
            weights=card.weights,
            weights_sha256=card.weights_sha256,
            pretrained=pretrained,
            parameters={**params.model_dump(mode="json"), "features": features.path.name},
            n_nodules=len(rows),
            n_positive=int(labels.sum()),
            n_patients=int(rows["patient_key"].nunique()),
            figures=few_shot_figures(episodes, params),
            warnings=(*([] if pretrained else ["the features are those of a random network"]), *reader.card.warnings),
        )
        with atomic_path(folder / "episodes.parquet") as temporary:
            episodes.to_parquet(temporary, index=False)
        report.write(folder / REPORT_FILE)
    return folder, report


@step("log-few-shot")
def log_few_shot(workspace: Workspace, folder: Path, report: FewShotReport) -> None:
    """Log the figures to MLflow, once."""
    client = connect(workspace)
    existing = find_run(client, f"few-shot-{report.run_id}")
    if existing is not None and existing.info.status == "FINISHED":
        return
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    if existing is None:
        tags = {"noduleflow.run_id": f"few-shot-{report.run_id}", "noduleflow.pretrained": str(report.pretrained)}
        existing = client.create_run(experiment.experiment_id, tags=tags, run_name=f"few-shot-{report.run_id[:8]}")
    mlflow_id = str(existing.info.run_id)
    named = {"backbone": report.backbone, "weights": report.weights, "dataset_id": report.dataset_id}
    for key, value in {**report.parameters, **named}.items():
        client.log_param(mlflow_id, key, str(value)[:500])
    for row in report.figures:
        for suffix, number in (("", row.value), ("_low", row.low), ("_high", row.high)):
            if number is not None:
                client.log_metric(mlflow_id, f"few_shot/{row.method}/{row.metric}{suffix}", number, step=row.k)
    client.log_artifact(mlflow_id, str(folder / REPORT_FILE))
    client.set_terminated(mlflow_id, "FINISHED")


@flow(name="few-shot", log_prints=False)
def few_shot_flow(workspace_root: str, dataset: str, features: FeatureParams, params: FewShotParams) -> dict[str, Any]:
    """Prototypes and a linear probe on k nodules a class, for every k."""
    workspace = Workspace(Path(workspace_root)).require()
    dataset_dir = workspace.dataset(dataset)
    table = feature_table(workspace, dataset_dir, features)
    folder, report = run_episodes(workspace, dataset_dir, table, params)
    log_few_shot(workspace, folder, report)
    return {"folder": str(folder), **report.model_dump(mode="json")}


def few_shot_text(report: FewShotReport) -> str:
    """The figures as an aligned table: the mean with its 95 % interval, and between what single episodes lie."""
    head = ("k", "method", "AUC [95 % of the mean]", "single episodes", "accuracy", "balanced", "episodes")
    rows = [head]
    for k, method in dict.fromkeys((row.k, row.method) for row in report.figures):
        auc, accuracy, balanced = (report.find(k, method, name) for name in ("auc", "accuracy", "balanced_accuracy"))
        assert auc is not None
        spread = "" if auc.episode_low is None else f"{auc.episode_low:.3f} to {auc.episode_high:.3f}"
        rows.append((str(k), method, _text(auc), spread, _text(accuracy), _text(balanced), str(auc.n_episodes)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        f"few-shot on {report.n_nodules} nodules of {report.n_patients} patients ({report.n_positive} malignant), "
        f"frozen {report.backbone}, weights {report.weights}"
    ]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *(f"note: {warning}" for warning in report.warnings)])


def _text(figure: FewShotFigure | None) -> str:
    if figure is None or figure.value is None:
        return figure.note if figure is not None and figure.metric == "auc" else "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}-{figure.high:.3f}]"
