"""MLflow runs: the only place that writes parameters, metrics and artifacts; registry.py has the versions."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from flows.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "noduleflow"
#: tag of a run: address of its logged serving model
MODEL_URI_TAG = "noduleflow.model_uri"
_ARTIFACTS = (
    "evaluation.json",
    "report.html",
    "model_card.json",
    "predictions.parquet",
    "concepts.parquet",
    "checkpoint.safetensors",
    "confusion.png",
    "learning-curves.png",
    "environment.json",
)
#: the server refuses more
_METRICS_A_CALL = 500


def tracking_uri(workspace: Workspace) -> str:
    """The server of the settings, or sqlite in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.mlflow_database}"


def connect(workspace: Workspace) -> MlflowClient:
    """A client of this workspace's MLflow, with the experiment made."""
    import mlflow

    uri = tracking_uri(workspace)
    with workspace.lock("mlflow-setup"):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = mlflow.MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            location = workspace.mlflow_artifacts.as_uri() if uri.startswith("sqlite") else None
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
    import mlflow

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
    _log_figures(client, mlflow_id, card, report)
    for network, epochs in history.items():
        _log_curves(client, mlflow_id, network, epochs)
    _log_dataset(client, mlflow_id, card)
    for name, value in json.loads((folder / "environment.json").read_text()).items():
        client.set_tag(mlflow_id, f"noduleflow.environment.{name}", str(value))
    for name in _ARTIFACTS:
        if (folder / name).exists():  # a network without concepts has no table of them
            client.log_artifact(mlflow_id, str(folder / name))
    client.set_tag(mlflow_id, MODEL_URI_TAG, _log_serving_model(mlflow_id, folder, card, mlflow))
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


def _log_figures(client: MlflowClient, mlflow_id: str, card: ModelCard, report: EvaluationReport) -> None:
    for key, value in {**card.training, "backbone": card.backbone, "dataset_id": card.dataset_id}.items():
        client.log_param(mlflow_id, key, str(value)[:500])
    for key in ("weights", "weights_sha256", "pretrained"):
        client.set_tag(mlflow_id, f"noduleflow.{key}", str(getattr(card, key)))
    for row in report.figures:
        for name in ("auc", "size_matched_auc", "average_precision", "brier", "ece"):
            figure = getattr(row, name)
            for suffix, value in (("", figure.value), ("_low", figure.low), ("_high", figure.high)):
                if value is not None:
                    client.log_metric(mlflow_id, f"test/{row.site}/{row.score}/{name}{suffix}", value)


def _log_serving_model(mlflow_id: str, folder: Path, card: ModelCard, mlflow: Any) -> str:
    """Log the pt2 export for serving (an example of batch 2 keeps the batch axis free) and return its address."""
    import numpy as np

    from models.export import ServingModule
    from models.predict import Predictor

    with mlflow.start_run(run_id=mlflow_id), warnings.catch_warnings():
        # torch warns of its own export format; there is nothing a user could do about it.
        warnings.simplefilter("ignore")
        logged = mlflow.pytorch.log_model(
            ServingModule(Predictor.load(folder).network, card.input, card.calibration),
            name="model",
            input_example=np.zeros((2, *card.input.patch_shape), dtype=np.float32),
            pip_requirements=[f"torch=={_version('torch')}", f"torchvision=={_version('torchvision')}"],
            serialization_format="pt2",
        )
    return str(logged.model_uri)


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution).split("+")[0]
