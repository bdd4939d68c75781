"""Training: fit the networks, let the gate choose, calibrate, evaluate, log and register."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.errors import WeightsDigestError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.model_card import Calibration, ModelCard
from data_contracts.params import AdaptationGateParams, EvaluateParams, TrainParams
from data_contracts.records import atomic_path, digest_of, sha256_file, write_bytes_atomic
from flows.datasets.cohort_audit import audit_cohort, warnings_of
from flows.datasets.features import feature_params, feature_table
from flows.datasets.labelled import floats
from flows.datasets.training_cohort import TrainingCohort
from flows.engine import step
from flows.learning.kept import KEPT, joinable, keep_network
from flows.learning.network_fits import (
    fit_network,
    fitted_sha256,
    forget_weights,
    logits_of,
    outputs_for_gate,
)
from flows.learning.teaching import with_teacher
from flows.learning.train_checks import check_run
from flows.learning.version_weights import with_version_weights
from flows.learning.wanted_networks import JOINT, SOURCE_ONLY, network_names
from flows.progress import say
from flows.registry import Registry
from flows.reviewing.drift_samples import write_reference
from flows.versions.concepts import card_figures, concept_table, concepts_in_own_units
from flows.versions.contents import write_contents
from flows.versions.disclosure import disclosure_of, site_statements, write_disclosure
from flows.versions.environment import ENVIRONMENT_FILE, environment
from flows.versions.evaluation import predictions_of, write_evaluation
from flows.versions.facts import held_out_facts
from flows.versions.tracking import log_run
from flows.workspace import Workspace
from models.checkpoint import CHECKPOINT_FILE, load_network
from models.networks.backbones import build_backbone
from models.networks.inputs import input_spec
from models.weights.zoo import WeightsInfo, load_weights
from pipeline.review.training_pictures import confusion_png, curves_png
from pipeline.scoring.conformal import fit_conformal
from pipeline.scoring.delong import delong
from pipeline.scoring.fusion import apply_calibration, fit_calibration
from pipeline.scoring.label_check import label_warnings
from pipeline.scoring.shift.gate import decide_adaptation
from pipeline.scoring.thresholds import freeze_operating_points, threshold_name

#: part of a run's id: a change of what training does makes new runs
TRAINING_VERSION = 3
PROTOCOL = "patients held out by a hash of their key; thresholds and calibration frozen on validation patients"
MEMBERS_PROTOCOL = (
    "patients held out by a hash of their key; thresholds and calibration frozen on training patients, each predicted "
    "by a network that did not learn from it"
)


def _logits(workspace: Workspace, run_id: str, name: str, part: str, rows: pd.DataFrame) -> np.ndarray:
    return logits_of(workspace.runs_root / run_id / "networks" / name, part, rows)


def _histories(workspace: Workspace, run_id: str, networks: list[str]) -> dict[str, list[dict[str, Any]]]:
    root = workspace.runs_root / run_id / "networks"
    return {name: json.loads((root / name / "history.json").read_text()) for name in networks}


def _calibrate(workspace: Workspace, run_id: str, name: str, cohort: TrainingCohort) -> Calibration:
    validation, train = cohort.validation(), cohort.train()
    if cohort.params.members > 1:  # the training patients themselves calibrate
        train = train.head(0)
    return fit_calibration(
        _logits(workspace, run_id, name, "validation", validation),
        floats(validation["diameter_mm"]),
        floats(validation["label"]),
        floats(train["diameter_mm"]),
        floats(train["label"]),
        balance=cohort.params.fusion_balance,
        method=cohort.params.calibration,
    )


def _label_warnings(
    workspace: Workspace, run_id: str, chosen: str, cohort: TrainingCohort, histories: dict[str, list[dict[str, Any]]]
) -> tuple[str, ...]:
    """Signs of swapped labels, in the learning curves of source-only, in the kept network and in the diameters."""
    train, rows = cohort.train(), cohort.source_validation()
    labels = floats(rows["label"])
    kept = float(delong(labels, _logits(workspace, run_id, chosen, "validation", rows))[0][0])
    aucs = [epoch["validation_auc"] for epoch in histories[SOURCE_ONLY]]
    sizes = floats(train["diameter_mm"]), floats(rows["diameter_mm"])
    return label_warnings(floats(train["label"]), sizes[0], labels, sizes[1], [*aucs, kept])


@step("choose-and-evaluate")
def choose_and_evaluate(
    workspace: Workspace, run_id: str, dataset_id: str, params: TrainParams, weights: WeightsInfo, networks: list[str]
) -> str:
    """Let the gate choose a network, calibrate it, freeze thresholds, and write the run's files; returns the choice."""
    folder = workspace.runs_root / run_id
    cohort = TrainingCohort(workspace.datasets_root / dataset_id, params)
    decision = None if JOINT in networks else _decide(workspace, run_id, cohort, networks)
    chosen = decision.chosen if decision else networks[-1] if JOINT in networks else SOURCE_ONLY
    kept = keep_network(folder / "networks", cohort, params, decision) if decision else chosen
    judged = list(dict.fromkeys((*networks, kept)))
    calibrations = {name: _calibrate(workspace, run_id, name, cohort) for name in judged}
    test, validation = cohort.test(), cohort.validation()
    facts = held_out_facts(workspace, cohort.reader, test)
    tables = {
        name: predictions_of(test, _logits(workspace, run_id, name, "test", test), calibrations[name], facts=facts)
        for name in judged
    }
    scores = apply_calibration(
        calibrations[kept],
        _logits(workspace, run_id, kept, "validation", validation),
        floats(validation["diameter_mm"]),
    )
    truth = floats(validation["label"])
    frozen = {score: freeze_operating_points(values, truth) for score, values in scores.items()}
    histories = _histories(workspace, run_id, networks)
    warnings = (*_label_warnings(workspace, run_id, kept, cohort, histories), *warnings_of(folder))
    with atomic_path(folder / CHECKPOINT_FILE) as temporary:
        shutil.copyfile(folder / "networks" / kept / CHECKPOINT_FILE, temporary)
        checkpoint_sha256 = sha256_file(temporary)
    if checkpoint_sha256 != fitted_sha256(folder / "networks" / kept):
        raise WeightsDigestError(
            "the weights of a fitted network are not what was written",
            where=f"{kept}/{CHECKPOINT_FILE}",
            todo="Remove that folder of the run and train again.",
        )
    learned = cohort.learned(joint=chosen == JOINT)
    card = ModelCard(
        name=params.preset or "custom",
        run_id=run_id,
        backbone=params.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        pretrained=weights.pretrained,
        head=params.head,
        members=len(decision.members) if decision and kept == KEPT else params.members,
        input=input_spec(cohort.reader.card, params),
        calibration=calibrations[kept],
        thresholds=frozen["score"],
        conformal=fit_conformal(scores["score"], truth, alpha=EvaluateParams().conformal_alpha),
        checkpoint_sha256=checkpoint_sha256,
        dataset_id=dataset_id,
        pooling=params.pooling,
        concepts=cohort.concepts,
        warnings=(*warnings, *cohort.reader.card.warnings),
        training={
            **params.model_dump(mode="json", exclude={"weights", "weights_sha256", "backbone"}),
            "training_version": TRAINING_VERSION,
            "network": chosen,
            "dataset_sha256": cohort.digest(),
            "population": _population(learned),
            "n_train": len(learned),
            "n_validation": len(validation),
        },
    )
    concepts = None
    if card.concepts:
        predicted = concepts_in_own_units(load_network(folder, card), cohort.patches(test), card)
        concepts = concept_table(predicted, test)
    report = write_evaluation(
        folder,
        tables[kept],
        card,
        protocol=PROTOCOL if params.members == 1 else MEMBERS_PROTOCOL,
        baseline_thresholds={score: frozen[score] for score in ("score_image", "score_size")},
        alternatives={name: tables[name] for name in networks if len(networks) > 1},
        adaptation=decision,
        params=EvaluateParams(),
        concepts=concepts,
    )
    card = card.model_copy(update={"concept_figures": card_figures(report.concepts)})
    held_out = tables[kept].set_index("patch_id")["score"]
    if params.members == 1:  # several members learn from the validation patients, too
        held_out = pd.concat([held_out, pd.Series(scores["score"], index=list(validation["patch_id"]))])
    write_reference(workspace, folder, load_network(folder, card), card, cohort, held_out)
    _write_pictures(folder, tables[kept], card, params, histories)
    write_bytes_atomic(folder / ENVIRONMENT_FILE, json.dumps(environment(), indent=1).encode())
    write_disclosure(disclosure_of(workspace, folder, card=card), folder)
    card.write(folder / "model_card.json")
    for name in judged:
        forget_weights(folder / "networks" / name)
    for warning in warnings:
        say(f"warning: {warning}")
    return chosen


