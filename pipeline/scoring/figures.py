"""The figures of one score on one site."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss

from data_contracts.evaluation import Figure, ScoreFigures
from data_contracts.params import EvaluateParams
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval
from pipeline.scoring.delong import auc_figure, class_problem, delong
from pipeline.scoring.size_matched import size_matched_auc
from pipeline.scoring.thresholds import operating_point
from pipeline.scoring.weighted_metrics import weighted_auc, weighted_average_precision, weighted_brier, weighted_ece

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
    predictions: pd.DataFrame, score: str, site: str, params: EvaluateParams, threshold: float | None
) -> ScoreFigures:
    """Every figure of one score on one site.

    Parameters
    ----------
    predictions: a PredictionTable of held-out rows; rows without label or without this score are left out.
    score: a key of SCORES.
    site: a value of the `site` column, or "all".
    threshold: frozen on validation; None leaves out sensitivity and specificity.
    """
    rows = labelled_rows(predictions, score, site=site)
    labels = rows["label"].to_numpy(dtype=np.int64)
    scores = rows[score].to_numpy(dtype=np.float64)
    patients = rows["patient_key"].to_numpy(dtype=object)
    bootstrapped = partial(_bootstrapped, labels, patients, params=params)
    sensitivity = specificity = None
    if threshold is not None:
        sensitivity, specificity = operating_point(labels, scores, threshold)
    return ScoreFigures(
        score=score,
        site=site,
        auc=auc_figure(labels, scores),
        auc_bootstrap=bootstrapped(
            lambda: float(delong(labels, scores)[0][0]), partial(weighted_auc, labels, scores), both_classes=True
        ),
        average_precision=bootstrapped(
            lambda: float(average_precision_score(labels, scores)),
            partial(weighted_average_precision, labels, scores),
            both_classes=True,
        ),
        size_matched_auc=size_matched_auc(
            labels,
            scores,
            rows["diameter_mm"].to_numpy(dtype=np.float64),
            tolerance=params.size_match_tolerance,
            seed=params.seed,
            draws=params.bootstrap,
        ),
        brier=bootstrapped(
            lambda: float(brier_score_loss(labels, scores, labels=[0, 1])), partial(weighted_brier, labels, scores)
        ),
        ece=bootstrapped(
            lambda: expected_calibration_error(labels, scores, bins=params.ece_bins),
            partial(weighted_ece, labels, scores, bins=params.ece_bins),
        ),
        threshold=threshold,
        sensitivity=sensitivity,
        specificity=specificity,
    )


def _bootstrapped(
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    point: Callable[[], float],
    statistic: Callable[[Floats], Floats],
    *,
    params: EvaluateParams,
    both_classes: bool = False,
) -> Figure:
    """A figure with the patient-cluster bootstrap interval, or the reason why there is none."""
    n, n_positive = int(labels.size), int((labels == 1).sum())
    method = f"patient bootstrap, {params.bootstrap} draws"
    problem = class_problem(labels)
    if problem and (both_classes or n == 0):
        return Figure(value=None, n=n, n_positive=n_positive, method=method, note=problem)
    value = point()
    interval = percentile_interval(cluster_draws(patients, statistic, draws=params.bootstrap, seed=params.seed), value)
    if interval is None:
        note = "no interval: most draws of patients lack one class"
        return Figure(value=value, n=n, n_positive=n_positive, method=method, note=note)
    low, high = interval
    return Figure(value=value, low=low, high=high, n=n, n_positive=n_positive, method=method)
