"""From several readers' marks to one row a nodule and a label that may be missing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_contracts.errors import ContractError
from data_contracts.nodules import NODULE_TABLE, RATINGS
from data_contracts.params import LabelParams, PatchParams
from pipeline.cohort.settled import is_answer, with_settled

#: who a label came from, and with what: column of the result -> column of the nodule table
_ORIGINS = {"readers": "reader", "source": "source", "batch": "batch"}
_MEANS = ["x_mm", "y_mm", "z_mm", "diameter_mm", *RATINGS]


def labels_by_readers(malignancy_sum: pd.Series, n_ratings: pd.Series, params: LabelParams) -> pd.Series:
    """Label of each row (Int8): 1 where the mean malignancy is above the threshold, 0 below.

    NA where the mean is exactly the threshold (indeterminate) or fewer than `min_readers` rated. Sums are compared,
    not means, so that 2, 3 and 4 are exactly 3.
    """
    excess = malignancy_sum - params.threshold * n_ratings
    label = pd.Series(pd.NA, index=malignancy_sum.index, dtype="Int8")
    enough = n_ratings >= params.min_readers
    label[enough & (excess > 1e-9)] = 1
    label[enough & (excess < -1e-9)] = 0
    return label


def soft_label(mean_malignancy: pd.Series) -> pd.Series:
    """Mean malignancy 1..5 mapped to 0..1; NaN stays NaN."""
    return (mean_malignancy.astype("float64") - 1.0) / 4.0


def nodules_by_consensus(nodules: pd.DataFrame, params: LabelParams) -> pd.DataFrame:
    """One row a nodule out of a NODULE_TABLE with one row a reader, sorted by series and nodule.

    Columns: nodule_id, series_key, means of x_mm, y_mm, z_mm, diameter_mm and of every rating, n_readers (marks),
    n_ratings (malignancy ratings), label (Int8 or NA), label_soft, and readers, source and batch, the different ones
    separated by ";". Where nobody rated malignancy, an explicit
    `label` counts (the majority's where several are given; NA at a tie) and label_soft is NaN; `min_readers` does not
    apply to it, because it states a diagnosis and not an opinion. Answers to reports are no marks: those that are
    settled are laid over the result, see `with_settled`.

    Raises
    ------
    ContractError: the table breaks its contract, or one nodule_id is in two series.
    """
    valid = NODULE_TABLE.validate(nodules)
    answered = is_answer(valid)
    answers = valid[answered]
    ordered = valid[~answered].sort_values(["series_key", "nodule_id", "reader"], kind="stable")
    groups = ordered.groupby("nodule_id", sort=False)
    in_two = int((groups["series_key"].nunique() > 1).sum())
    if in_two:
        raise ContractError(f"{in_two} nodule_id are in more than one series")
    result = groups[_MEANS].mean()
    result.insert(0, "series_key", groups["series_key"].first())
    result["n_readers"] = groups["reader"].nunique().astype("int64")
    result["n_ratings"] = groups["malignancy"].count().astype("int64")
    by_readers = labels_by_readers(groups["malignancy"].sum(), result["n_ratings"], params)
    explicit = _majority(groups["label"].mean())
    result["label"] = by_readers.where(result["n_ratings"] > 0, explicit).astype("Int8")
    result["label_soft"] = soft_label(result["malignancy"])
    for new, column in _ORIGINS.items():
        if column in ordered:
            result[new] = groups[column].agg(_joined)
    return with_settled(result, answers).reset_index()


def nodules_for_patches(consensus: pd.DataFrame, params: PatchParams) -> pd.DataFrame:
    """The nodules that at least `min_reader_marks` readers marked."""
    return consensus[consensus["n_readers"] >= params.min_reader_marks].reset_index(drop=True)


def _joined(values: pd.Series) -> str:
    """The different words of a column, sorted, with ";" between them."""
    return ";".join(sorted({str(value) for value in values if pd.notna(value) and value != ""}))


def _majority(mean_label: pd.Series) -> pd.Series:
    mean = mean_label.astype("Float64").to_numpy(dtype="float64", na_value=np.nan)
    label = pd.Series(pd.NA, index=mean_label.index, dtype="Int8")
    label[mean > 0.5] = 1
    label[mean < 0.5] = 0
    return label
