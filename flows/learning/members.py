"""A model of several networks, each fitted without one part of the patients, and what each says of that part.

Every nodule then has a prediction by a network that never saw its patient: calibration, thresholds and the blend of
concepts rest on all of them, where one network could only spare a validation split. The networks are kept as one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import load_file

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from data_contracts.records import atomic_path, write_bytes_atomic
from flows.datasets.backbone import initial_backbone
from flows.datasets.labelled import floats, labelled_patches, learned_concepts, patches_of
from flows.learning import ranks
from models.checkpoint import CHECKPOINT_FILE, save_network
from models.fitting.data import FitData
from models.fitting.fit import fit_classifier
from models.fitting.state import EpochRecord
from models.networks.backbones import build_backbone
from models.networks.inflate import as_volumetric
from models.networks.joined import blend_concepts, join_networks
from models.networks.network import NetworkPlan, NoduleNetwork, build_network
from models.predict import predict_outputs
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.blend import fit_blend
from pipeline.scoring.folds import patient_folds
from pipeline.scoring.fusion import log_size

_OUTPUTS_FILE = "outputs.npy"
_HISTORY_FILE = "history.json"


def check_members(params: TrainParams) -> None:
    """Raises UsageError for parameters that a model of several networks cannot have, or that one network cannot."""
    if params.blend_concepts and (params.members == 1 or params.auxiliary_weight == 0):
        lacking = "held-out predictions of several members" if params.members == 1 else "concepts to blend"
        raise UsageError(
            f"there are no {lacking}",
            where="blend_concepts=true",
            todo="Set members=5 and auxiliary_weight=0.5, or blend_concepts=false.",
        )
    if params.members == 1:
        return
    if params.unfreeze == 0:
        raise UsageError(
            "several networks on the same frozen features are one network", todo="Set unfreeze above 0, or members=1."
        )
    if params.adaptation or params.target_label_weight > 0:
        raise UsageError("a model of several networks learns from one site", todo="Set members=1, or adaptation=none.")
    if ranks.size() > 1:
        raise UsageError("several networks are fitted by one process", todo="Start it without torchrun, or members=1.")
    if params.head != "linear" or params.pooling != "mean":
        raise UsageError("several networks need a linear head and mean pooling", todo="Set head=linear, or members=1.")


def fit_members(
    reader: PatchReader,
    rows: pd.DataFrame,
    params: TrainParams,
    spec: InputSpec,
    folder: Path,
    *,
    state_every_s: float = 0.0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[NoduleNetwork, NDArray[np.float64], list[EpochRecord]]:
    """Fit `params.members` networks on `rows` less one part of their patients each, and join them.

    A member that is finished in `folder` is taken from there.

    Returns
    -------
    The joined network, the logits (n,) of `rows`, each by the member that did not learn from its patient, and the
    epochs of all members one after the other.
    """
    check_members(params)
    held = patient_folds(rows["patient_key"], rows["label"], params.members, params.seed)
    networks, history = [], []
    outputs: NDArray[np.float64] | None = None

    def counted(member: int) -> Callable[[EpochRecord], None] | None:
        """Epochs counted on from those of the members before."""
        if on_epoch is None:
            return None
        return lambda record: on_epoch(replace(record, epoch=record.epoch + member * params.epochs))

    for member in range(params.members):
        place = folder / f"member-{member}"
        if not (place / _OUTPUTS_FILE).exists():
            _fit_member(reader, rows, held == member, params, member, spec, place, state_every_s, counted(member))
        networks.append(_read_network(place, rows, params, spec))
        part = np.load(place / _OUTPUTS_FILE)
        outputs = np.full((len(rows), part.shape[1]), np.nan) if outputs is None else outputs
        outputs[held == member] = part
        history += [EpochRecord(**record) for record in json.loads((place / _HISTORY_FILE).read_text())]
    assert outputs is not None
    network = join_networks(networks, _plan(rows, params))
    logits = outputs[:, 0]
    if params.blend_concepts:
        blend = fit_blend(outputs, log_size(floats(rows["diameter_mm"])), floats(rows["label"]))
        blend_concepts(network, blend.tolist())
        logits = outputs @ blend
    epochs = [replace(record, epoch=number) for number, record in enumerate(history)]
    return network, logits, epochs


def _fit_member(
    reader: PatchReader,
    rows: pd.DataFrame,
    held: NDArray[np.bool_],
    params: TrainParams,
    member: int,
    spec: InputSpec,
    place: Path,
    state_every_s: float,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> None:
    used = params.model_copy(update={"seed": params.seed + member})
    learned = rows[~held]
    train = labelled_patches(reader, learned, used)
    sample = train.patches[:32]
    backbone, _ = initial_backbone(used.backbone, used.weights, used.weights_sha256, used.seed, sample, spec)
    # No validation: the held-out part judges the last epoch, it must not choose one.
    nobody = train.rows(np.zeros(len(train), dtype=bool))
    data = FitData(train, nobody, concepts=learned_concepts(rows, params))
    result = fit_classifier(
        data, used, spec, backbone, state_dir=place / "state", state_every_s=state_every_s, on_epoch=on_epoch
    )
    save_network(place, result.network)
    write_bytes_atomic(place / _HISTORY_FILE, json.dumps([asdict(epoch) for epoch in result.history]).encode())
    outputs = predict_outputs(result.network, patches_of(reader, rows[held], used), spec)
    with atomic_path(place / _OUTPUTS_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, outputs)
    shutil.rmtree(place / "state", ignore_errors=True)


def _plan(rows: pd.DataFrame, params: TrainParams) -> NetworkPlan:
    return NetworkPlan(params.head, params.pooling, learned_concepts(rows, params), params.dropout)


def _read_network(place: Path, rows: pd.DataFrame, params: TrainParams, spec: InputSpec) -> NoduleNetwork:
    backbone = as_volumetric(build_backbone(params.backbone, seed=0), spec.volumetric)
    network = build_network(backbone, _plan(rows, params), seed=0)
    network.load_state_dict(load_file(place / CHECKPOINT_FILE))
    return network.eval()
