"""MLflow runs: the only place that writes parameters, metrics and artifacts; registry.py has the versions."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from flows.remote.opening import needs_server
from flows.versions.environment import ENVIRONMENT_FILE, UNKNOWN
from flows.versions.tracking_database import begin_database
from flows.versions.version_files import version_files
from flows.workspace import Workspace
from pipeline.review.metric_rows import metric_rows

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "noduleflow"
#: tag of a run: address of its logged serving model
MODEL_URI_TAG = "noduleflow.model_uri"
#: these files of a version are in its logged model and nowhere else: they are large
_WEIGHTS = ("checkpoint.safetensors", "serving/", "bundle/")
#: the server refuses more
_METRICS_A_CALL = 500


def tracking_uri(workspace: Workspace) -> str:
    """The server of the settings, or sqlite in the workspace; raises UsageError where that is in a bucket."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    needs_server(workspace, "MLflow", "NODULEFLOW_MLFLOW_TRACKING_URI")
    return workspace.mlflow_database_uri


def connect(workspace: Workspace) -> MlflowClient:
    """A client of this workspace's MLflow, with the experiment made."""
    import mlflow

    uri = tracking_uri(workspace)
    with workspace.lock("mlflow-setup"):
        if uri == workspace.mlflow_database_uri:
            begin_database(workspace.mlflow_database, workspace.scratch_root)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = mlflow.MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            location = None if uri.startswith("http") else workspace.mlflow_artifacts.as_uri()
            client.create_experiment(EXPERIMENT, artifact_location=location)
    return client


def find_run(client: MlflowClient, run_id: str) -> Any | None:
    """The MLflow run of one of our runs, or None."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.`noduleflow.run_id` = '{run_id}'", max_results=1)
    return found[0] if found else None


def log_run(workspace: Workspace, run_id: str, history: dict[str, list[dict[str, Any]]]) -> str:
    """Log a finished run of the workspace once; logging it again after a kill goes on where it was.

    Parameters
    ----------
    history: per network, one mapping of metrics an epoch; figures of the adaptation in a mapping of their own.

    Returns
    -------
    MLflow's own run id.
    """
    from flows.versions.tracking_model import log_model  # torch: not for those who only ask for a version

    client = connect(workspace)
    folder = workspace.runs_root / run_id
    card = ModelCard.read(folder / "model_card.json")
    report = EvaluationReport.read(folder / "evaluation.json")
    existing = find_run(client, run_id)
    if existing is not None and existing.data.tags.get("noduleflow.logged") == "complete":
        return str(existing.info.run_id)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    if existing is None:
        tags = {"noduleflow.run_id": run_id, "mlflow.source.name": "noduleflow", "mlflow.source.type": "PROJECT"}
        existing = client.create_run(experiment.experiment_id, tags=tags, run_name=f"{card.name}-{run_id[:8]}")
    mlflow_id = str(existing.info.run_id)
    _log_facts(client, mlflow_id, card)
    model_uri = existing.data.tags.get(MODEL_URI_TAG)
    if model_uri is None:
        # Before the figures: MLflow asks the server for the history of each figure that the run has by then.
        model_uri = log_model(mlflow_id, folder, card, workspace.scratch_root)
        client.set_tag(mlflow_id, MODEL_URI_TAG, model_uri)
    _log_figures(client, mlflow_id, report, model_uri.removeprefix("models:/"))
    for network, epochs in history.items():
        _log_curves(client, mlflow_id, network, epochs)
    _log_dataset(client, mlflow_id, card)
    environment = json.loads((folder / ENVIRONMENT_FILE).read_text())
    for name, value in environment.items():
        client.set_tag(mlflow_id, f"noduleflow.environment.{name}", str(value))
    if (commit := environment.get("git_commit", UNKNOWN)) != UNKNOWN:
        client.set_tag(mlflow_id, "mlflow.source.git.commit", commit)  # where MLflow's own pages look
    for name in version_files(folder):
        if not name.startswith(_WEIGHTS):
            client.log_artifact(mlflow_id, str(folder / name), str(Path(name).parent) if "/" in name else None)
    client.set_tag(mlflow_id, "noduleflow.logged", "complete")
    client.set_terminated(mlflow_id, "FINISHED")
    return mlflow_id


def _log_curves(client: MlflowClient, mlflow_id: str, network: str, epochs: list[dict[str, Any]]) -> None:
    """One metric a figure, one step an epoch; a second time it would write the same points again, which is no harm."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = []
    for epoch in epochs:
        values = {**epoch, **epoch.get("figures", {})}
        for name, value in values.items():
            if name not in ("epoch", "figures") and value is not None:
                metrics.append(Metric(f"{network}/{name}", float(value), now_ms, int(epoch["epoch"])))
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(mlflow_id, metrics=metrics[start : start + _METRICS_A_CALL])


def _log_dataset(client: MlflowClient, mlflow_id: str, card: ModelCard) -> None:
    """The dataset by its digest, as the pages of MLflow show it; without an address, which is nobody's business."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = str(card.training["dataset_sha256"])
    dataset = Dataset(
        name=card.dataset_id,
        digest=digest[:36],  # all that MLflow keeps; the whole of it is a parameter
        source_type="local",
        source=json.dumps({"dataset_id": card.dataset_id}),
        profile=json.dumps({"n_train": card.training["n_train"], "n_validation": card.training["n_validation"]}),
    )
    client.log_inputs(mlflow_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _log_facts(client: MlflowClient, mlflow_id: str, card: ModelCard) -> None:
    for key, value in {**card.training, "backbone": card.backbone, "dataset_id": card.dataset_id}.items():
        client.log_param(mlflow_id, key, str(value)[:500])
    for key in ("weights", "weights_sha256", "pretrained"):
        client.set_tag(mlflow_id, f"noduleflow.{key}", str(getattr(card, key)))


def _log_figures(client: MlflowClient, mlflow_id: str, report: EvaluationReport, model_id: str) -> None:
    """The figures of the run, which are those of its logged model."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now_ms, 0, model_id=model_id, run_id=mlflow_id) for name, value in metric_rows(report)
    ]
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(mlflow_id, metrics=metrics[start : start + _METRICS_A_CALL])
