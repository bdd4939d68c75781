"""A run that is killed or shared between processes ends with the same weights; what is wrong with its data is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from two_sites import NARROW, make_workspace, run, train_command

from data_contracts.errors import ContractError, LeakError, WeightsDigestError
from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.params import TrainParams
from data_contracts.records import sha256_file
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.network_fits import fit_network
from flows.learning.training import choose_and_evaluate, train_flow
from flows.learning.wanted_networks import JOINT, SOURCE_ONLY, network_names
from flows.presets import train_params
from flows.workspace import Workspace
from models.networks.backbones import build_backbone
from models.weights.zoo import WeightsInfo, load_weights

#: epochs of many small steps, so that a kill falls into one
SETTINGS = {
    "source_site": "A",
    "target_site": "B",
    "adaptation": "coral,dann,adabn",
    "batch_size": 4,
    "epochs": 4,
    "deterministic": "true",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    return make_workspace(tmp_path_factory.mktemp("two-sites"))


def copy_of(dataset: tuple[Workspace, str], folder: Path) -> Workspace:
    workspace = Workspace(folder).create()
    shutil.copytree(dataset[0].datasets_root, workspace.datasets_root, dirs_exist_ok=True)
    return workspace


def params_of(**changes: Any) -> TrainParams:
    values = {**NARROW, **changes}
    values["deterministic"] = values.get("deterministic") == "true"
    return train_params("finetune", values)


def trained_in_process(workspace: Workspace, dataset_id: str, params: TrainParams, run_id: str) -> Path:
    """The steps of a run without Prefect and MLflow around them; returns the run's folder."""
    networks = network_names(params)
    for name in networks:
        fit_network.fn(workspace, run_id, dataset_id, params, name, None)
    weights: WeightsInfo = load_weights(build_backbone(params.backbone, seed=0), params.weights)
    choose_and_evaluate.fn(workspace, run_id, dataset_id, params, weights, networks)
    return workspace.runs_root / run_id


