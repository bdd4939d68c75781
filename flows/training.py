"""Training: fit one or two networks, let the gate choose, calibrate, evaluate, log and register."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.errors import UsageError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.model_card import Calibration, ModelCard
from data_contracts.params import AdaptationGateParams, EvaluateParams, TrainParams
from data_contracts.records import atomic_path, digest_of, sha256_file, write_bytes_atomic
from flows.backbone import calibration_rows, initial_backbone
from flows.engine import step
from flows.evaluation import predictions_of, write_evaluation
from flows.features import feature_params, feature_table
from flows.labelled import concept_names, floats
from flows.progress import say, stage
from flows.registry import Registry
from flows.tracking import log_run
from flows.training_cohort import TrainingCohort
from flows.workspace import Workspace
from models.checkpoint import CHECKPOINT_FILE, save_network
from models.fitting.fit import fit_classifier
from models.fitting.state import EpochRecord
from models.networks.backbones import build_backbone
from models.networks.inputs import input_spec
from models.predict import logits_of_features, predict_logits
from models.weights.zoo import WeightsInfo, load_weights
from pipeline.scoring.adaptation_gate import decide_adaptation
from pipeline.scoring.fusion import apply_calibration, fit_calibration
from pipeline.scoring.thresholds import freeze_thresholds

SOURCE_ONLY = "source-only"
#: part of a run's id: a change of what training does makes new runs
TRAINING_VERSION = 1
#: the most work of a fit that a kill may cost, beside the epoch it falls into
_STATE_EVERY_S = 15.0
PROTOCOL = "patients held out by a hash of their key; thresholds and calibration frozen on validation patients"


@step("fit")
def fit_network(
    workspace: Workspace, run_id: str, dataset_id: str, params: TrainParams, name: str, feature_table: Path | None
) -> str:
    """Fit one network once; returns its folder below the run, with its logits on validation, target and test."""
    folder = workspace.runs_root / run_id / "networks" / name
    if (folder / "logits.parquet").exists():
        say(f"fit {name}: there already")
        return name
    cohort = TrainingCohort(workspace.datasets_root / dataset_id, params, feature_table)
    adapted = name != SOURCE_ONLY
    used = params.model_copy(update={"adaptation": (name,) if adapted else ()})
    spec = input_spec(cohort.reader.card, params)
    sample = cohort.patches(calibration_rows(cohort.index))
    backbone, _ = initial_backbone(params.backbone, params.weights, params.weights_sha256, params.seed, sample, spec)
    with stage(f"fit {name}", params.epochs) as progress:
        result = fit_classifier(
            cohort.fit_data(adapted=adapted),
            used,
            spec,
            backbone,
            state_dir=folder / "state",
            state_every_s=_STATE_EVERY_S,
            on_epoch=lambda epoch: progress.advance(_epoch_line(epoch)),
        )
    say(f"fit {name}: learned in {result.precision}")
    save_network(folder, result.network)
    tables = []
    parts = {"validation": cohort.validation(), "test": cohort.test()}
    if params.target_site:
        parts["target"] = cohort.target()
    for part, rows in parts.items():
        features = cohort.features(rows) if params.views == 1 else None
        if features is None:
            logits = predict_logits(result.network, cohort.patches(rows), spec)
        else:
            logits = logits_of_features(result.network, features)
        tables.append(pd.DataFrame({"patch_id": list(rows["patch_id"]), "part": part, "logit": logits}))
    write_bytes_atomic(folder / "history.json", json.dumps([asdict(epoch) for epoch in result.history]).encode())
    with atomic_path(folder / "logits.parquet") as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return name


def _epoch_line(epoch: EpochRecord) -> str:
    figures = {name.replace("_", " "): value for name, value in epoch.figures.items()}
    shown = {"loss": epoch.train_loss, "validation AUC": epoch.validation_auc, **figures}
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)


def _logits(workspace: Workspace, run_id: str, name: str, part: str, rows: pd.DataFrame) -> np.ndarray:
    table = pd.read_parquet(workspace.runs_root / run_id / "networks" / name / "logits.parquet")
    table = table[table["part"] == part].set_index("patch_id")["logit"]
    return table.loc[list(rows["patch_id"])].to_numpy(dtype=np.float64)


def _calibrate(workspace: Workspace, run_id: str, name: str, cohort: TrainingCohort) -> Calibration:
    validation, train = cohort.validation(), cohort.train()
    return fit_calibration(
        _logits(workspace, run_id, name, "validation", validation),
        floats(validation["diameter_mm"]),
        floats(validation["label"]),
        floats(train["diameter_mm"]),
        floats(train["label"]),
    )


@step("choose-and-evaluate")
def choose_and_evaluate(
    workspace: Workspace, run_id: str, dataset_id: str, params: TrainParams, weights: WeightsInfo, networks: list[str]
) -> str:
    """Let the gate choose a network, calibrate it, freeze thresholds, and write the run's files; returns the choice."""
    folder = workspace.runs_root / run_id
    cohort = TrainingCohort(workspace.datasets_root / dataset_id, params)
    decision = _decide(workspace, run_id, cohort, networks)
    chosen = decision.chosen if decision else SOURCE_ONLY
    calibrations = {name: _calibrate(workspace, run_id, name, cohort) for name in networks}
    test, validation = cohort.test(), cohort.validation()
    tables = {
        name: predictions_of(test, _logits(workspace, run_id, name, "test", test), calibrations[name])
        for name in networks
    }
    scores = apply_calibration(
        calibrations[chosen],
        _logits(workspace, run_id, chosen, "validation", validation),
        floats(validation["diameter_mm"]),
    )
    frozen = {score: freeze_thresholds(values, floats(validation["label"])) for score, values in scores.items()}
    with atomic_path(folder / "checkpoint.safetensors") as temporary:
        shutil.copyfile(folder / "networks" / chosen / CHECKPOINT_FILE, temporary)
    card = ModelCard(
        name=params.preset or "custom",
        run_id=run_id,
        backbone=params.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        pretrained=weights.pretrained,
        head=params.head,
        input=input_spec(cohort.reader.card, params),
        calibration=calibrations[chosen],
        thresholds=frozen["score"],
        checkpoint_sha256=sha256_file(folder / "checkpoint.safetensors"),
        dataset_id=dataset_id,
        pooling=params.pooling,
        concepts=concept_names(cohort.index) if params.auxiliary_weight > 0 else (),
        training={
            **params.model_dump(mode="json", exclude={"weights", "weights_sha256", "backbone"}),
            "network": chosen,
            "population": _population(cohort.train()),
            "n_train": len(cohort.train()),
            "n_validation": len(validation),
        },
    )
    write_evaluation(
        folder,
        tables[chosen],
        card,
        protocol=PROTOCOL,
        baseline_thresholds={score: frozen[score] for score in ("score_image", "score_size")},
        alternatives={name: table for name, table in tables.items() if len(networks) > 1},
        adaptation=decision,
        params=EvaluateParams(),
    )
    card.write(folder / "model_card.json")
    for name in networks:  # their logits and history stay; the weights of a refused network are of no use
        (folder / "networks" / name / CHECKPOINT_FILE).unlink(missing_ok=True)
    return chosen


