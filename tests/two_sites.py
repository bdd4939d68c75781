"""A small dataset of two sites, as crops with a table, and the real command on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_contracts.params import LabelParams, SplitParams
from flows.workspace import Workspace
from pipeline.cohort.importers import import_npz

#: a fit of a moment: three images of 32 pixels a patch, the last stage and a linear head
NARROW = {
    "backbone": "resnet18",
    "weights": "none",
    "input_size_px": 32,
    "unfreeze": 1,
    "head": "linear",
    "augmentations": 1,
    "epochs": 2,
    "warmup_epochs": 0,
    "threads": 1,
}


def make_workspace(folder: Path, n: int = 160, votes: str = "") -> tuple[Workspace, str]:
    """A workspace with the dataset "sites": malignant discs are brighter and a little larger, site B is brighter.

    votes: name of an array in which all three readers outline the disc; none where empty.
    """
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    at_b = (np.arange(n) // 2) % 2
    diameter_mm = np.round(random.uniform(8, 18, n) + 3 * labels, 2)
    j, i = np.mgrid[:48, :48] - 23.5
    disc = j**2 + i**2 < (diameter_mm[:, None, None] / 2) ** 2
    grey = np.where(labels == 1, 170, 110)[:, None, None] * disc + random.normal(30, 10, (n, 48, 48))
    crops = np.clip(grey + 40 * at_b[:, None, None], 0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {votes: np.repeat(np.uint8(3) * disc[:, None], 3, axis=1)} if votes else {}
    np.savez(folder / "sites.npz", image=np.repeat(crops[:, None], 3, axis=1), **drawn)
    table = pd.DataFrame(
        {
            "patient_id": [f"disc-{row:03d}" for row in range(n)],
            "diameter_mm": diameter_mm,
            "malignancy": np.where(labels == 1, "4;4;5", "2;1;2"),
            "spiculation": np.where(labels == 1, "4;3;5", "1;1;2"),
            "manufacturer": np.where(at_b == 1, "B", "A"),
            "n_readers": 3,
        }
    )
    table.to_csv(folder / "sites.csv", index=False)
    workspace = Workspace(folder / "workspace").create()
    card = import_npz(
        folder / "sites.npz",
        name="sites",
        table=folder / "sites.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
        votes=votes,
    )
    return workspace, card.dataset_id


def train_command(workspace: Workspace, **settings: Any) -> list[str]:
    """The real command, with NARROW and `settings`."""
    values = {**NARROW, **settings}
    pairs = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    front = ["-m", "flows", "--workspace", str(workspace.root), "--json"]
    return [sys.executable, *front, "train", "--preset", "finetune", *pairs]


def run(command: list[str], timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run to its end, whatever it is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)