def change_index(workspace: Workspace, dataset_id: str, change: Any) -> None:
    path = workspace.datasets_root / dataset_id / "index.parquet"
    table = pd.read_parquet(path)
    change(table)
    table.to_parquet(path, index=False)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_checkpoint(
    dataset: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = copy_of(dataset, tmp_path / "killed")
    command = train_command(workspace, **SETTINGS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 500
    while not (states := list(workspace.runs_root.glob("*/networks/coral/state/state.json"))):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs_done = len(json.loads(states[0].read_text())["history"])
    networks = states[0].parents[2]
    assert epochs_done < SETTINGS["epochs"] and not (networks / "coral" / "logits.parquet").exists()
    fitted_before = sha256_file(networks / SOURCE_ONLY / "logits.parquet")

    done = run(command, 900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fit source-only: there already" in done.stderr
    record = json.loads(done.stdout)
    folder = Path(record["folder"])
    assert sha256_file(networks / SOURCE_ONLY / "logits.parquet") == fitted_before
    history = json.loads((networks / "coral" / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == list(range(SETTINGS["epochs"]))

    quiet = copy_of(dataset, tmp_path / "undisturbed")
    undisturbed = trained_in_process(quiet, dataset[1], params_of(**SETTINGS), record["run_id"])
    assert sha256_file(folder / "checkpoint.safetensors") == sha256_file(undisturbed / "checkpoint.safetensors")
    for name in (SOURCE_ONLY, "coral", "dann", "adabn"):
        tables = [pd.read_parquet(root / "networks" / name / "logits.parquet") for root in (folder, undisturbed)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert not list(folder.glob("networks/*/state")) and not list(folder.glob("networks/*/checkpoint.safetensors"))
    check_what_mlflow_holds(workspace, folder)


def check_what_mlflow_holds(workspace: Workspace, folder: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{workspace.mlflow_database}")
    (logged,) = client.search_runs([client.get_experiment_by_name("noduleflow").experiment_id])
    card = ModelCard.read(folder / "model_card.json")
    for metric in ("source-only/validation_auc", "coral/adaptation_loss", "dann/domain_accuracy"):
        assert len(client.get_metric_history(logged.info.run_id, metric)) >= SETTINGS["epochs"], metric
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert {"confusion.png", "learning-curves.png", "environment.json", "model_card.json"} <= files
    (used,) = logged.inputs.dataset_inputs
    assert card.training["dataset_sha256"].startswith(used.dataset.digest)
    assert logged.data.params["dataset_sha256"] == card.training["dataset_sha256"]
    assert logged.data.tags["noduleflow.environment.threads"] == "1"
    facts = (folder / "environment.json").read_text()
    assert str(workspace.root.parent) not in facts and os.uname().nodename not in facts


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_torchrun_gives_one_run_with_the_logits_of_one_process(dataset: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace = copy_of(dataset, tmp_path / "shared")
    settings = {"source_site": "A", "epochs": 2, "batchnorm": "adaptive", "unfreeze": 2}
    front = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*front, *train_command(workspace, **settings)[1:]], 900)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["version"] == "1" and len(list(workspace.runs_root.iterdir())) == 1
    assert json.loads((Path(record["folder"]) / "environment.json").read_text())["ranks"] == 2

    alone = trained_in_process(copy_of(dataset, tmp_path / "alone"), dataset[1], params_of(**settings), "alone")
    tables = [
        pd.read_parquet(root / "networks" / SOURCE_ONLY / "logits.parquet") for root in (Path(record["folder"]), alone)
    ]
    assert list(tables[0]["patch_id"]) == list(tables[1]["patch_id"])
    np.testing.assert_allclose(tables[0]["logit"], tables[1]["logit"], atol=2e-3)


@pytest.mark.slow
def test_joint_training_learns_labels_of_both_sites_and_stands_beside_source_only(
    dataset: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = copy_of(dataset, tmp_path)
    params = params_of(source_site="A", target_site="B", target_label_weight=1.0, auxiliary_weight=0.5)
    cohort = TrainingCohort(workspace.datasets_root / dataset[1], params)
    data, source = cohort.fit_data(adapted=False, joint=True), cohort.fit_data(adapted=False)
    assert source.train.from_target is None and data.train.from_target is not None
    assert data.train.from_target.sum() == len(cohort.labelled_target()) > 0
    assert len(data.train) == len(source.train) + data.train.from_target.sum()
    assert set(cohort.validation()["site"]) == {"A", "B"} and set(cohort.source_validation()["site"]) == {"A"}

    folder = trained_in_process(workspace, dataset[1], params, "joint")
    card = ModelCard.read(folder / "model_card.json")
    assert card.training["network"] == JOINT and "spiculation" in card.concepts
    assert set(EvaluationReport.read(folder / "evaluation.json").alternatives) == {SOURCE_ONLY, JOINT}


@pytest.mark.slow
def test_labels_swapped_in_validation_are_said_in_the_card_the_report_and_its_page(
    dataset: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = copy_of(dataset, tmp_path)

    def swap(table: pd.DataFrame) -> None:
        rows = table["split"] == "validation"
        table.loc[rows, "label"] = 1 - table.loc[rows, "label"]

    before = TrainingCohort(workspace.datasets_root / dataset[1], params_of()).digest()
    change_index(workspace, dataset[1], swap)
    assert TrainingCohort(workspace.datasets_root / dataset[1], params_of()).digest() != before
    folder = trained_in_process(workspace, dataset[1], params_of(epochs=4), "swapped")
    words = "the labels of validation contradict those of training"
    assert any(words in warning for warning in ModelCard.read(folder / "model_card.json").warnings)
    assert any(words in warning for warning in EvaluationReport.read(folder / "evaluation.json").warnings)
    assert words in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.server
def test_a_patient_in_two_splits_ends_the_command_with_status_1_before_the_first_step(
    dataset: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = copy_of(dataset, tmp_path / "leaked")

    def leak(table: pd.DataFrame) -> None:
        train, test = (table.index[table["split"] == split][0] for split in ("train", "test"))
        table.loc[test, "patient_key"] = table.loc[train, "patient_key"]

    change_index(workspace, dataset[1], leak)
    with pytest.raises(LeakError, match="patient_key are in more than one split"):
        train_flow.fn(str(workspace.root), dataset[1], params_of(), "model")
    done = run(train_command(workspace))
    assert done.returncode == 1
    assert "in more than one split" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(workspace.runs_root.glob("*"))


def test_a_changed_shard_stops_a_run_before_the_first_step(dataset: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace = copy_of(dataset, tmp_path)
    shard = next((workspace.datasets_root / dataset[1]).glob("patches-*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ContractError, match="missing or was changed"):
        train_flow.fn(str(workspace.root), dataset[1], params_of(), "model")


@pytest.mark.slow
def test_fitted_weights_that_have_changed_are_neither_adapted_nor_chosen(
    dataset: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = copy_of(dataset, tmp_path)
    params = params_of(source_site="A", target_site="B", adaptation="adabn", epochs=1)
    fit_network.fn(workspace, "run", dataset[1], params, SOURCE_ONLY, None)
    weights = workspace.runs_root / "run" / "networks" / SOURCE_ONLY / "checkpoint.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(WeightsDigestError, match="not what was written"):
        fit_network.fn(workspace, "run", dataset[1], params, "adabn", None)
    info = load_weights(build_backbone(params.backbone, seed=0), params.weights)
    with pytest.raises(WeightsDigestError, match="not what was written"):
        choose_and_evaluate.fn(workspace, "run", dataset[1], params, info, [SOURCE_ONLY])
    assert not (workspace.runs_root / "run" / "model_card.json").exists()
