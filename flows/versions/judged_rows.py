"""Whether the rows that a version is judged by are what they seem: their labels, and pictures it learned from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from flows.datasets.cohort_audit import planes_of
from flows.datasets.labelled import floats, off_grid
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.near_duplicates import near_duplicates
from pipeline.cohort.places import without_copies
from pipeline.scoring.label_check import judged_label_warnings


def doubts(
    workspace: Workspace, reader: PatchReader, rows: pd.DataFrame, card: ModelCard, logits: NDArray[np.float64]
) -> tuple[str, ...]:
    """Warnings for the report of an evaluation. logits: (n,) of the rows."""
    found = list(judged_label_warnings(floats(rows["label"]), floats(rows["diameter_mm"]), logits))
    if n_known := known_pictures(workspace, reader, rows, card):
        found.append(
            f"{n_known} patches show the picture of a patch that the version learned from, under another patient: "
            "they are not unseen, and the figures are too good."
        )
    if n_off := off_grid(reader, rows, card):
        found.append(
            f"{n_off} of {len(rows)} patches are not known to lie on the grid of {card.input.spacing_mm:g} mm a pixel "
            "that the version learned from: it may take their nodules for larger or smaller ones."
        )
    return tuple(found)


def known_pictures(workspace: Workspace, reader: PatchReader, rows: pd.DataFrame, card: ModelCard) -> int:
    """How many of the rows show what a patch of training or validation shows; 0 where those are not here any more."""
    if reader.card.dataset_id == card.dataset_id:
        return 0  # told when the version was trained
    folder = workspace.datasets_root / card.dataset_id
    if not (folder / "dataset.json").exists():
        return 0
    trained = PatchReader(folder)
    if (trained.card.kind, trained.card.patch_shape) != (reader.card.kind, reader.card.patch_shape):
        return 0
    learned = without_copies(trained.index[trained.index["split"] != Split.TEST.value])
    if learned.empty or rows.empty:
        return 0
    planes = [planes_of(trained, learned), planes_of(reader, rows)]
    sides = np.repeat(["learned", "judged"], [len(learned), len(rows)])
    owners = np.concatenate([learned["patient_key"].to_numpy(dtype=object), rows["patient_key"].to_numpy(dtype=object)])
    pairs = near_duplicates(np.concatenate(planes), sides, owners)
    judged = {index for pair in pairs for index in (pair.first, pair.second) if index >= len(learned)}
    return len(judged)
