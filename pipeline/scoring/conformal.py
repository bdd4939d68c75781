"""Split-conformal prediction sets of a nodule: benign, malignant, or too uncertain to say.

Each class has a quantile of its own (class-conditional, Mondrian; Vovk 2005, Sadinle 2019), because one quantile for
both promises coverage only over the cohort's mix: where a third is malignant, missing them costs it little. The
promise is then 1 - alpha among the malignant and 1 - alpha among the benign, at any prevalence.

It holds on average over nodules that are exchangeable with validation's: not at another site. That is why coverage is
measured on held-out nodules, for every subgroup.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from data_contracts.evaluation import ConformalFigures, ConformalSubgroup
from data_contracts.model_card import ConformalQuantiles
from data_contracts.predictions import CONFORMAL_CALLS
from pipeline.scoring.proportions import clustered_proportion_figure
from pipeline.scoring.subgroups import SMALL_N, subgroup_masks

Floats = NDArray[np.float64]

BENIGN, MALIGNANT, UNCERTAIN = CONFORMAL_CALLS


def fit_conformal(validation_scores: ArrayLike, labels: ArrayLike, *, alpha: float) -> ConformalQuantiles | None:
    """Quantiles of each class from validation nodules that the network was not fitted on.

    Parameters
    ----------
    validation_scores: (n,) probabilities of malignancy. labels: (n,) 0 or 1; rows without one are left out.
    alpha: share of a class whose set may miss it.

    The nonconformity of a nodule is 1 - the probability of its own class, its quantile the ceil((n + 1)(1 - alpha))-th
    smallest of the class's n. With too few nodules for that (9 for alpha 0.1) it is 1: such a class is never excluded.
    None where a class is missing.
    """
    scores, truth = np.asarray(validation_scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = np.isfinite(scores) & np.isfinite(truth)
    malignant = np.sort(1 - scores[known & (truth == 1)])
    benign = np.sort(scores[known & (truth == 0)])
    if malignant.size == 0 or benign.size == 0:
        return None
    return ConformalQuantiles(
        alpha=alpha,
        benign=_quantile(benign, alpha),
        malignant=_quantile(malignant, alpha),
        n_benign=benign.size,
        n_malignant=malignant.size,
    )


def _quantile(ordered: Floats, alpha: float) -> float:
    rank = math.ceil((ordered.size + 1) * (1 - alpha) - 1e-9)
    return float(ordered[rank - 1]) if rank <= ordered.size else 1.0


def conformal_calls(quantiles: ConformalQuantiles, scores: ArrayLike) -> NDArray[np.object_]:
    """(n,) "benign", "malignant" or "uncertain" of scores (n,): the set holds one class, or both, or none.

    A set that holds none is a nodule that resembles neither class of validation; nothing is claimed of it.
    """
    probability = np.asarray(scores, dtype=np.float64)
    malignant, benign = 1 - probability <= quantiles.malignant, probability <= quantiles.benign
    calls = np.full(probability.shape, UNCERTAIN, dtype=object)
    calls[malignant & ~benign] = MALIGNANT
    calls[benign & ~malignant] = BENIGN
    return calls


def conformal_figures(rows: pd.DataFrame, alpha: float) -> ConformalFigures:
    """Coverage and abstention of labelled rows of a PredictionTable with a column `conformal`.

    A nodule is covered unless it is called the other class. Subgroups: the classes, then those of `subgroup_masks`.
    """
    labels = rows["label"].to_numpy(dtype=np.int64)
    calls = rows["conformal"].to_numpy(dtype=object)
    patients = rows["patient_key"].to_numpy(dtype=object)
    covered = ~((calls == MALIGNANT) & (labels == 0)) & ~((calls == BENIGN) & (labels == 1))
    uncertain = calls == UNCERTAIN
    groups = [("class", BENIGN, labels == 0), ("class", MALIGNANT, labels == 1), *subgroup_masks(rows)]

    def proportion(hits: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Any:
        n_positive = int(labels[mask].sum())
        return clustered_proportion_figure(hits[mask], patients[mask], n_positive=n_positive, what="nodules")

    everyone = np.ones(len(rows), dtype=np.bool_)
    return ConformalFigures(
        alpha=alpha,
        coverage=proportion(covered, everyone),
        abstention=proportion(uncertain, everyone),
        subgroups=tuple(
            ConformalSubgroup(
                variable=variable,
                level=level,
                n=int(mask.sum()),
                flagged=int(mask.sum()) < SMALL_N,
                coverage=proportion(covered, mask),
                abstention=proportion(uncertain, mask),
            )
            for variable, level, mask in groups
        ),
    )
