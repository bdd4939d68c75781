"""What readers settled about nodules, laid over what the annotations say; the annotations themselves stay."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from data_contracts.nodules import READER_SOURCE

#: of the readings that a dataset may use
SETTLED = ("agreed", "adjudicated")
#: column of the consensus -> the figure that a reader states
_FIGURES = {
    "x_mm": "lps_mm",
    "y_mm": "lps_mm",
    "z_mm": "lps_mm",
    "diameter_mm": "diameter_mm",
    "texture": "nodule_type",
}


def is_answer(nodules: pd.DataFrame) -> pd.Series:
    """Which rows of a NODULE_TABLE are answers to a report, and not annotations of their own."""
    if "standing" not in nodules:
        return pd.Series(False, index=nodules.index)
    return (nodules["source"] == READER_SOURCE) & nodules["standing"].notna()


def without_waiting(nodules: pd.DataFrame) -> pd.DataFrame:
    """A NODULE_TABLE without the answers that count for nothing yet, or no more."""
    return nodules[~is_answer(nodules) | nodules.get("standing", pd.Series(index=nodules.index)).isin(SETTLED)]


def with_settled(consensus: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """A consensus table (indexed by nodule_id) as readers settled it, sorted by series and nodule.

    A rejected nodule is left out. Of a kept one the place, diameter, type and malignancy that readers stated replace
    those of the annotations; what they left alone stays. A nodule that no annotation has is added. An answer that one
    reader gave, or on which readers differ, changes nothing.

    answers: rows of a NODULE_TABLE for which `is_answer`.
    """
    if answers.empty or not answers["standing"].isin(SETTLED).any():
        return consensus
    settled = answers[answers["standing"].isin(SETTLED)]
    rejected = set(settled.loc[settled["answer"] == "reject", "nodule_id"])
    kept = settled[~settled["nodule_id"].isin(rejected)]
    rows = consensus[consensus.index.isin(set(kept["nodule_id"]))].to_dict("index")
    changed: dict[Hashable, dict[Hashable, Any]] = {}
    for nodule_id, own in kept.groupby("nodule_id"):
        voices = answers[(answers["nodule_id"] == nodule_id) & (answers["answer"] != "reject")]
        row = rows.get(nodule_id) or _empty_row(consensus, own)
        changed[nodule_id] = _laid_over(row, own, n_readers=int(voices["reader"].nunique()))
    untouched = consensus[~consensus.index.isin(rejected | set(changed))]
    if not changed:
        return untouched
    table = pd.DataFrame.from_dict(changed, orient="index")[list(consensus.columns)].astype(consensus.dtypes)
    whole = pd.concat([untouched, table]) if len(untouched) else table
    whole.index.name = "nodule_id"
    return whole.sort_values(["series_key", "nodule_id"])


def settled_candidates(candidates: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Candidates of one series as readers settled them: without rejected ones, with added nodules first.

    candidates: nodule_id, x_mm, y_mm, z_mm, diameter_mm, source, n_readers and more, in the order to keep. answers:
    rows of a NODULE_TABLE of the series for which `is_answer`.
    """
    rank = {name: number for number, name in enumerate(candidates["nodule_id"])}
    table = with_settled(candidates.assign(series_key="").set_index("nodule_id"), answers).reset_index()
    order = table["nodule_id"].map(rank).fillna(-1).sort_values(kind="stable").index
    return table.loc[order, list(candidates.columns)].reset_index(drop=True)


def _laid_over(row: dict[Hashable, Any], own: pd.DataFrame, n_readers: int) -> dict[Hashable, Any]:
    """The consensus row of one nodule with what its settled answers say."""
    result = dict(row)
    stated = own["corrected"].fillna("").str.split(";")
    for column, figure in _FIGURES.items():
        if column not in row:
            continue
        chosen = own.loc[[figure in figures for figures in stated], column].astype("float64")
        if not chosen.notna().any() and pd.isna(row[column]):
            chosen = own[column].astype("float64")
        if chosen.notna().any():
            result[column] = float(chosen.mean())
    given = own["label"].dropna()
    if len(given):
        # who read the report says what it is; the ratings of before no longer do
        result |= {"label": int(given.iloc[0]), "malignancy": np.nan, "label_soft": np.nan, "n_ratings": 0}
    result["n_readers"] = max(int(row["n_readers"]), n_readers)
    for column, values in (("readers", own["reader"]), ("source", own["source"])):
        if column in row:
            result[column] = ";".join(sorted({word for word in str(row[column]).split(";") if word} | set(values)))
    return result


def _empty_row(consensus: pd.DataFrame, own: pd.DataFrame) -> dict[Hashable, Any]:
    """The row of a nodule that no annotation has, before any answer is laid over it."""
    words = ("readers", "source", "batch")
    row: dict[Hashable, Any] = {name: "" if name in words else np.nan for name in consensus.columns}
    return row | {"series_key": own["series_key"].iloc[0], "n_readers": 0, "n_ratings": 0, "label": pd.NA}
