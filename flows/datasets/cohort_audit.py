"""What is looked for in a dataset before anything learns from it: pictures in two splits, and flipped labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.cohort_audit import CohortAudit, LabelAudit, SamePicture, same_pictures_text
from data_contracts.errors import LeakError
from data_contracts.manifest import Split
from flows.datasets.labelled import floats
from flows.datasets.training_cohort import TrainingCohort
from flows.progress import say
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import NAMES_NO_PATIENTS
from pipeline.cohort.near_duplicates import axial_planes, near_duplicates
from pipeline.cohort.places import without_copies
from pipeline.scoring.label_features import label_features
from pipeline.scoring.label_noise import audit_labels

AUDIT_FILE = "cohort.json"
#: patches that are read at a time
_BLOCK = 512
#: columns of an index that say who a label came from or with what
_BATCHES = ("batch", "source", "readers", "site")


def audit_cohort(folder: Path, cohort: TrainingCohort) -> CohortAudit:
    """Look at the dataset of a run once, write cohort.json, and say what was found.

    Raises
    ------
    LeakError: one picture is in two splits under two patient keys, and `near_duplicates` is "refuse". A published
        split that names no patients is only warned about.
    """
    path = folder / AUDIT_FILE
    if path.is_file():
        return CohortAudit.read(path)
    pairs = same_pictures(cohort)
    named = not any(warning.startswith(NAMES_NO_PATIENTS) for warning in cohort.reader.card.warnings)
    if pairs and named and cohort.params.near_duplicates == "refuse":
        raise LeakError(
            same_pictures_text(pairs),
            where=cohort.reader.card.dataset_id,
            todo="Give both the key of one patient, or leave one out; near_duplicates=warn trains all the same.",
        )
    audit = CohortAudit(same_pictures=pairs, labels=labels_of(cohort))
    audit.write(path)
    for warning in audit.warnings():
        say(f"warning: {warning}")
    return audit


def warnings_of(folder: Path) -> tuple[str, ...]:
    """The warnings of a run's cohort.json; none where there is no such file."""
    path = folder / AUDIT_FILE
    return CohortAudit.read(path).warnings() if path.is_file() else ()


def same_pictures(cohort: TrainingCohort) -> tuple[SamePicture, ...]:
    """Patches in two splits, or in two folds of a model of several members, that show the same under two patients."""
    rows = without_copies(cohort.index)  # a moved copy of a training nodule has its patient
    parts = rows["split"].astype(str)
    if cohort.params.members > 1:
        parts = parts.where(parts == Split.TEST.value, rows["patient_key"])
    planes = planes_of(cohort.reader, rows)
    found = near_duplicates(planes, parts.to_numpy(dtype=object), rows["patient_key"].to_numpy(dtype=object))
    ids = [str(key) for key in rows["patch_id"]]
    return tuple(
        SamePicture(first=ids[pair.first], second=ids[pair.second], likeness=round(pair.likeness, 4)) for pair in found
    )


def planes_of(reader: PatchReader, rows: pd.DataFrame) -> NDArray[np.generic]:
    """Axial planes (n, P, H, W) of patches, for a comparison of pictures."""
    keys, kind = list(rows["patch_id"]), reader.card.kind
    # Cubes of a large dataset do not fit into memory at once; their planes do.
    blocks = (reader.load(keys[start : start + _BLOCK]) for start in range(0, len(keys), _BLOCK))
    return np.concatenate([axial_planes(block, kind) for block in blocks]) if keys else np.zeros((0, 1, 1, 1))


def labels_of(cohort: TrainingCohort) -> LabelAudit:
    """The audit of every label of the dataset, those of validation and test among them."""
    rows = without_copies(cohort.index[cohort.index["label"].notna()])
    planes = axial_planes(cohort.reader.load(list(rows["patch_id"])), cohort.reader.card.kind)
    features = label_features(rows, planes) if len(rows) else np.zeros((0, 0))
    return audit_labels(
        features,
        rows["label"].to_numpy(dtype=np.int64),
        rows["patient_key"].to_numpy(dtype=object),
        {name: _text(rows[name]) for name in _BATCHES if name in rows and rows[name].nunique() > 1},
        [str(key) for key in rows["patch_id"]],
        soft=floats(rows["label_soft"]),
    )


def _text(column: pd.Series) -> np.ndarray:
    return column.fillna("").astype(str).to_numpy(dtype=object)
