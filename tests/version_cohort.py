"""What tests of a version's contents share: run folders of narrow networks of every kind, without a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import Calibration, InputSpec, ModelCard
from data_contracts.patches import DatasetCard
from models.checkpoint import save_network
from models.networks.inflate import as_volumetric
from models.networks.joined import build_backbones
from models.networks.network import NetworkPlan, build_network

CALIBRATION = Calibration(
    bias=0.1, image_weight=1, size_weight=2, image_only_bias=-0.3, image_only_weight=1.7, size_only_bias=0,
    size_only_weight=1,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of network: its input, and what its card says beside that."""

    input: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)


_GREY = {"kind": "2d", "patch_shape": (3, 24, 24), "value_unit": "grey"}
_PLANES = {"kind": "2.5d", "patch_shape": (3, 24, 24), "value_unit": "HU", "spacing_mm": 1.0}
_CUBE = {"kind": "3d", "patch_shape": (20, 24, 28), "value_unit": "HU", "spacing_mm": 1.0}
_NATIVE = {**_CUBE, "windows": ({"center_hu": -600, "width_hu": 1500},), "mean": (0.5,), "std": (0.25,)}
KINDS = {
    "one slice": Kind({**_GREY, "patch_shape": (24, 24)}),
    "slices as channels, eight views": Kind({**_GREY, "views": 8}, {"head": "mlp"}),
    "planes, attention": Kind(_PLANES, {"pooling": "attention"}),
    "planes, concepts": Kind(_PLANES, {"concepts": ("log_diameter", "spiculation")}),
    "members side by side": Kind(_GREY, {"members": 3, "concepts": ("log_diameter",)}),
    "cube by its planes": Kind(_CUBE),
    "cube, inflated": Kind({**_CUBE, "volumetric": "i3d"}),
    "cube, three views of a kernel": Kind({**_CUBE, "volumetric": "acs"}),
    "cube, native": Kind({**_NATIVE, "volumetric": "native"}, {"backbone": "medicalnet_resnet10"}),
}


def write_finished_run(root: Path, kind: Kind, run_id: str = "run") -> Path:
    """A run folder as training leaves it, with random weights; its dataset stands in root/datasets/d."""
    spec = InputSpec(**{"spacing_mm": None, "input_size_px": 32, **kind.input})
    values = {"backbone": "small_cnn", "head": "linear", "members": 1, "pooling": "mean", "concepts": (), **kind.card}
    backbone = as_volumetric(build_backbones(values["backbone"], values["members"], seed=0), spec.volumetric)
    plan = NetworkPlan(values["head"], values["pooling"], values["concepts"])
    network = build_network(backbone, plan, seed=1)
    with torch.no_grad():
        network.head.logit.weight *= 20
    folder = root / "runs" / run_id
    folder.mkdir(parents=True)
    card = ModelCard(
        name="test", run_id=run_id, weights="none", weights_sha256="", pretrained=False, input=spec,
        calibration=CALIBRATION, checkpoint_sha256=save_network(folder, network), dataset_id="d",
        training={"network": "source-only", "population": "12 nodules"}, **values,
    )  # fmt: skip
    EvaluationReport(
        run_id=run_id, dataset_id="d", backbone=card.backbone, weights="none", pretrained=False, protocol="none",
        n_patients=0, n_nodules=0, figures=(),
    ).write(folder / "evaluation.json")  # fmt: skip
    (folder / "environment.json").write_text("{}")
    (folder / "networks" / "source-only").mkdir(parents=True)
    (folder / "networks" / "source-only" / "history.json").write_text("[]")
    card.write(folder / "model_card.json")
    dataset = DatasetCard(
        dataset_id="d", kind=spec.kind, patch_shape=spec.patch_shape, value_unit=spec.value_unit, shards=(),
        dtype="int16" if spec.value_unit == "HU" else "uint8",
    )  # fmt: skip
    (root / "datasets" / "d").mkdir(parents=True, exist_ok=True)
    dataset.write(root / "datasets" / "d" / "dataset.json")
    return folder


def some_patches(spec: InputSpec, n: int) -> NDArray[np.generic]:
    """Patches as a dataset stores them: int16 HU or uint8 grey values."""
    low, high, dtype = (-1000, 400, np.int16) if spec.value_unit == "HU" else (0, 256, np.uint8)
    return np.random.default_rng(0).integers(low, high, (n, *spec.patch_shape)).astype(dtype)