def _write_pictures(
    folder: Path,
    predictions: pd.DataFrame,
    card: ModelCard,
    params: TrainParams,
    histories: dict[str, list[dict[str, Any]]],
) -> None:
    """confusion.png at the operating threshold on source and target, learning-curves.png of every network."""
    sites = list(dict.fromkeys(site for site in (params.source_site, params.target_site) if site))
    if not sites:
        sites = sorted(set(predictions["site"]))
    threshold = card.thresholds.get(threshold_name(EvaluateParams().operating_specificity))
    write_bytes_atomic(folder / "confusion.png", confusion_png(predictions, threshold, sites))
    write_bytes_atomic(folder / "learning-curves.png", curves_png(histories))


def _population(rows: pd.DataFrame) -> str:
    sites = ", ".join(sorted(set(rows["site"])))
    return f"{len(rows)} nodules of {rows['patient_key'].nunique()} patients, {sites}"


def _decide(
    workspace: Workspace, run_id: str, cohort: TrainingCohort, networks: list[str]
) -> AdaptationDecision | None:
    if networks == [SOURCE_ONLY]:
        return None
    outputs = {name: outputs_for_gate(workspace.runs_root / run_id / "networks" / name, cohort) for name in networks}
    labels, together = floats(cohort.validation()["label"]), joinable(cohort, cohort.params)
    return decide_adaptation(labels, outputs, AdaptationGateParams(), joinable=together)


