"""Net benefit over threshold probabilities: the decision curve (Vickers & Elkin, Med Decis Making 2006;26:565)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.evaluation import Figure, NetBenefit
from pipeline.scoring.quantiles import student_95

#: probabilities of malignancy from which on somebody would act
THRESHOLDS = tuple(round(percent / 100, 2) for percent in range(1, 21))

_METHOD = "TP/n - FP/n t/(1-t), patient jackknife"


def net_benefit(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    patients: NDArray[Any],
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> tuple[NetBenefit, ...]:
    """Net benefit of calling score >= threshold malignant, and of calling every nodule so; empty without a nodule.

    labels, scores, patients: (n,). The 95 % interval leaves out one patient after the other (jackknife, Student's t).
    """
    n, n_positive = int(labels.size), int((labels == 1).sum())
    if n == 0:
        return ()
    at = np.array(thresholds)
    odds = at / (1 - at)
    malignant = (labels == 1)[:, None]
    gains = np.where(malignant, 1.0, -odds) * (scores[:, None] >= at)
    values = gains.mean(axis=0)
    codes, names = pd.factorize(patients)
    moved = np.zeros((len(names), at.size))
    np.add.at(moved, codes, gains - values)
    enough = len(names) > 1
    half = _half_widths((moved / (n - np.bincount(codes)[:, None])) ** 2) if enough else np.zeros(at.size)
    prevalence = n_positive / n
    return tuple(
        NetBenefit(
            threshold=float(at[i]),
            model=Figure(
                value=float(values[i]),
                low=float(values[i] - half[i]) if enough else None,
                high=float(values[i] + half[i]) if enough else None,
                n=n,
                n_positive=n_positive,
                method=_METHOD,
                note="" if enough else "no interval: all nodules are of one patient",
            ),
            treat_all=float(prevalence - (1 - prevalence) * odds[i]),
        )
        for i in range(at.size)
    )


def _half_widths(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half widths (m,) of 95 % intervals from the squared jackknife steps of each patient (patients, m).

    Degrees of freedom by moments: some patients have many nodules, and an error that rests on few of them is itself
    less certain than one that rests on all.
    """
    n, total = len(squares), squares.sum(axis=0)
    spread = (squares**2).sum(axis=0) - total**2 / n
    freedom = np.clip(2 * total**2 / np.maximum(spread, 1e-300), 1, n - 1)
    quantiles = np.array([student_95(float(df)) for df in freedom], dtype=np.float64)
    return np.asarray(quantiles * np.sqrt(total * (n - 1) / n), dtype=np.float64)
