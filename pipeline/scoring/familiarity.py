"""Whether a nodule resembles those that a version was judged on, and whether its series was acquired like theirs.

A nodule's distance is that to its k-th nearest held-out nodule among the embeddings, scaled to unit length (Sun et al.
2022, ICML, arXiv:2204.06507). It is compared with the distances of the held-out nodules from those of other patients:
the share of them that is as far away is a p-value where the nodule comes from where they come from (Vovk 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NEIGHBOURS = 5
#: one of a hundred familiar nodules is called unfamiliar
_LEVEL = 0.01
#: with fewer nodules or patients no distance is known well enough to call one large
MIN_NODULES, MIN_PATIENTS = 100, 30
#: acquisition features that a header states, with their unit, and how far beyond the seen range still counts as seen
_STATED = {"slice_thickness_mm": ("slice thickness", "mm", 0.5), "kvp": ("tube voltage", "kVp", 0.0)}
_MIN_SERIES = 20


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Held-out nodules as unit vectors (n, width), and their own distances (n,), sorted; empty where too few.

    n_nodules, n_patients: how many were held out.
    """

    vectors: Floats
    distances: Floats
    acquired: pd.DataFrame
    n_nodules: int
    n_patients: int

    @classmethod
    def of(cls, held_out: pd.DataFrame) -> Familiarity:
        """From a REFERENCE_TABLE."""
        acquired = held_out.drop_duplicates("series")
        patients = held_out["patient"].to_numpy()
        counts = (len(held_out), len(np.unique(patients)))
        if counts[0] < MIN_NODULES or counts[1] < MIN_PATIENTS:
            return cls(np.empty((0, 0)), np.empty(0), acquired, *counts)
        vectors = _unit(np.array(held_out["embedding"].tolist(), dtype=np.float64))
        squared = np.maximum(2.0 - 2.0 * vectors @ vectors.T, 0.0)
        squared[patients[:, None] == patients[None, :]] = np.inf
        return cls(vectors, np.sort(_kth(squared)), acquired, *counts)

    @property
    def is_known(self) -> bool:
        """Whether there are enough held-out nodules to say anything of a nodule."""
        return len(self.distances) > 0

    @property
    def why_unknown(self) -> str:
        """Why it cannot be told whether a nodule is familiar, in a sentence; "" where it can."""
        if self.is_known:
            return ""
        return (
            "Whether the images are familiar to the model is not known: it was judged on "
            f"{self.n_nodules} held-out nodules of {self.n_patients} patients, and {MIN_NODULES} of {MIN_PATIENTS} are "
            "needed to tell."
        )

    def p_values(self, embeddings: Floats) -> Floats:
        """(n,) share of held-out nodules that are as far from the others as each of (n, width); 1 where not known."""
        if not self.is_known or embeddings.ndim != 2 or embeddings.shape[1] != self.vectors.shape[1]:
            return np.ones(len(embeddings))
        squared = np.maximum(2.0 - 2.0 * _unit(embeddings.astype(np.float64)) @ self.vectors.T, 0.0)
        farther = len(self.distances) - np.searchsorted(self.distances, _kth(squared) - 1e-12)
        return np.asarray((1 + farther) / (1 + len(self.distances)), dtype=np.float64)

    def of_nodules(self, embeddings: Floats) -> list[str]:
        """Why the figures of a nodule may not hold; "" where it resembles the held-out ones, or nothing is known."""
        words = f"It resembles none of the {len(self.vectors)} nodules that the version was judged on"
        return [
            f"{words} (farther from them than {100 * (1 - p):.0f} % of them from one another)." if p <= _LEVEL else ""
            for p in self.p_values(embeddings)
        ]

    def of_acquisition(self, stated: Mapping[str, object]) -> list[str]:
        """What of a series' acquisition no held-out series had, a sentence each; thickness and voltage as ranges."""
        if len(self.acquired) < _MIN_SERIES:
            return []
        found = []
        for name, (words, unit, margin) in _STATED.items():
            value = stated.get(name)
            seen = self.acquired[name].dropna()
            if not isinstance(value, float) or not np.isfinite(value) or seen.empty:
                continue
            low, high = float(seen.min()), float(seen.max())
            if not low - margin <= value <= high + margin:
                judged = f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"
                found.append(f"The {words} is {value:g} {unit}; the version was judged on {judged}.")
        for name, words in (("kernel_family", "kernel"), ("manufacturer", "manufacturer")):
            value = str(stated.get(name) or "")
            names = {str(one) for one in self.acquired[name] if one}
            if value and names and value not in names:
                found.append(f"No series that the version was judged on had this {words}.")
        return found


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def _kth(squared: Floats) -> Floats:
    """(n,) distance of each row to its k-th nearest column of (n, m) squared distances."""
    k = min(_NEIGHBOURS, squared.shape[1]) - 1
    return np.asarray(np.sqrt(np.partition(squared, k, axis=1)[:, k]), dtype=np.float64)
