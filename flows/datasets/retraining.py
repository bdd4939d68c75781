"""A version trained once more, from another seed or with shuffled labels: what its maps are compared with."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np

from data_contracts.errors import UsageError, WeightsError
from data_contracts.model_card import ModelCard
from data_contracts.params import ExplainParams, TrainParams
from data_contracts.records import digest_of, sha256_file
from flows.datasets.backbone import calibration_rows, initial_backbone
from flows.datasets.training_cohort import TrainingCohort
from flows.progress import stage
from flows.workspace import Workspace
from models.checkpoint import CHECKPOINT_FILE, load_network, save_network
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.networks.network import NoduleNetwork

#: networks of a run that are not fitted as one method on one set of labels
_NOT_REPEATED = ("adabn", "joint")
_STATE_EVERY_S = 15.0


def training_params(card: ModelCard, weights: str) -> TrainParams:
    """The parameters a version was trained with, and where its first weights come from.

    weights: "" takes the same as then, where they can be had without a file.

    Raises
    ------
    UsageError: the version's parameters are not those of this program.
    """
    known = {key: value for key, value in card.training.items() if key in TrainParams.model_fields}
    source = weights or ("none" if not card.weights_sha256 else "auto")
    origin = {"backbone": card.backbone, "weights": source, "weights_sha256": card.weights_sha256}
    return TrainParams.from_mapping({**known, **origin}, where="model card")


def retrained(
    workspace: Workspace, card: ModelCard, params: ExplainParams, weights: str, *, shuffled: bool
) -> NoduleNetwork:
    """The version's training again, from the next seed, or with the labels of its training patches shuffled.

    A network that was trained so is kept beside the run and read again.

    Raises
    ------
    UsageError: an adaptation by statistics or a joint training, which is not repeated.
    WeightsError: the first weights cannot be had; `weights` names their file.
    """
    chosen = str(card.training.get("network", "source-only"))
    if chosen in _NOT_REPEATED:
        raise UsageError(f"a {chosen} network is not trained again", where=card.run_id)
    used = training_params(card, weights)
    # With shuffled labels validation says nothing: every epoch is learned, and the last one is kept.
    changes: dict[str, object] = {"epochs": params.epochs or used.epochs, "seed": used.seed + 1}
    changes["adaptation"] = () if chosen == "source-only" else (chosen,)
    if shuffled:
        changes |= {"seed": used.seed, "patience": used.epochs}
    used = used.model_copy(update={**changes, "target_label_weight": 0.0})
    what = "shuffled-labels" if shuffled else "another-seed"
    facts = [card.checkpoint_sha256, used.model_dump(mode="json", exclude={"weights"}), params.seed if shuffled else 0]
    folder = workspace.runs_root / card.run_id / "explanation" / f"{what}-{digest_of(facts)}"
    if (folder / CHECKPOINT_FILE).exists():
        # Of a version of several networks one is trained again.
        kept = card.model_copy(update={"checkpoint_sha256": sha256_file(folder / CHECKPOINT_FILE), "members": 1})
        return load_network(folder, kept)
    cohort = TrainingCohort(workspace.datasets_root / card.dataset_id, used)
    data = cohort.fit_data(adapted=chosen != "source-only")
    if shuffled:
        data = _with_shuffled_labels(data, params.seed)
    sample = cohort.patches(calibration_rows(cohort.index))
    try:
        backbone, _ = initial_backbone(used.backbone, used.weights, used.weights_sha256, used.seed, sample, card.input)
    except WeightsError as error:
        raise WeightsError(
            f"the first weights of the version ({card.weights}) are not at hand: {error.what}",
            todo="Name their file with --weights.",
        ) from None
    with stage(f"train again, {what}", used.epochs) as progress:
        result = fit_classifier(
            data,
            used,
            card.input,
            backbone,
            state_dir=folder / "state",
            state_every_s=_STATE_EVERY_S,
            on_epoch=lambda epoch: progress.advance(f"loss {epoch.train_loss:.3f}"),
        )
    save_network(folder, result.network)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return result.network


def _with_shuffled_labels(data: FitData, seed: int) -> FitData:
    """Every patch gets what is known of another one; nothing is left to choose an epoch by."""
    order = np.random.default_rng(seed).permutation(len(data.train))
    other = data.train.rows(order)
    train = LabelledPatches(
        data.train.patches,
        other.labels,
        soft_labels=other.soft_labels,
        weights=other.weights,
        auxiliary=other.auxiliary,
        features=data.train.features,
    )
    return replace(data, train=train, validation=data.validation.rows(np.zeros(len(data.validation), dtype=np.bool_)))
