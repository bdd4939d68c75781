"""The networks of a training run: source-only, and beside it each adaptation or a joint training."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from data_contracts.records import atomic_path, write_bytes_atomic
from flows.datasets.backbone import calibration_rows, initial_backbone
from flows.datasets.labelled import learned_concepts
from flows.datasets.training_cohort import TrainingCohort
from flows.engine import step
from flows.learning.members import fit_members
from flows.learning.ranks import announce
from flows.learning.teaching import load_teacher
from flows.learning.wanted_networks import JOINT, SOURCE_ONLY
from flows.progress import say, stage
from flows.workspace import Workspace
from models.adaptation.statistics import adapt_to_patches
from models.checkpoint import CHECKPOINT_FILE, restore_network, save_network
from models.fitting.fit import FitResult, fit_classifier
from models.fitting.state import EpochRecord
from models.networks.backbones import Backbone
from models.networks.inputs import input_spec
from models.networks.network import NetworkPlan, NoduleNetwork, build_network
from models.predict import logits_of_features, predict_logits, represented
from pipeline.scoring.shift.evidence import NetworkOutputs

#: source-only with BatchNorm statistics of the target: no fit
ADABN = "adabn"
#: the most work of a fit that a kill may cost, beside the epoch it falls into
_STATE_EVERY_S = 15.0
_FACTS = "network.json"
#: representations (n, width) of validation and target rows, in the order of the cohort's tables
REPRESENTED_FILE = "represented.safetensors"


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
    held_out: pd.Series | None = None
    facts: dict[str, Any] = {}
    if name == ADABN:
        network, history = _with_target_statistics(folder.parent / SOURCE_ONLY, cohort, params), []
    elif params.members > 1:
        network, held_out, history = _fitted_members(folder, cohort, params, name)
    else:
        table = "" if feature_table is None else str(feature_table)
        message = {"run_id": run_id, "dataset_id": dataset_id, "name": name, "feature_table": table}
        announce({**message, "teacher": params.teacher})
        with stage(f"fit {name}", params.epochs) as progress:
            # A fit that goes on starts where it was.
            result = _fitted(
                folder,
                cohort,
                params,
                name,
                lambda epoch: progress.advance(_epoch_line(epoch), epoch.epoch + 1 - progress.done),
            )
        say(f"fit {name}: learned in {result.precision}")
        network, history = result.network, [asdict(epoch) for epoch in result.history]
        facts = {"best_epoch": result.best_epoch, "precision": result.precision}
    facts["sha256"] = save_network(folder, network)
    write_facts(folder, facts)
    at_source = _as_the_source_is_seen(network, cohort, params, name)
    _write_represented(folder, network, at_source, cohort, params)
    write_bytes_atomic(folder / "history.json", json.dumps(history).encode())
    logits = _logits_of_parts(network, at_source, cohort, params, cached=name != ADABN, held_out=held_out)
    with atomic_path(folder / "logits.parquet") as temporary:  # last: with it the network is done
        logits.to_parquet(temporary, index=False)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return name


def help_to_fit(workspace: Workspace, params: TrainParams, message: dict[str, Any]) -> None:
    """Take this rank's part in a fit that the first rank has announced."""
    table = Path(message["feature_table"]) if message["feature_table"] else None
    params = params.model_copy(update={"teacher": message["teacher"]})  # its run, where the command says its version
    cohort = TrainingCohort(workspace.datasets_root / message["dataset_id"], params, table)
    folder = workspace.runs_root / message["run_id"] / "networks" / message["name"]
    _fitted(folder, cohort, params, message["name"], lambda epoch: None)


def _first_backbone(cohort: TrainingCohort, params: TrainParams) -> tuple[Backbone, InputSpec]:
    spec = input_spec(cohort.reader.card, params)
    sample = cohort.patches(calibration_rows(cohort.index))
    return initial_backbone(params.backbone, params.weights, params.weights_sha256, params.seed, sample, spec)[0], spec


def _fitted(
    folder: Path, cohort: TrainingCohort, params: TrainParams, name: str, on_epoch: Callable[[EpochRecord], None]
) -> FitResult:
    """The same on every rank: data, first weights and saved state decide it."""
    if params.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    adapted = name not in (SOURCE_ONLY, JOINT)
    changes: dict[str, object] = {"adaptation": (name,) if adapted else ()}
    if name != JOINT:
        changes["target_label_weight"] = 0.0
    backbone, spec = _first_backbone(cohort, params)
    data = cohort.fit_data(adapted=adapted, joint=name == JOINT)
    return fit_classifier(
        replace(data, teacher=load_teacher(folder.parents[2], params)),
        params.model_copy(update=changes),
        spec,
        backbone,
        state_dir=folder / "state",
        state_every_s=_STATE_EVERY_S,
        on_epoch=on_epoch,
    )


def _fitted_members(
    folder: Path, cohort: TrainingCohort, params: TrainParams, name: str
) -> tuple[NoduleNetwork, pd.Series, list[dict[str, Any]]]:
    """Several networks as one, by patch_id the logit of the member that did not learn from it, and every epoch."""
    rows = cohort.train()
    with stage(f"fit {name}", params.epochs * params.members) as progress:
        network, logits, epochs = fit_members(
            cohort.reader,
            rows,
            params,
            input_spec(cohort.reader.card, params),
            folder / "state",
            state_every_s=_STATE_EVERY_S,
            on_epoch=lambda epoch: progress.advance(_epoch_line(epoch), epoch.epoch + 1 - progress.done),
        )
    return network, pd.Series(logits, index=list(rows["patch_id"])), [asdict(epoch) for epoch in epochs]


