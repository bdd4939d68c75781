"""Permutations that exchange whole patients between a reference and a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class PatientExchange:
    """Draws of which patients count as the sample; each draw takes as many patients as the sample has.

    Parameters
    ----------
    reference, sample: (n,) and (m,) patient of each row; a name in one is another patient than the same name in the
        other.
    draws: how many; the smallest p-value is 1 / (draws + 1).

    Attributes
    ----------
    patient: (n + m,) number of each row's patient, reference first.
    chosen: (draws, patients) 1 where a patient counts as the sample.
    observed: (patients,) 1 for the patients of the sample.
    """

    def __init__(self, reference: NDArray[Any], sample: NDArray[Any], *, draws: int, seed: int) -> None:
        ours, names = pd.factorize(reference)
        theirs, others = pd.factorize(sample)
        self.patient: NDArray[np.int64] = np.concatenate([ours, theirs + len(names)]).astype(np.int64)
        self.n_patients = len(names) + len(others)
        self.observed: Floats = (np.arange(self.n_patients) >= len(names)).astype(np.float64)
        rng = np.random.default_rng(seed)
        self.chosen: Floats = rng.permuted(np.tile(self.observed, (draws, 1)), axis=1)

    def by_patient(self, table: Floats) -> Floats:
        """(patients, k) sums of the rows (n + m, k) over each patient."""
        out = np.zeros((self.n_patients, table.shape[1]))
        np.add.at(out, self.patient, table)
        return out

    def sums(self, table: Floats) -> tuple[Floats, Floats]:
        """(draws, k) sums of the rows (n + m, k) over the sample and over the reference of each draw."""
        grouped = self.by_patient(table)
        inside = self.chosen @ grouped
        return inside, grouped.sum(axis=0) - inside

    @staticmethod
    def p_of(value: float, permuted: Floats) -> float:
        """Share of draws at least as large as the value, the value itself among them (Phipson & Smyth 2010)."""
        known = permuted[np.isfinite(permuted)]
        return float((1 + np.count_nonzero(known >= value - 1e-12)) / (1 + known.size))
