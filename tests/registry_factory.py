"""A workspace with sealed versions of tiny networks in a real MLflow, without the minutes of a training."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from compression_cohort import discs, write_run

from data_contracts.manifest import Split
from data_contracts.params import EvaluateParams
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.promotion import PromotionPolicy
from flows.settings import Settings
from flows.versions.tracking_database import begin_database
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.evaluation import build_report

#: nothing but the size of the test set is asked
OPEN = PromotionPolicy(
    name="open",
    min_auc=0.0,
    min_auc_minus_size=-1.0,
    max_auc_drop_vs_champion=1.0,
    max_ece=1.0,
    min_subgroup_auc=None,
    require_card=False,
)

_LOADER = """class Doubling:
    def predict(self, data):
        return (data * 2).ravel()


def _load_pyfunc(path):
    return Doubling()
"""


def settings_of(folder: Path) -> Settings:
    return Settings(workspace=folder / "ws", _env_file=None)


@lru_cache(maxsize=1)
def _empty_database() -> Path:
    """MLflow's tables without a row of ours; making them takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="empty-mlflow-"))
    begin_database(folder / "mlflow.db", folder / "scratch")
    return folder / "mlflow.db"


def make_workspace(folder: Path, versions: int = 2) -> tuple[Workspace, Settings]:
    """A workspace with a dataset of discs and versions 1, 2, ... of untrained networks, the last one challenger."""
    # mlflow exports the address of the workspace before; a fixture of a module is made before a test can take it away
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    settings = settings_of(folder)
    workspace = Workspace(settings.workspace).create()
    shutil.copyfile(_empty_database(), workspace.mlflow_database)
    for number in range(1, versions + 1):
        add_version(workspace, settings, number)
    return workspace, settings


def add_version(workspace: Workspace, settings: Settings, number: int, strength: float = 3.0) -> str:
    """Write the run folder of a version, log it and register it; returns its number in MLflow."""
    from flows.registry import Registry

    run_id = write_folder(workspace, number, strength)
    registry = Registry(workspace, settings.model_name)
    return registry.register(run_id, log_run(registry, workspace, run_id))


def write_folder(workspace: Workspace, number: int, strength: float = 3.0) -> str:
    """A run folder as training leaves it, with made-up predictions of the real held-out patches."""
    finished = sorted(workspace.datasets_root.glob("*/dataset.json"))
    card = PatchReader(finished[0].parent).card if finished else discs(workspace, workspace.root)
    run_id = f"run{number}"
    folder = workspace.runs_root / run_id
    write_run(workspace, card, run_id=run_id, seed=number)
    index = PatchReader(workspace.datasets_root / card.dataset_id).index
    rows = index[index["split"] == Split.TEST.value].reset_index(drop=True)
    random = np.random.default_rng(number)
    latent = strength * (rows["label"].to_numpy(dtype=float) - 0.5) + random.normal(size=len(rows))
    score = 1 / (1 + np.exp(-strength * latent))
    table = rows[["patch_id", "nodule_id", "patient_key", "split", "site", "label", "diameter_mm"]].assign(
        fold=0, score=score, score_image=score, score_size=rows["diameter_mm"] / (rows["diameter_mm"] + 10)
    )
    table["label"] = pd.array(table["label"], dtype="Int8")
    PREDICTION_TABLE.write(folder / "predictions.parquet", table)
    report = build_report(
        table, run_id=run_id, dataset_id=card.dataset_id, backbone="small_cnn", weights="none", pretrained=False,
        protocol="held out", thresholds={}, params=EvaluateParams(bootstrap=100),
    )  # fmt: skip
    report.write(folder / "evaluation.json")
    (folder / "environment.json").write_text(json.dumps({"python": "3"}))
    return run_id


def log_run(registry, workspace: Workspace, run_id: str) -> str:
    """An MLflow run with a model of three files that doubles what it is given, as the tracked training would log."""
    from flows.versions import tracking

    client = registry.client
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    mlflow_id = client.create_run(experiment.experiment_id, tags={"noduleflow.run_id": run_id}).info.run_id
    model = workspace.root / "logged" / run_id
    (model / "data").mkdir(parents=True)
    loader = f"doubling_{run_id}"
    (model / "code").mkdir()
    (model / "code" / f"{loader}.py").write_text(f"# {run_id}\n{_LOADER}")
    (model / "MLmodel").write_text(
        f"flavors:\n  python_function:\n    loader_module: {loader}\n    code: code\n    data: data\n"
    )
    (model / "data" / "weights.bin").write_bytes(run_id.encode() * 50)
    client.log_artifacts(mlflow_id, str(model), "model")
    client.set_tag(mlflow_id, tracking.MODEL_URI_TAG, f"runs:/{mlflow_id}/model")
    return str(mlflow_id)


def files_of(workspace: Workspace, run_id: str) -> list[Path]:
    """Every file of a version: of its run folder and of its MLflow model."""
    run_files = [path for path in (workspace.runs_root / run_id).rglob("*") if path.is_file()]
    logged = [path for path in workspace.mlflow_artifacts.rglob("model/**/*") if path.is_file()]
    return sorted([*run_files, *(path for path in logged if run_id in path.read_bytes().decode("latin-1"))])
