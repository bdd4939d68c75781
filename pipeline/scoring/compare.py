"""Two networks on the same nodules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.evaluation import Figure
from pipeline.scoring.bootstrap import cluster_draws, spread_interval
from pipeline.scoring.clustered_auc import paired_difference, paired_difference_figure
from pipeline.scoring.delong import class_problem, delong_paired, difference_figure
from pipeline.scoring.weighted_metrics import weighted_auc

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedComparison:
    """AUC of a minus AUC of b on the nodules both scored.

    difference: its interval takes a patient's nodules together (Obuchowski 1997), and so does p_value_clustered.
    difference_delong, p_value: paired DeLong, every nodule for itself.
    difference_bootstrap: patients resampled with all their nodules.
    n_only_a, n_only_b: labelled nodules that only one of them scored, left out.
    """

    score: str
    n: int
    n_positive: int
    n_patients: int
    auc_a: float | None
    auc_b: float | None
    difference: Figure
    difference_delong: Figure
    difference_bootstrap: Figure
    p_value: float | None
    p_value_clustered: float | None
    n_only_a: int
    n_only_b: int


def compare_paired(
    predictions_a: pd.DataFrame,
    predictions_b: pd.DataFrame,
    *,
    score: str = "score",
    draws: int = 1000,
    seed: int = 0,
) -> PairedComparison:
    """Compare a score of two prediction tables.

    Rows are matched by patch_id; where the two share none (patches cut with other parameters), by nodule_id.
    Rows whose labels differ between the tables are left out, as are rows without label or score.
    """
    a, b = _scored(predictions_a, score), _scored(predictions_b, score)
    key = "patch_id"
    if not a["patch_id"].isin(b["patch_id"]).any():
        key = "nodule_id"
        a, b = a.drop_duplicates(key), b.drop_duplicates(key)
    shared = a.merge(b[[key, "label", score]], on=key, suffixes=("_a", "_b"))
    both = shared[shared["label_a"] == shared["label_b"]]
    labels = both["label_a"].to_numpy(dtype=np.int64)
    scores_a, scores_b = both[f"{score}_a"].to_numpy(dtype=np.float64), both[f"{score}_b"].to_numpy(dtype=np.float64)
    patients = both["patient_key"].to_numpy(dtype=object)
    difference = paired_difference_figure(labels, scores_a, scores_b, patients)
    clustered = None if class_problem(labels) else paired_difference(labels, scores_a, scores_b, patients)
    paired = None if class_problem(labels) else delong_paired(labels, scores_a, scores_b)
    return PairedComparison(
        score=score,
        n=labels.size,
        n_positive=int(labels.sum()),
        n_patients=int(both["patient_key"].nunique()),
        auc_a=paired.auc_a if paired else None,
        auc_b=paired.auc_b if paired else None,
        difference=difference,
        difference_delong=difference_figure(labels, scores_a, scores_b),
        difference_bootstrap=_bootstrap_difference(both, labels, scores_a, scores_b, difference, draws, seed),
        p_value=paired.p_value if paired else None,
        p_value_clustered=clustered.p_value if clustered else None,
        n_only_a=len(a) - len(shared),
        n_only_b=len(b) - len(shared),
    )


def _scored(predictions: pd.DataFrame, score: str) -> pd.DataFrame:
    rows = predictions[predictions["label"].isin([0, 1]) & predictions[score].notna()]
    return rows[["patch_id", "nodule_id", "patient_key", "label", score]]


def _bootstrap_difference(
    both: pd.DataFrame,
    labels: NDArray[np.int64],
    scores_a: Floats,
    scores_b: Floats,
    difference: Figure,
    draws: int,
    seed: int,
) -> Figure:
    method = f"paired patient bootstrap, {draws} draws"
    if difference.value is None:
        return difference.model_copy(update={"method": method})

    def statistic(weights: Floats) -> Floats:
        return weighted_auc(labels, scores_a, weights) - weighted_auc(labels, scores_b, weights)

    patients = both["patient_key"].to_numpy(dtype=object)
    values = cluster_draws(patients, statistic, draws=draws, seed=seed)
    spread = spread_interval(values, difference.value, patients=len(set(patients)), logit_scale=False)
    low, high = spread or (None, None)
    return difference.model_copy(update={"low": low, "high": high, "method": method, "note": ""})