def _population(rows: pd.DataFrame) -> str:
    sites = ", ".join(sorted(set(rows["site"])))
    return f"{len(rows)} nodules of {rows['patient_key'].nunique()} patients, {sites}"


def _decide(
    workspace: Workspace, run_id: str, cohort: TrainingCohort, networks: list[str]
) -> AdaptationDecision | None:
    adapted = [name for name in networks if name != SOURCE_ONLY]
    if not adapted:
        return None
    validation, target = cohort.validation(), cohort.target()
    return decide_adaptation(
        adapted[0],
        floats(validation["label"]),
        {name: _logits(workspace, run_id, name, "validation", validation) for name in networks},
        {name: _logits(workspace, run_id, name, "target", target) for name in networks},
        AdaptationGateParams(),
    )


@step("log-and-register")
def log_and_register(workspace: Workspace, run_id: str, networks: list[str], model_name: str) -> str:
    """Log the run to MLflow and register it as challenger, each once; returns the version."""
    root = workspace.runs_root / run_id / "networks"
    history = {name: json.loads((root / name / "history.json").read_text()) for name in networks}
    return Registry(workspace, model_name).register(run_id, log_run(workspace, run_id, history))


@flow(name="train", log_prints=False)
def train_flow(workspace_root: str, dataset_id: str, params: TrainParams, model_name: str) -> dict[str, Any]:
    """Fit, choose, evaluate, log and register; each stage is done once, whatever is killed when."""
    workspace = Workspace(Path(workspace_root))
    weights = load_weights(build_backbone(params.backbone, seed=params.seed), params.weights, params.weights_sha256)
    run_id = digest_of([TRAINING_VERSION, dataset_id, params.model_dump(mode="json"), weights.sha256])
    networks = [SOURCE_ONLY, *params.adaptation]
    if params.adaptation and not params.target_site:
        raise UsageError("adaptation needs a target site", where="target_site", todo="Add --set target_site=NAME.")
    with workspace.lock(f"run-{run_id}"):
        folder = workspace.runs_root / run_id
        if (folder / "model_card.json").exists():
            say(f"train: run {run_id} is finished already")
        else:
            wanted = feature_params(params)
            table = feature_table(workspace, workspace.datasets_root / dataset_id, wanted)[0] if wanted else None
            for name in networks:
                fit_network(workspace, run_id, dataset_id, params, name, table)
            choose_and_evaluate(workspace, run_id, dataset_id, params, weights, networks)
        version = log_and_register(workspace, run_id, networks, model_name)
    card = ModelCard.read(folder / "model_card.json")
    return {"run_id": run_id, "version": version, "network": card.training["network"], "folder": str(folder)}