def _with_target_statistics(source_only: Path, cohort: TrainingCohort, params: TrainParams) -> NoduleNetwork:
    """The source-only network with BatchNorm statistics of the target's training patches in every layer."""
    network = restored(source_only, cohort, params)
    with stage(f"fit {ADABN}", 1) as progress:
        adapt_to_patches(network, cohort.patches(cohort.target()), input_spec(cohort.reader.card, params))
        progress.advance("statistics of the target")
    return network


def plan_of(cohort: TrainingCohort, params: TrainParams) -> NetworkPlan:
    """What stands on the backbone of every network of a run."""
    return NetworkPlan(params.head, params.pooling, learned_concepts(cohort.index, params), params.dropout)


def restored(folder: Path, cohort: TrainingCohort, params: TrainParams) -> NoduleNetwork:
    """The fitted network in `folder`; raises WeightsDigestError where its weights have changed."""
    network = build_network(_first_backbone(cohort, params)[0], plan_of(cohort, params), seed=params.seed)
    restore_network(folder, network, fitted_sha256(folder))
    return network.eval()


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """What is known of a fitted network beside its weights, their sha256 among it."""
    write_bytes_atomic(folder / _FACTS, json.dumps(facts).encode())


def _as_the_source_is_seen(
    network: NoduleNetwork, cohort: TrainingCohort, params: TrainParams, name: str
) -> NoduleNetwork:
    """The network that looks at source validation: itself, or with the source's statistics where its own are the
    target's alone.

    Calibration and thresholds are frozen there. Through the target's statistics the source looks shifted the other way
    round, and what is frozen would be wrong on the target by as much.
    """
    adapted = name not in (SOURCE_ONLY, JOINT)
    learned_there = adapted and params.batchnorm == "adaptive" and params.batchnorm_domain == "target"
    if name != ADABN and not learned_there:
        return network
    at_source = copy.deepcopy(network)
    adapt_to_patches(at_source, cohort.patches(cohort.train()), input_spec(cohort.reader.card, params))
    return at_source


def fitted_sha256(folder: Path) -> str:
    """The sha256 that the weights of a fitted network had when they were written."""
    return str(json.loads((folder / _FACTS).read_text())["sha256"])


def forget_weights(folder: Path) -> None:
    """Remove the weights of a network, which nobody needs once one was chosen; its logits and history stay."""
    for name in (CHECKPOINT_FILE, REPRESENTED_FILE):
        (folder / name).unlink(missing_ok=True)


def _write_represented(
    folder: Path, network: NoduleNetwork, at_source: NoduleNetwork, cohort: TrainingCohort, params: TrainParams
) -> None:
    """What the gate of an adaptation looks at: representations of validation and target patches."""
    if not params.adaptation:
        return
    spec = input_spec(cohort.reader.card, params)
    seen_by = {"validation": at_source, "target": network}
    parts = {part: represented(seen_by[part], cohort.patches(rows), spec) for part, rows in _gate_parts(cohort)}
    write_bytes_atomic(folder / REPRESENTED_FILE, save(parts))


def _logits_of_parts(
    network: NoduleNetwork,
    at_source: NoduleNetwork,
    cohort: TrainingCohort,
    params: TrainParams,
    *,
    cached: bool,
    held_out: pd.Series | None = None,
) -> pd.DataFrame:
    """patch_id, part, logit of validation, test and target.

    cached: features of the first backbone still hold. held_out: logits of validation by patch_id, where they are known.
    """
    spec = input_spec(cohort.reader.card, params)
    parts = {"validation": (at_source, cohort.validation()), "test": (network, cohort.test())}
    if params.target_site:
        parts["target"] = (network, cohort.target())
    tables = []
    for part, (seen_by, rows) in parts.items():
        features = cohort.features(rows) if params.views == 1 and cached else None
        if part == "validation" and held_out is not None:
            logits = held_out.loc[list(rows["patch_id"])].to_numpy()
        elif features is None:
            logits = predict_logits(seen_by, cohort.patches(rows), spec)
        else:
            logits = logits_of_features(seen_by, features)
        tables.append(pd.DataFrame({"patch_id": list(rows["patch_id"]), "part": part, "logit": logits}))
    return pd.concat(tables, ignore_index=True)


def logits_of(folder: Path, part: str, rows: pd.DataFrame) -> np.ndarray:
    """Logits of some rows of a part (validation, test, target) by the network in `folder`."""
    table = pd.read_parquet(folder / "logits.parquet")
    table = table[table["part"] == part].set_index("patch_id")["logit"]
    return table.loc[list(rows["patch_id"])].to_numpy(dtype=np.float64)


def outputs_for_gate(folder: Path, cohort: TrainingCohort) -> NetworkOutputs:
    """What the network in `folder` says of source validation and of the target, representations where they are kept."""
    logits = [logits_of(folder, part, rows) for part, rows in _gate_parts(cohort)]
    path = folder / REPRESENTED_FILE
    if not path.is_file():
        return NetworkOutputs(*logits)
    vectors = load(path.read_bytes())
    return NetworkOutputs(*logits, *(vectors[part] for part, _ in _gate_parts(cohort)))


def _gate_parts(cohort: TrainingCohort) -> tuple[tuple[str, pd.DataFrame], ...]:
    return ("validation", cohort.validation()), ("target", cohort.target())


def _epoch_line(epoch: EpochRecord) -> str:
    figures = {name.replace("_", " "): value for name, value in epoch.figures.items()}
    shown = {"loss": epoch.train_loss, "validation AUC": epoch.validation_auc, **figures}
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
