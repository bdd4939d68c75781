"""The EvaluationReport of one run from its held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_contracts.evaluation import SCORES, AdaptationDecision, EvaluationReport, Figure, ScoreFigures
from data_contracts.params import EvaluateParams
from data_contracts.predictions import PREDICTION_TABLE
from pipeline.scoring.delong import difference_figure
from pipeline.scoring.figures import ALL_SITES, labelled_rows, score_figures
from pipeline.scoring.thresholds import threshold_name

#: below this many nodules a figure is shown and flagged
SMALL_N = 30


def build_report(
    predictions: pd.DataFrame,
    *,
    run_id: str,
    dataset_id: str,
    backbone: str,
    weights: str,
    pretrained: bool,
    protocol: str,
    thresholds: Mapping[str, float],
    params: EvaluateParams,
    alternatives: Mapping[str, pd.DataFrame] | None = None,
    adaptation: AdaptationDecision | None = None,
    baseline_thresholds: Mapping[str, Mapping[str, float]] | None = None,
    warnings: tuple[str, ...] = (),
) -> EvaluationReport:
    """Figures of size only, image only and image + size, on every site and on all of them.

    Parameters
    ----------
    predictions: PredictionTable of held-out rows.
    protocol: how the held-out rows were chosen, in words.
    thresholds: frozen on validation for `score`, as in the model card ("specificity_0.90": 0.61).
    alternatives: prediction tables of networks that were not chosen, by name, e.g. "source-only".
    baseline_thresholds: thresholds of score_size and score_image, by score, where they were frozen too.
    warnings: put before the report's own.

    Raises
    ------
    ContractError: a table breaks the prediction contract.
    """
    table = PREDICTION_TABLE.validate(predictions, where=run_id)
    operating = threshold_name(params.operating_specificity)
    frozen = {"score": thresholds.get(operating)}
    for score, values in (baseline_thresholds or {}).items():
        frozen[score] = values.get(operating)
    sites = site_names(table)
    figures = tuple(score_figures(table, score, site, params, frozen.get(score)) for site in sites for score in SCORES)
    others: dict[str, tuple[ScoreFigures, ...]] = {}
    for name, other in (alternatives or {}).items():
        valid = PREDICTION_TABLE.validate(other, where=name)
        others[name] = tuple(
            score_figures(valid, score, site, params, None) for site in site_names(valid) for score in SCORES
        )
    labelled = labelled_rows(table)
    return EvaluationReport(
        run_id=run_id,
        dataset_id=dataset_id,
        backbone=backbone,
        weights=weights,
        pretrained=pretrained,
        protocol=protocol,
        n_patients=int(labelled["patient_key"].nunique()),
        n_nodules=len(labelled),
        n_indeterminate=len(table) - len(labelled),
        figures=figures,
        size_auc_difference=size_auc_difference(table),
        alternatives=others,
        adaptation=adaptation,
        warnings=(*warnings, *_warnings(table, sites, weights, pretrained)),
    )


def site_names(predictions: pd.DataFrame) -> tuple[str, ...]:
    """ "all" and then every site of the table, sorted."""
    return (ALL_SITES, *sorted({str(site) for site in predictions["site"]} - {ALL_SITES}))


def size_auc_difference(predictions: pd.DataFrame, site: str = ALL_SITES) -> Figure:
    """AUC of image + size minus AUC of size only, paired DeLong, on rows that have both."""
    rows = labelled_rows(predictions, "score", "score_size", site=site)
    return difference_figure(
        rows["label"].to_numpy(dtype=np.int64),
        rows["score"].to_numpy(dtype=np.float64),
        rows["score_size"].to_numpy(dtype=np.float64),
    )


def _warnings(table: pd.DataFrame, sites: tuple[str, ...], weights: str, pretrained: bool) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if not pretrained:
        found.append(
            f"The backbone started from random numbers (weights = {weights!r}), not from a pretrained network."
        )
    n_indeterminate = int((~table["label"].isin([0, 1])).sum())
    if n_indeterminate:
        found.append(f"{n_indeterminate} indeterminate nodules are in no figure.")
    unknown, n_labelled = int(labelled_rows(table)["diameter_mm"].isna().sum()), len(labelled_rows(table))
    if unknown and unknown == n_labelled:
        found.append(
            "NO SIZE BASELINE: no nodule has a diameter, so nobody can say what the image adds to size, "
            "and there is no size-matched figure."
        )
    elif unknown:
        found.append(
            f"{unknown} nodules have no diameter: their score is the image's, and size-only figures leave them out."
        )
    for site in sites:
        n = len(labelled_rows(table, site=site))
        if n < SMALL_N:
            place = "all sites together" if site == ALL_SITES else f"site {site}"
            found.append(f"Only {n} labelled nodules on {place}: read the intervals, not the values.")
    return found
