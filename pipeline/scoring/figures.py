"""The figures of one score on one site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss

from data_contracts.evaluation import Figure, ScoreFigures
from data_contracts.params import EvaluateParams
from pipeline.scoring.bootstrap import cluster_draws, spread_interval
from pipeline.scoring.calibration_figures import ece_figure, recalibration_figures
from pipeline.scoring.clustered_auc import clustered_auc_figure
from pipeline.scoring.decision_curve import net_benefit
from pipeline.scoring.delong import auc_figure, class_problem, delong
from pipeline.scoring.size_matched import size_matched_auc
from pipeline.scoring.thresholds import operating_point, operating_points
from pipeline.scoring.weighted_metrics import weighted_auc_and_precision, weighted_brier, weighted_ece

#: the site that stands for every site together
ALL_SITES = "all"

Floats = NDArray[np.float64]


def labelled_rows(predictions: pd.DataFrame, *scores: str, site: str = ALL_SITES) -> pd.DataFrame:
    """Rows of a site with a label of 0 or 1 and every named score, in the table's order."""
    keep = predictions["label"].isin([0, 1])
    if site != ALL_SITES:
        keep &= predictions["site"] == site
    for score in scores:
        keep &= predictions[score].notna()
    return predictions[keep]


def expected_calibration_error(labels: NDArray[np.int64], probabilities: Floats, *, bins: int) -> float:
    """Mean over bins of equal width of |mean probability - share malignant|, weighted by the bins' shares."""
    return float(weighted_ece(labels, probabilities, np.ones((1, labels.size)), bins=bins)[0])


def score_figures(
    predictions: pd.DataFrame,
    score: str,
    site: str,
    params: EvaluateParams,
    threshold: float | None,
    thresholds: Mapping[str, float] | None = None,
) -> ScoreFigures:
    """Every figure of one score on one site.

    Parameters
    ----------
    predictions: a PredictionTable of held-out rows; rows without label or without this score are left out.
    score: a key of SCORES.
    site: a value of the `site` column, or "all".
    threshold: frozen on validation; None leaves out sensitivity and specificity.
    thresholds: every operating point of this score that was frozen on validation, by name.
    """
    rows = labelled_rows(predictions, score, site=site)
    labels = rows["label"].to_numpy(dtype=np.int64)
    scores = rows[score].to_numpy(dtype=np.float64)
    patients = rows["patient_key"].to_numpy(dtype=object)
    sensitivity = specificity = None
    if threshold is not None:
        sensitivity, specificity = operating_point(labels, scores, threshold, patients)
    auc_bootstrap, average_precision, brier = _bootstrapped(labels, scores, patients, params)
    slope, intercept = recalibration_figures(labels, scores, patients)
    return ScoreFigures(
        score=score,
        site=site,
        auc=auc_figure(labels, scores),
        auc_clustered=clustered_auc_figure(labels, scores, patients),
        auc_bootstrap=auc_bootstrap,
        average_precision=average_precision,
        size_matched_auc=size_matched_auc(
            labels,
            scores,
            rows["diameter_mm"].to_numpy(dtype=np.float64),
            tolerance=params.size_match_tolerance,
            seed=params.seed,
            patients=patients,
        ),
        brier=brier,
        ece=ece_figure(labels, scores, patients, bins=params.ece_bins, seed=params.seed),
        calibration_slope=slope,
        calibration_intercept=intercept,
        threshold=threshold,
        sensitivity=sensitivity,
        specificity=specificity,
        operating_points=operating_points(labels, scores, thresholds or {}, patients),
        net_benefit=net_benefit(labels, scores, patients),
    )


def _bootstrapped(
    labels: NDArray[np.int64], scores: Floats, patients: NDArray[Any], params: EvaluateParams
) -> tuple[Figure, Figure, Figure]:
    """AUC, average precision and Brier score with intervals from the same draws of patients, or why there is none."""
    n, n_positive = int(labels.size), int((labels == 1).sum())
    method = f"patient bootstrap, {params.bootstrap} draws"
    problem = class_problem(labels)
    missing = Figure(value=None, n=n, n_positive=n_positive, method=method, note=problem)
    if n == 0:
        return missing, missing, missing

    def statistic(weights: Floats) -> Floats:
        brier = weighted_brier(labels, scores, weights)
        if problem:
            return brier[:, None]
        return np.stack([brier, *weighted_auc_and_precision(labels, scores, weights)], axis=1)

    draws = cluster_draws(patients, statistic, draws=params.bootstrap, seed=params.seed)
    n_patients = len(set(patients))

    def figure(value: float, values: Floats) -> Figure:
        interval = spread_interval(values, value, patients=n_patients)
        note = "" if interval else "no interval: most draws of patients lack one class"
        low, high = interval or (None, None)
        return Figure(value=value, low=low, high=high, n=n, n_positive=n_positive, method=method, note=note)

    brier = figure(float(brier_score_loss(labels, scores, labels=[0, 1])), draws[:, 0])
    if problem:
        return missing, missing, brier
    auc = figure(float(delong(labels, scores)[0][0]), draws[:, 1])
    return auc, figure(float(average_precision_score(labels, scores)), draws[:, 2]), brier
