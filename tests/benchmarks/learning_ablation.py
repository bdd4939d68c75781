"""What each part of the recipe gives, on development patients, and what the readers' ratings reach without a pixel.

Development patients are those outside the first of the five folds that judge, in three folds of their own; that first
fold is never looked at by anything chosen here.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: name of a row: what differs from one network of the preset
CHANGES: dict[str, dict[str, Any]] = {
    "one network": {},
    "grid 0.4 mm (zoom)": {"common_spacing_mm": 0.4},
    "input 96 px": {"input_size_px": 96},
    "classes alike as a whole, not at each size": {"class_weights": "balanced"},
    "no auxiliary targets": {"auxiliary_weight": 0.0},
    "hard labels only": {"soft_label_weight": 0.0},
    "one view": {"views": 1},
    "random start": {"weights": "none", "batchnorm": "adaptive", "lr_backbone": 1e-3},
    "self-supervised pretraining": {"weights": "self-supervised"},
    "phantom pretraining": {"weights": "phantom"},
    "readers' outlines as mask target": {"mask_weight": 1.0},
}
#: the same beside several networks; they share their fits
MEMBER_CHANGES: dict[str, dict[str, Any]] = {
    "five networks": {"members": 5},
    "five networks, fusion balance 0.25": {"members": 5, "fusion_balance": 0.25},
    "five networks, fusion balance 0.5": {"members": 5, "fusion_balance": 0.5},
    "five networks, concepts blended": {"members": 5, "blend_concepts": True},
    "five networks, concepts blended, fusion balance 0.5": {
        "members": 5,
        "blend_concepts": True,
        "fusion_balance": 0.5,
    },
}
DEVELOPMENT_FOLDS = 3


def ablation_recipes(weights: Path, only: str = "") -> dict[str, Any]:
    """Parameters of each row whose name contains `only`, or one of several parts with commas between."""
    from flows.presets import train_params

    plain = {"members": 1, "blend_concepts": False, "fusion_balance": 0.0, "threads": 1, "weights": str(weights)}
    rows = {**CHANGES, **MEMBER_CHANGES}
    return {
        name: train_params("lidc-crops", {**plain, **change})
        for name, change in rows.items()
        if any(part in name for part in only.split(",")) or name == "one network"
    }


def judged_patients(index: pd.DataFrame, table: Path, n_folds: int) -> list[str]:
    """patient_id of the first fold that judges: they take no part in development."""
    from pipeline.scoring.folds import patient_folds

    with table.open() as file:
        patients = [row["patient_id"] for row in csv.DictReader(file)]
    first = patient_folds(index["patient_key"], index["label"], n_folds, 0) == 0
    return sorted({patients[int(patch)] for patch in index["patch_id"][first]})


def ratings_tables(index: pd.DataFrame, n_folds: int = 5) -> dict[str, pd.DataFrame]:
    """Out-of-fold predictions of a logistic regression on the readers' other ratings, instead of a network.

    The human ceiling: one row a share of the fusion's fit that is balanced by size, as `fit_calibration` knows it.
    """
    from sklearn.linear_model import LogisticRegression

    from flows.datasets.labelled import concept_targets, floats
    from flows.versions.evaluation import predictions_of
    from pipeline.scoring.folds import patient_folds
    from pipeline.scoring.fusion import fit_calibration

    rows = index[index["label"].notna()]
    ratings = np.nan_to_num(concept_targets(rows)[:, 1:], nan=0.5)
    labels, diameters = floats(rows["label"]), floats(rows["diameter_mm"])
    folds = patient_folds(rows["patient_key"], rows["label"], n_folds, 0)
    inner = patient_folds(rows["patient_key"], rows["label"], n_folds, 1)

    def held_out(within: np.ndarray, parts: np.ndarray) -> np.ndarray:
        logits = np.zeros(len(rows))
        for part in np.unique(parts):
            fitted = within & (parts != part)
            model = LogisticRegression().fit(ratings[fitted], labels[fitted])
            logits[parts == part] = model.decision_function(ratings[parts == part])
        return logits

    tables: dict[str, list[pd.DataFrame]] = {}
    everybody = np.ones(len(rows), dtype=bool)
    outer = held_out(everybody, folds)
    for fold in range(n_folds):
        train, test = folds != fold, folds == fold
        logits = held_out(train, inner)
        for balance in (0.0, 0.5):
            calibration = fit_calibration(logits[train], diameters[train], labels[train], [], [], balance=balance)
            part = predictions_of(rows[test], outer[test], calibration, fold=fold).assign(split="test")
            tables.setdefault(f"readers' ratings, fusion balance {balance:g}", []).append(part)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
