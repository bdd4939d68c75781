"""The EvaluationReport of one run from its held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.evaluation import (
    SCORES,
    AdaptationDecision,
    ConformalFigures,
    EvaluationReport,
    Figure,
    ScoreFigures,
)
from data_contracts.model_card import ConformalQuantiles
from data_contracts.params import EvaluateParams
from data_contracts.predictions import PREDICTION_TABLE
from pipeline.scoring.clustered_auc import paired_difference_figure, unpaired_difference_figure
from pipeline.scoring.conformal import conformal_calls, conformal_figures
from pipeline.scoring.delong import difference_figure
from pipeline.scoring.figures import ALL_SITES, labelled_rows, score_figures
from pipeline.scoring.subgroups import SMALL_N, subgroup_figures
from pipeline.scoring.thresholds import threshold_name

_Arrays = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[Any]]


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
    conformal: ConformalQuantiles | None = None,
    source_site: str = "",
    target_site: str = "",
    source: pd.DataFrame | None = None,
) -> EvaluationReport:
    """Figures of size only, image only and image + size on every site and on all of them, and of image + size in
    subgroups.

    Parameters
    ----------
    predictions: PredictionTable of held-out rows.
    protocol: how the held-out rows were chosen, in words.
    thresholds: frozen on validation for `score`, as in the model card ("specificity_0.90": 0.61).
    alternatives: prediction tables of networks that were not chosen, by name, e.g. "source-only".
    baseline_thresholds: thresholds of score_size and score_image, by score, where they were frozen too.
    warnings: put before the report's own.
    conformal: the card's quantiles, of which coverage and abstention are measured.
    source_site, target_site: sites of `predictions` whose AUCs are compared, where both are there.
    source: held-out predictions on the source, where `predictions` are all of a target.

    Raises
    ------
    ContractError: a table breaks the prediction contract.
    """
    table = PREDICTION_TABLE.validate(predictions, where=run_id)
    operating = threshold_name(params.operating_specificity)
    frozen = {"score": thresholds, **(baseline_thresholds or {})}
    sites = site_names(table)
    figures = tuple(
        score_figures(table, score, site, params, points.get(operating), points)
        for site in sites
        for score in SCORES
        for points in [frozen.get(score, {})]
    )
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
        size_auc_difference_delong=size_auc_difference_delong(table),
        subgroups=subgroup_figures(labelled, params, thresholds.get(operating)),
        conformal=_conformal(labelled, conformal),
        source_minus_target=_source_minus_target(table, source_site, target_site, source),
        alternatives=others,
        adaptation=adaptation,
        warnings=(*warnings, *_warnings(table, sites, weights, pretrained), *_conformal_warnings(conformal)),
    )


def site_names(predictions: pd.DataFrame) -> tuple[str, ...]:
    """ "all" and then every site of the table, sorted."""
    return (ALL_SITES, *sorted({str(site) for site in predictions["site"]} - {ALL_SITES}))


def size_auc_difference(predictions: pd.DataFrame, site: str = ALL_SITES) -> Figure:
    """AUC of image + size minus AUC of size only on rows that have both, a patient's nodules taken together."""
    rows = labelled_rows(predictions, "score", "score_size", site=site)
    labels, scores, patients = _arrays(rows)
    return paired_difference_figure(labels, scores, rows["score_size"].to_numpy(dtype=np.float64), patients)


def size_auc_difference_delong(predictions: pd.DataFrame, site: str = ALL_SITES) -> Figure:
    """As `size_auc_difference`, by paired DeLong."""
    rows = labelled_rows(predictions, "score", "score_size", site=site)
    labels, scores, _ = _arrays(rows)
    return difference_figure(labels, scores, rows["score_size"].to_numpy(dtype=np.float64))


def _arrays(rows: pd.DataFrame) -> _Arrays:
    """Labels, score and patients (n,) of labelled rows."""
    return (
        rows["label"].to_numpy(dtype=np.int64),
        rows["score"].to_numpy(dtype=np.float64),
        rows["patient_key"].to_numpy(dtype=object),
    )


def _conformal(labelled: pd.DataFrame, quantiles: ConformalQuantiles | None) -> ConformalFigures | None:
    if quantiles is None or labelled.empty:
        return None
    calls = conformal_calls(quantiles, labelled["score"].to_numpy(dtype=np.float64))
    return conformal_figures(labelled.assign(conformal=calls), quantiles.alpha)


def _conformal_warnings(quantiles: ConformalQuantiles | None) -> list[str]:
    """Which class validation had too few nodules of, so that no prediction set ever excludes it."""
    if quantiles is None:
        return []
    classes = (
        ("benign", quantiles.benign, quantiles.n_benign),
        ("malignant", quantiles.malignant, quantiles.n_malignant),
    )
    return [
        f"Only {n} {name} validation nodules: too few to say of any nodule that it is not {name}."
        for name, quantile, n in classes
        if quantile >= 1
    ]


def _source_minus_target(
    table: pd.DataFrame, source_site: str, target_site: str, source: pd.DataFrame | None
) -> Figure | None:
    """AUC on the source minus AUC on the target, whose patients are others; None where there is nothing to compare."""
    if source is not None:
        parts = labelled_rows(source, "score"), labelled_rows(table, "score")
    elif source_site and target_site:
        parts = labelled_rows(table, "score", site=source_site), labelled_rows(table, "score", site=target_site)
    else:
        return None
    if any(part.empty for part in parts):
        return None
    return unpaired_difference_figure(*_arrays(parts[0]), *_arrays(parts[1]))


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
