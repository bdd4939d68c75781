"""A workspace with a tiny dataset and one version of a narrow network on it, for tests of compression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from data_contracts.model_card import Calibration, ModelCard
from data_contracts.params import LabelParams, SplitParams, TrainParams
from data_contracts.patches import DatasetCard
from flows.workspace import Workspace
from models.checkpoint import save_network
from models.networks.backbones import build_backbone
from models.networks.inputs import input_spec
from models.networks.network import NetworkPlan, build_network
from pipeline.cohort.importers import import_npz

CALIBRATION = Calibration(
    bias=0.1, image_weight=1, size_weight=2, image_only_bias=-0.3, image_only_weight=1.7, size_only_bias=0,
    size_only_weight=1,
)  # fmt: skip
PARAMS = TrainParams(backbone="small_cnn", weights="none", input_size_px=32, head="linear", unfreeze=4)


def write_crops(folder: Path, n: int = 120, size: int = 40) -> tuple[Path, Path]:
    """Crops with a table: malignant discs are brighter than benign ones; a patient a nodule."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    diameter_mm = np.round(random.uniform(8, 18, n), 2)
    j, i = np.mgrid[:size, :size] - (size - 1) / 2
    disc = j**2 + i**2 < (diameter_mm[:, None, None] / 2) ** 2 * 2
    grey = np.where(labels == 1, 170, 130)[:, None, None] * disc + random.normal(30, 25, (n, size, size))
    np.savez(folder / "discs.npz", image=np.repeat(grey.clip(0, 255).astype(np.uint8)[:, None], 3, axis=1))
    ratings = np.where(labels == 1, "5;5;4", "1;2;1")
    table = {"patient_id": [f"disc-{row:03d}" for row in range(n)], "diameter_mm": diameter_mm, "malignancy": ratings}
    pd.DataFrame({**table, "n_readers": 3}).to_csv(folder / "discs.csv", index=False)
    return folder / "discs.npz", folder / "discs.csv"


def discs(workspace: Workspace, folder: Path) -> DatasetCard:
    """The crops of `write_crops` as a dataset of the workspace."""
    crops, table = write_crops(folder)
    return import_npz(
        crops,
        name="discs",
        table=table,
        datasets_root=workspace.datasets_root,
        split=SplitParams(train=0.5, validation=0.2),
        label=LabelParams(min_readers=3),
    )


def write_run(workspace: Workspace, dataset: DatasetCard, *, run_id: str = "run", seed: int = 0) -> ModelCard:
    """A run folder with a network from random numbers, its outputs spread over some logits."""
    network = build_network(build_backbone(PARAMS.backbone, seed=seed), NetworkPlan("linear"), seed=seed)
    network.head.logit.weight.data *= 20
    folder = workspace.runs_root / run_id
    folder.mkdir(parents=True)
    card = ModelCard(
        name="test", run_id=run_id, backbone=PARAMS.backbone, weights="none", weights_sha256="", pretrained=False,
        head="linear", input=input_spec(dataset, PARAMS.model_copy(update={"views": 2})), calibration=CALIBRATION,
        checkpoint_sha256=save_network(folder, network), dataset_id=dataset.dataset_id,
        training={"common_spacing_mm": 0.0},
    )  # fmt: skip
    card.write(folder / "model_card.json")
    return card


class FolderRegistry:
    """Stands for the registry of MLflow: version 1 is the folder `run`."""

    def __init__(self, workspace: Workspace, model_name: str) -> None:
        self.workspace = workspace

    def resolve(self, version: str) -> str:
        """Every name is version 1."""
        return "1"

    def verified_folder(self, version: str) -> tuple[Path, ModelCard]:
        """The run folder and its card."""
        folder = self.workspace.runs_root / "run"
        return folder, ModelCard.read(folder / "model_card.json")
