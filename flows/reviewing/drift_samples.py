"""The samples that drift compares: the reference kept with a version, and the nodules that a review saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.drift import NAMES, NUMBERS, REFERENCE_TABLE
from data_contracts.model_card import ModelCard
from data_contracts.records import digest_of
from data_contracts.series import SeriesRecord
from flows.datasets.training_cohort import TrainingCohort
from flows.reviewing.drift import REFERENCE_FILE
from flows.workspace import Workspace
from models.networks.network import NoduleNetwork
from models.predict import represented
from pipeline.imaging.noise import noise_of_patches
from pipeline.intake.kernel_sharpness import sharpness_of

#: nodules of the reference; more make no test better that is worth the time
_MOST_NODULES = 600


def write_reference(
    workspace: Workspace,
    folder: Path,
    network: NoduleNetwork,
    card: ModelCard,
    cohort: TrainingCohort,
    scores: pd.Series,
) -> None:
    """Write reference.parquet of a run: its held-out nodules as the network sees them, without a name of anyone.

    scores: calibrated probability by patch_id of the rows that count: held out from every fit.
    """
    rows = cohort.index[cohort.index["patch_id"].isin(scores.index)]
    rows = rows[_first_patients(rows["patient_key"], _MOST_NODULES)]
    patches = cohort.patches(rows)
    records = {record.series_key: record for record in workspace.series_records()}
    acquired = [acquisition_of(records.get(str(key))) for key in rows["series_key"]]
    noise, centroid = noise_of_patches(patches, card.input.kind, card.input.spacing_mm)
    table = pd.DataFrame(
        {
            "patient": pd.factorize(rows["patient_key"])[0],
            "series": pd.factorize(rows["series_key"].where(rows["series_key"] != "", rows["patch_id"]))[0],
            "label": rows["label"].to_numpy(),
            "score": scores.loc[list(rows["patch_id"])].to_numpy(dtype=np.float64),
            "embedding": list(represented(network, patches, card.input)),
            **{name: [one[name] for one in acquired] for name in (*NUMBERS, *NAMES)},
        }
    )
    table["noise"], table["noise_centroid_per_mm"] = noise, centroid
    for name in ("slice_thickness_mm", "pixel_spacing_mm"):  # of imported crops, which have no series
        if name in rows:
            table[name] = table[name].fillna(pd.Series(rows[name].to_numpy(dtype=np.float64)))
    REFERENCE_TABLE.write(folder / REFERENCE_FILE, table)


def _first_patients(keys: pd.Series, most: int) -> NDArray[np.bool_]:
    """Rows of whole patients, in the order of a digest of their keys, until there are `most`."""
    order = {key: digest_of(key) for key in keys.unique()}
    counts = keys.map(order).value_counts().sort_index().cumsum()
    kept = set(counts.index[counts <= max(most, int(counts.iloc[0]) if len(counts) else 0)])
    return keys.map(order).isin(kept).to_numpy(dtype=np.bool_)


def acquisition_of(record: SeriesRecord | None) -> dict[str, Any]:
    """The acquisition features that the header of a series states; NaN and "" where it states nothing."""
    found: dict[str, Any] = {**dict.fromkeys(NUMBERS, np.nan), **dict.fromkeys(NAMES, "")}
    if record is None:
        return found
    stated = {
        "slice_thickness_mm": record.slice_thickness_mm,
        "pixel_spacing_mm": record.spacing_kji_mm[2],
        "kvp": record.kvp,
        "exposure_mas": record.exposure_mas,
    }
    found |= {name: float(value) for name, value in stated.items() if value is not None}
    found["kernel"], found["manufacturer"] = record.kernel, record.manufacturer
    found["kernel_family"] = sharpness_of(record.kernel, record.manufacturer)
    return found


def watched_rows(
    record: SeriesRecord,
    nodule_ids: list[str],
    card: ModelCard,
    patches: NDArray[np.generic],
    vectors: NDArray[np.float32],
    scores: NDArray[np.float64],
) -> pd.DataFrame:
    """What a review keeps of the nodules of one series: one row each, without the time of the review.

    vectors: (n, width), what the version's head classifies of `patches`. scores: (n,).
    """
    noise, centroid = noise_of_patches(patches, card.input.kind, card.input.spacing_mm)
    table = pd.DataFrame({"nodule_id": nodule_ids, "score": scores})
    table["study_key"], table["patient_key"], table["series_key"] = (
        record.study_key,
        record.patient_key,
        record.series_key,
    )
    table["embedding"] = list(vectors)
    for name, value in acquisition_of(record).items():
        table[name] = value
    table["noise"], table["noise_centroid_per_mm"] = noise, centroid
    return table
