"""How often held-out nodules of a given score were malignant, with a 95 % interval.

Logistic recalibration of the held-out scores (Cox 1958, Biometrika 45:562), P = expit(intercept + slope *
logit(score)), by maximum likelihood; the interval at a score follows from the covariance of both coefficients, with
whole patients as clusters (the sandwich of Liang and Zeger 1986, Biometrika 73:13), and Student's t of patients - 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from pipeline.scoring.penalised_logistic import fit_towards
from pipeline.scoring.quantiles import student_95

Floats = NDArray[np.float64]

#: fewer nodules of a class, or fewer patients, say nothing that is worth an interval
MIN_OF_A_CLASS, MIN_PATIENTS = 10, 20
#: scores nearer to 0 or 1 are taken as this: their logit would decide the slope alone
_LEAST_PROBABILITY = 1e-3
#: a pull towards what the scores say themselves that only separated classes feel
_PRECISION = 1e-3


@dataclass(frozen=True, eq=False)
class CalibrationInterval:
    """Intervals of scores. coefficients: (2,) intercept and slope, covariance: (2, 2); None where nothing is said."""

    coefficients: Floats | None
    covariance: Floats | None
    n: int
    n_patients: int

    @classmethod
    def of(cls, held_out: pd.DataFrame) -> CalibrationInterval:
        """From held-out nodules with `label` (0, 1 or NA), `score` and `patient`."""
        rows = held_out[held_out["label"].notna() & held_out["score"].notna()]
        labels = rows["label"].to_numpy(dtype=np.float64)
        codes, patients = pd.factorize(rows["patient"])
        counts = (int((labels == 0).sum()), int((labels == 1).sum()))
        if min(counts) < MIN_OF_A_CLASS or len(patients) < MIN_PATIENTS:
            return cls(None, None, len(rows), len(patients))
        design = _design(rows["score"].to_numpy(dtype=np.float64))
        itself = np.array([0.0, 1.0])
        found = fit_towards(design, labels, anchor=itself, precision=np.full(2, _PRECISION))
        expected = expit(design @ found)
        information = (design * (expected * (1 - expected))[:, None]).T @ design + _PRECISION * np.eye(2)
        by_patient = np.zeros((len(patients), 2))
        np.add.at(by_patient, codes, design * (labels - expected)[:, None])
        middle = by_patient.T @ by_patient * (len(patients) / (len(patients) - 1))
        bread = np.linalg.inv(information)
        return cls(found, bread @ middle @ bread, len(rows), len(patients))

    def at(self, score: float) -> tuple[float, float] | None:
        """95 % interval of how often nodules of this score were malignant; None where too few were held out."""
        if self.coefficients is None or self.covariance is None or not np.isfinite(score):
            return None
        row = _design(np.array([score]))[0]
        middle = float(row @ self.coefficients)
        half = student_95(self.n_patients - 2) * float(np.sqrt(row @ self.covariance @ row))
        return float(expit(middle - half)), float(expit(middle + half))


def _design(scores: Floats) -> Floats:
    clipped = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.column_stack([np.ones(len(scores)), logit(clipped)])