@step("log-and-register")
def log_and_register(workspace: Workspace, run_id: str, networks: list[str], model_name: str) -> str:
    """Log the run to MLflow and register it as challenger, each once; returns the version."""
    folder = workspace.runs_root / run_id
    write_contents(folder, workspace.datasets_root / ModelCard.read(folder / "model_card.json").dataset_id)
    mlflow_id = log_run(workspace, run_id, _histories(workspace, run_id, networks))
    return Registry(workspace, model_name).register(run_id, mlflow_id)


def fit_run(workspace: Workspace, run_id: str, dataset_id: str, params: TrainParams, weights: WeightsInfo) -> None:
    """Everything of a run but its logging: features where it learns from them, every network, choice and evaluation."""
    networks = network_names(params)
    audit_cohort(workspace.runs_root / run_id, TrainingCohort(workspace.datasets_root / dataset_id, params))
    wanted = feature_params(params)
    table = feature_table(workspace, workspace.datasets_root / dataset_id, wanted)[0] if wanted else None
    for name in networks:
        fit_network(workspace, run_id, dataset_id, params, name, table)
    choose_and_evaluate(workspace, run_id, dataset_id, params, weights, networks)


@flow(name="train", log_prints=False)
def train_flow(workspace_root: str, dataset_id: str, params: TrainParams, model_name: str) -> dict[str, Any]:
    """Fit, choose, evaluate, log and register; each stage is done once, whatever is killed when."""
    workspace = Workspace(Path(workspace_root))
    networks = network_names(params)
    dataset_dir = workspace.datasets_root / dataset_id
    cohort = TrainingCohort(dataset_dir, params)
    check_run(cohort, params)
    cohort.check()
    site_statements(workspace)  # an unreadable file is told before the fit, not after it
    params = with_teacher(workspace, model_name, params, cohort)
    params, version_name = with_version_weights(workspace, model_name, params, cohort)
    weights = load_weights(build_backbone(params.backbone, seed=params.seed), params.weights, params.weights_sha256)
    weights = replace(weights, source=version_name or weights.source)
    run_id = digest_of([TRAINING_VERSION, cohort.digest(), params.model_dump(mode="json"), weights.sha256])
    with workspace.lock(f"run-{run_id}"):
        folder = workspace.runs_root / run_id
        if (folder / "model_card.json").exists():
            say(f"train: run {run_id} is finished already")
        else:
            fit_run(workspace, run_id, dataset_id, params, weights)
        version = log_and_register(workspace, run_id, networks, model_name)
    card = ModelCard.read(folder / "model_card.json")
    return {
        "run_id": run_id,
        "version": version,
        "network": card.training["network"],
        "folder": str(folder),
        "warnings": list(card.warnings),
    }
