"""Patient-grouped cross-validation of one recipe on one dataset: out-of-fold predictions for every nodule."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from data_contracts.model_card import Calibration, InputSpec
from data_contracts.params import TrainParams
from data_contracts.predictions import PREDICTION_TABLE
from flows.datasets.backbone import initial_backbone
from flows.datasets.labelled import check_common_spacing, floats, labelled_patches, learned_concepts, patches_of
from flows.learning.members import fit_members
from flows.versions.evaluation import predictions_of
from models.fitting.data import FitData
from models.fitting.fit import fit_classifier
from models.fitting.state import EpochRecord
from models.networks.inputs import input_spec
from models.networks.network import NoduleNetwork
from models.predict import predict_logits
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.folds import patient_folds
from pipeline.scoring.fusion import fit_calibration

#: one part in this many of a fold's training patients is held out to choose the epoch and to calibrate
_VALIDATION_PARTS = 7
_CALIBRATION_PATCHES = 128


def fold_rows(index: pd.DataFrame, fold: int, n_folds: int, seed: int) -> dict[str, pd.DataFrame]:
    """Rows of `train`, `validation` and `test` of one fold; no patient is in two of them."""
    folds = patient_folds(index["patient_key"], index["label"], n_folds, seed)
    test, rest = index[folds == fold], index[folds != fold]
    inner = patient_folds(rest["patient_key"], rest["label"], _VALIDATION_PARTS, seed + 1)
    return {"train": rest[inner != 0], "validation": rest[inner == 0], "test": test}


def fold_predictions(
    dataset_dir: Path,
    params: TrainParams,
    fold: int,
    *,
    n_folds: int = 5,
    seed: int = 0,
    state_dir: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> pd.DataFrame:
    """Train on the other folds, calibrate on patients held out of them, predict this one (PREDICTION_TABLE)."""
    reader = PatchReader(dataset_dir)
    check_common_spacing(reader, params)
    parts = fold_rows(reader.index, fold, n_folds, seed)
    spec = input_spec(reader.card, params)
    fit = _fit_members if params.members > 1 else _fit_one
    with tempfile.TemporaryDirectory() as scratch:
        network, calibration = fit(reader, parts, params, spec, state_dir or Path(scratch), on_epoch)
    logits = predict_logits(network, patches_of(reader, parts["test"], params), spec)
    table = predictions_of(parts["test"], logits, calibration, fold=fold).assign(split="test", logit=logits)
    return PREDICTION_TABLE.validate(table)


def _fit_one(
    reader: PatchReader,
    parts: dict[str, pd.DataFrame],
    params: TrainParams,
    spec: InputSpec,
    state_dir: Path,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> tuple[NoduleNetwork, Calibration]:
    """One network, whose epoch and calibration the validation patients choose."""
    train = parts["train"]
    if params.soft_label_weight == 0:
        train = train[train["label"].notna()]
    validation = parts["validation"][parts["validation"]["label"].notna()]
    sample = patches_of(reader, train.head(_CALIBRATION_PATCHES), params)
    backbone, _ = initial_backbone(params.backbone, params.weights, params.weights_sha256, params.seed, sample, spec)
    data = FitData(
        labelled_patches(reader, train, params),
        labelled_patches(reader, validation, params),
        concepts=learned_concepts(train, params),
    )
    network = fit_classifier(data, params, spec, backbone, state_dir=state_dir, on_epoch=on_epoch).network
    calibration = fit_calibration(
        predict_logits(network, data.validation.patches, spec),
        floats(validation["diameter_mm"]),
        floats(validation["label"]),
        floats(train["diameter_mm"]),
        floats(train["label"]),
        balance=params.fusion_balance,
        method=params.calibration,
    )
    return network, calibration


def _fit_members(
    reader: PatchReader,
    parts: dict[str, pd.DataFrame],
    params: TrainParams,
    spec: InputSpec,
    state_dir: Path,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> tuple[NoduleNetwork, Calibration]:
    """Several networks joined, calibrated on what each says of the patients that it did not learn from."""
    rows = pd.concat([parts["train"], parts["validation"]])
    if params.soft_label_weight == 0:
        rows = rows[rows["label"].notna()]
    network, logits, _ = fit_members(reader, rows, params, spec, state_dir, on_epoch=on_epoch)
    sizes, labels = floats(rows["diameter_mm"]), floats(rows["label"])
    return network, fit_calibration(
        logits, sizes, labels, sizes[:0], labels[:0], balance=params.fusion_balance, method=params.calibration
    )


def out_of_fold(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The folds' predictions as one PREDICTION_TABLE, in the order of patch_id."""
    joined = pd.concat(tables, ignore_index=True).sort_values("patch_id", ignore_index=True)
    return PREDICTION_TABLE.validate(joined)


def cross_validate(
    dataset_dir: Path,
    params: TrainParams,
    *,
    n_folds: int = 5,
    seed: int = 0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> pd.DataFrame:
    """Out-of-fold predictions (PREDICTION_TABLE) of every row of a dataset, indeterminate ones too."""
    return out_of_fold(
        [
            fold_predictions(dataset_dir, params, fold, n_folds=n_folds, seed=seed, on_epoch=on_epoch)
            for fold in np.arange(n_folds).tolist()
        ]
    )
