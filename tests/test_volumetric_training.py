"""The real train command on cubes: a volume through an inflated backbone, its card, its three scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from flows.workspace import Workspace
from models.predict import Predictor
from pipeline.cohort.dataset import PatchReader, assemble_dataset

pytestmark = [pytest.mark.server, pytest.mark.slow]

N_PATCHES, SIDE = 120, 16


def fill(workspace: Workspace) -> str:
    """Cubes of HU with a ball in each: malignant ones are denser, and a little larger. Returns the dataset's id."""
    rng = np.random.default_rng(0)
    labels = np.arange(N_PATCHES) % 2
    diameter_mm = rng.uniform(6, 12, N_PATCHES) + 1.5 * labels
    z, y, x = np.mgrid[:SIDE, :SIDE, :SIDE] - (SIDE - 1) / 2
    ball = np.sqrt(z**2 + y**2 + x**2)[None] < diameter_mm[:, None, None, None] / 2
    hu = np.where(ball, np.where(labels == 1, 60, -350)[:, None, None, None], -800)
    patches = (hu + rng.normal(0, 40, (N_PATCHES, SIDE, SIDE, SIDE))).astype(np.int16)
    keys = [f"nodule-{row:03d}" for row in range(N_PATCHES)]
    index = pd.DataFrame(
        {
            "patch_id": keys,
            "nodule_id": keys,
            "series_key": keys,
            "patient_key": [f"patient-{row:03d}" for row in range(N_PATCHES)],
            "site": "a",
            "split": np.repeat([Split.TRAIN.value, Split.VALIDATION.value, Split.TEST.value], [60, 30, 30]),
            "label": pd.array(labels, dtype="Int8"),
            "label_soft": np.where(labels == 1, 0.8, 0.2),
            "n_readers": 4,
            "diameter_mm": diameter_mm,
            "padded": False,
        }
    )
    card = assemble_dataset(
        workspace.datasets_root, [patches], index, kind="3d", value_unit="HU", inputs={}, parameters={}, name="cubes"
    )
    return card.dataset_id


def command(workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "--json", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=500, check=False)


SMALL = ("backbone=small_cnn", "weights=none", "input_size_px=32", "augmentations=2", "epochs=4",
         "lr_head=1e-2", "lr_backbone=1e-3", "views=2", "unfreeze=2", "batchnorm=adaptive")  # fmt: skip


def test_cubes_are_learned_as_volumes_and_evaluated_with_image_size_and_both(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    dataset_id = fill(workspace)
    done = command(workspace, "train", "--preset", "3d-inflated", *(part for pair in SMALL for part in ("--set", pair)))
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Path(json.loads(done.stdout)["folder"])
    card = ModelCard.read(folder / "model_card.json")
    assert (card.input.volumetric, card.input.kind, card.backbone) == ("i3d", "3d", "small_cnn")
    table = pd.read_parquet(folder / "predictions.parquet")
    assert table[["score", "score_image", "score_size"]].notna().all(axis=None)
    assert roc_auc_score(table["label"].astype(int), table["score_image"]) > 0.8
    reader = PatchReader(workspace.datasets_root / dataset_id)
    logits = Predictor.load(folder).logits(reader.load(list(table["patch_id"])))
    expected = 1 / (1 + np.exp(-(card.calibration.image_only_bias + card.calibration.image_only_weight * logits)))
    np.testing.assert_allclose(table["score_image"], expected, atol=1e-4)
    again = command(workspace, "evaluate", "1")
    assert again.returncode == 0, again.stderr[-3000:]
    other = pd.read_parquet(Path(json.loads(again.stdout)["folder"]) / "predictions.parquet")
    np.testing.assert_allclose(other["score"], table["score"], atol=1e-4)


def test_a_volume_is_not_made_of_planes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    patches = np.zeros((4, 3, 32, 32), dtype=np.int16)
    keys = list("abcd")
    rows = {"patch_id": keys, "nodule_id": keys, "series_key": keys, "patient_key": keys, "site": "a", "split": "train"}
    known = {"label": [0, 1, 0, 1], "label_soft": 0.5, "n_readers": 3, "diameter_mm": 9.0, "padded": False}
    assemble_dataset(
        workspace.datasets_root, [patches], pd.DataFrame(rows | known), kind="2.5d", value_unit="HU", inputs={},
        parameters={}, name="planes",
    )  # fmt: skip
    done = command(workspace, "train", "--preset", "3d-acs", "--set", "backbone=small_cnn", "--set", "weights=none")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "no volumes" in done.stderr and "kind=3d" in done.stderr and "Traceback" not in done.stderr


def test_several_networks_of_volumes_are_joined_as_they_were_fitted(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    fill(workspace)
    settings = (*SMALL, "epochs=1", "head=linear", "members=2", "volumetric=i3d")
    sets = [part for pair in settings for part in ("--set", pair)]
    done = command(workspace, "train", "--preset", "small-cnn", *sets)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Path(json.loads(done.stdout)["folder"])
    predictor = Predictor.load(run)
    assert predictor.card.members == 2
    assert np.isfinite(predictor.logits(np.zeros((2, SIDE, SIDE, SIDE), dtype=np.int16))).all()
