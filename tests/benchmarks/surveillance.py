"""Planted faults for the surveillance measurements, and clean trials beside them, on real nodules and the phantom's.

Leaks and flips: the LIDC crops (838 nodules of 445 patients with a label). Kernels: the phantom's nodules, seen by a
scanner with one kernel or another of the same dose. Every trial draws its own patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.cohort_audit import LabelAudit
from data_contracts.drift import NAMES, NUMBERS, Verdict
from data_contracts.params import DriftParams
from pipeline.cohort.near_duplicates import near_duplicates
from pipeline.scoring.drift import drift_checks, overall
from pipeline.scoring.label_features import label_features
from pipeline.scoring.label_noise import audit_labels

_RATINGS = ("texture", "spiculation", "calcification", "subtlety")
#: patients of a trial, of all
_SHARE = 0.7


@dataclass(frozen=True, eq=False)
class Nodules:
    """LIDC crops (n, 3, 64, 64) uint8 with a label, and their table: patient, diameter, ratings, manufacturer."""

    crops: NDArray[np.uint8]
    table: pd.DataFrame

    @property
    def patients(self) -> NDArray[np.object_]:
        return self.table["patient_id"].to_numpy(dtype=object)

    def some(self, rng: np.random.Generator, share: float = _SHARE) -> Nodules:
        """The nodules of a part of the patients, drawn at random."""
        names = np.unique(self.patients)
        kept = np.isin(self.patients, rng.permutation(names)[: round(share * len(names))])
        return Nodules(self.crops[kept], self.table[kept].reset_index(drop=True))


def lidc_nodules(shared: Path) -> Nodules:
    """Nodules with at least three readers whose mean malignancy is not 3; label 1 above."""
    folder = shared / "lidc-nodules"
    table = pd.read_csv(folder / "nodules.csv")
    kept = ((table["n_readers"] >= 3) & (table["mal_mean"] != 3)).to_numpy()
    table = table[kept].reset_index(drop=True)
    for name in _RATINGS:
        table[name] = [np.mean([float(one) for one in str(cell).split(";") if one]) for cell in table[name]]
    table["label"] = (table["mal_mean"] > 3).astype(int)
    with np.load(folder / "crops_3x64x64_uint8.npz") as stored:
        return Nodules(stored["image"][kept], table)


def recut(crop: NDArray[np.uint8], rng: np.random.Generator, noise: float) -> NDArray[np.uint8]:
    """A crop had it been cut again: up to a pixel aside, turned, mirrored, of other contrast, noisier."""
    moved = ndimage.shift(crop.astype(np.float32), (0, *rng.uniform(-1, 1, 2)), order=1, mode="nearest")
    moved = np.rot90(moved, rng.integers(4), axes=(1, 2))
    moved = moved[:, :, ::-1] if rng.random() < 0.5 else moved
    moved = moved * rng.uniform(0.9, 1.1) + rng.uniform(-10, 10) + rng.normal(0, noise, moved.shape)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def leak_trial(nodules: Nodules, rng: np.random.Generator, noise: float | None) -> tuple[bool, bool]:
    """(whether near-duplicates were found, whether the found ones are the planted ones); clean where `noise` is None.

    One training patient comes again among the test patients, under another key, with all nodules cut again.
    """
    some = nodules.some(rng, 0.4)
    names = rng.permutation(np.unique(some.patients))
    in_test = np.isin(some.patients, names[: len(names) // 5])
    parts, owners, crops = np.where(in_test, "test", "train").astype(object), some.patients, some.crops
    if noise is not None:
        again = np.flatnonzero(owners == rng.choice(owners[~in_test]))
        crops = np.concatenate([crops, np.stack([recut(crops[row], rng, noise) for row in again])])
        parts = np.concatenate([parts, np.full(len(again), "test", dtype=object)])
        owners = np.concatenate([owners, np.full(len(again), "another key", dtype=object)])
    found = near_duplicates(crops, parts, owners)
    return bool(found), all(pair.second >= len(some.crops) for pair in found)


#: kinds of planted flips: a whole batch of a tenth of the patients, a tenth of the labels of a batch that is half of
#: all, a tenth of all labels anywhere, and nothing
FLIPS = ("batch", "tenth of a batch", "tenth of all", "clean")


def flip_trial(nodules: Nodules, rng: np.random.Generator, kind: str, *, ratings: bool = True) -> LabelAudit:
    """The audit of labels of which some were flipped; imports of ten parts and of two halves are known as batches."""
    some = nodules.some(rng, 0.9)
    table = some.table if ratings else some.table.drop(columns=list(_RATINGS))
    names = rng.permutation(np.unique(some.patients))
    tenth = dict(zip(names, np.arange(len(names)) % 10, strict=True))
    half = dict(zip(rng.permutation(names), np.arange(len(names)) % 2, strict=True))
    batch = np.array([f"import {tenth[name]}" for name in some.patients], dtype=object)
    site = np.array(["AB"[half[name]] for name in some.patients], dtype=object)
    labels = table["label"].to_numpy(dtype=np.int64)
    at_random = rng.random(len(labels)) < 0.1
    flipped = {
        "batch": batch == "import 0",
        "tenth of a batch": at_random & (site == "A"),
        "tenth of all": at_random,
        "clean": np.zeros(len(labels), dtype=bool),
    }[kind]
    labels = np.where(flipped, 1 - labels, labels)
    ids = [str(row) for row in range(len(labels))]
    return audit_labels(label_features(table, some.crops), labels, some.patients, {"batch": batch, "site": site}, ids)


def kernel_trial(
    home: pd.DataFrame, abroad: pd.DataFrame, rng: np.random.Generator, *, reference: int = 200, window: int = 30
) -> Verdict:
    """The verdict on a window of patients of `abroad` against a reference of other patients of `home`."""
    names = rng.permutation(home["patient"].unique())
    ours = home[home["patient"].isin(names[:reference])]
    theirs = abroad[abroad["patient"].isin(names[reference : reference + window])]
    return overall(drift_checks(ours, theirs, DriftParams()))[0]


def seen(
    patients: NDArray[np.generic],
    embeddings: NDArray[np.floating],
    noise: NDArray[np.floating],
    fine: NDArray[np.floating],
) -> pd.DataFrame:
    """A table as drift compares them, of nodules of which nothing is known but their pictures."""
    table = pd.DataFrame({"patient": patients, "series": patients, "score": np.nan, "embedding": list(embeddings)})
    for name in NUMBERS:
        table[name] = np.nan
    for name in NAMES:
        table[name] = ""
    return table.assign(noise=noise, noise_centroid_per_mm=fine)
