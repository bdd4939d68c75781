"""What a run leaves beside its weights so that it can be judged later: golden cases, and whom it learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data_contracts.errors import ContractError
from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from data_contracts.params import TrainParams
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.records import write_bytes_atomic
from flows.registry.golden import CASES, GOLDEN_FILE, write_golden
from flows.workspace import Workspace

FITTED_FILE = "fitted_patients.json"


def write_evidence(workspace: Workspace, folder: Path) -> None:
    """Write golden cases and the keys of the fitted patients into a run folder, once, where its dataset is there."""
    from pipeline.cohort.dataset import PatchReader

    card = ModelCard.read(folder / "model_card.json")
    dataset_dir = workspace.datasets_root / card.dataset_id
    if not (dataset_dir / "dataset.json").exists():
        return
    reader = PatchReader(dataset_dir)
    if not (folder / FITTED_FILE).exists():
        fitted = reader.index.loc[reader.index["split"] != Split.TEST.value, "patient_key"]
        write_bytes_atomic(folder / FITTED_FILE, json.dumps({"patients": sorted(set(fitted))}, indent=1).encode())
    if not (folder / GOLDEN_FILE).exists():
        _write_golden_of(reader, folder, card)


def _write_golden_of(reader: object, folder: Path, card: ModelCard) -> None:
    """Held-out patches from the lowest score to the highest."""
    from flows.datasets.labelled import patches_of
    from pipeline.cohort.dataset import PatchReader

    assert isinstance(reader, PatchReader)
    scored = PREDICTION_TABLE.read(folder / "predictions.parquet").sort_values(["score", "patch_id"])
    scored = scored[scored["patch_id"].isin(reader.index["patch_id"])]
    if scored.empty:
        return
    places = np.unique(np.linspace(0, len(scored) - 1, CASES).round().astype(int))
    rows = reader.index.set_index("patch_id", drop=False).loc[list(scored["patch_id"].iloc[places])]
    cut = TrainParams(common_spacing_mm=card.training.get("common_spacing_mm", 0.0))
    write_golden(folder, patches_of(reader, rows.reset_index(drop=True), cut))


def fitted_patients(workspace: Workspace, folder: Path, card: ModelCard) -> frozenset[str] | None:
    """Patients that training or validation saw; None where neither the run nor its dataset says so any more."""
    from pipeline.cohort.dataset import PatchReader

    path = folder / FITTED_FILE
    if path.is_file():
        try:
            return frozenset(str(key) for key in json.loads(path.read_text())["patients"])
        except (ValueError, KeyError, TypeError):
            raise ContractError("not a list of patient keys", where=FITTED_FILE) from None
    dataset_dir = workspace.datasets_root / card.dataset_id
    if not (dataset_dir / "dataset.json").exists():
        return None
    index = PatchReader(dataset_dir).index
    return frozenset(index.loc[index["split"] != Split.TEST.value, "patient_key"])
