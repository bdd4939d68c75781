"""The gate of the worst subgroup: nobody may be served far worse than the average hides."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_contracts.evaluation import EvaluationReport
from data_contracts.promotion import GateResult, PromotionPolicy
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.figures import labelled_rows

#: subgroups that the predictions themselves tell, whatever the report says of them
_COLUMNS = ("site", "texture", "kernel", "manufacturer", "sex")


def subgroup_gate(report: EvaluationReport, predictions: pd.DataFrame, policy: PromotionPolicy) -> GateResult:
    """The lowest AUC of image + size among the subgroups that are large enough and hold both classes.

    Counted are the report's subgroups, and those of the columns of the predictions, computed here.
    """
    found = {
        f"{row.variable} {row.level}": (row.auc.value, row.n)
        for row in report.subgroups
        if row.n >= policy.subgroup_min_nodules and row.auc.value is not None
    }
    for name, (auc, n) in _computed(predictions, policy.subgroup_min_nodules).items():
        if name not in found or auc < (found[name][0] or 0.0):
            found[name] = (auc, n)
    least, bound = policy.subgroup_min_nodules, policy.min_subgroup_auc
    if not found:
        detail = f"No subgroup has {least} nodules and both classes."
        return GateResult(gate="worst_subgroup", passed=True, figure=None, bound=bound, detail=detail)
    name = min(found, key=lambda key: (found[key][0] or 0.0, key))
    auc, n = found[name]
    asked = "the policy does not ask for it" if bound is None else f"at least {bound:.3f} is asked of each"
    detail = f"The worst of {len(found)} subgroups of {least} nodules or more is {name}: AUC {auc:.3f} on {n}; {asked}."
    passed = bound is None or (auc is not None and auc >= bound)
    return GateResult(gate="worst_subgroup", passed=passed, figure=auc, bound=bound, detail=detail)


def _computed(predictions: pd.DataFrame, least: int) -> dict[str, tuple[float, int]]:
    rows = labelled_rows(predictions, "score")
    found: dict[str, tuple[float, int]] = {}
    for column in _COLUMNS:
        if column not in rows:
            continue
        for level, part in rows.groupby(column, observed=True):
            if len(part) < least:
                continue
            figure = auc_figure(part["label"].to_numpy(dtype=np.int64), part["score"].to_numpy(dtype=np.float64))
            if figure.value is not None:
                found[f"{column} {level}"] = (figure.value, len(part))
    return found
