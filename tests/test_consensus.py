"""Readers to one row a nodule, and labels that may be missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import ContractError
from data_contracts.nodules import RATINGS
from data_contracts.params import LabelParams, PatchParams
from pipeline.cohort.consensus import nodules_by_consensus, nodules_for_patches


def marks(nodule: str, malignancy: list[float | None], *, series="a" * 16, labels=None, **columns) -> pd.DataFrame:
    n = len(malignancy)
    table = pd.DataFrame(
        {
            "nodule_id": nodule,
            "series_key": series,
            "reader": [f"r{number}" for number in range(n)],
            "x_mm": np.arange(n, dtype=float),
            "y_mm": 2.0,
            "z_mm": 3.0,
            "diameter_mm": 8.0 + np.arange(n),
            **dict.fromkeys(RATINGS, np.nan),
            "label": pd.array(labels or [pd.NA] * n, dtype="Int8"),
            "source": "test",
        }
    )
    table["malignancy"] = np.array([np.nan if rating is None else rating for rating in malignancy], dtype=float)
    return table.assign(**columns)


def one(table: pd.DataFrame, **params) -> pd.Series:
    rows = nodules_by_consensus(table, LabelParams(**params))
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_nodule_has_the_means_of_its_readers():
    row = one(marks("n", [4, 5, 4], texture=[1.0, 2.0, np.nan]))
    assert (row.x_mm, row.y_mm, row.diameter_mm, row.texture) == (1.0, 2.0, 9.0, 1.5)
    assert (row.n_readers, row.n_ratings, row.label) == (3, 3, 1)
    assert row.label_soft == pytest.approx((13 / 3 - 1) / 4)


@pytest.mark.parametrize(
    ("ratings", "label"), [([2, 3, 4], None), ([3], None), ([3, 3, 4], 1), ([3, 3, 3, 2], 0), ([1, 5], None)]
)
def test_a_mean_of_exactly_three_is_indeterminate(ratings, label):
    row = one(marks("n", ratings))
    assert pd.isna(row.label) if label is None else row.label == label


def test_a_threshold_without_exact_binary_fraction_is_met_exactly():
    assert pd.isna(one(marks("n", [3, 3, 3, 3, 4, 4, 3, 3, 3, 4]), threshold=3.3).label)


def test_too_few_raters_give_no_label_but_a_soft_one():
    row = one(marks("n", [5, 5, None]), min_readers=3)
    assert pd.isna(row.label)
    assert row.label_soft == 1.0
    assert (row.n_readers, row.n_ratings) == (3, 2)


def test_an_explicit_label_counts_where_nobody_rated_and_only_there():
    assert one(marks("n", [None], labels=[1]), min_readers=3).label == 1
    assert np.isnan(one(marks("n", [None], labels=[1])).label_soft)
    assert pd.isna(one(marks("n", [None, None], labels=[0, 1])).label)
    assert one(marks("n", [1, 1], labels=[1, 1])).label == 0
    assert pd.isna(one(marks("n", [None])).label)


def test_rows_come_sorted_whatever_the_order_of_the_marks():
    table = pd.concat([marks("n2", [1, 2]), marks("n1", [4]), marks("n0", [5], series="b" * 16)])
    rows = nodules_by_consensus(table, LabelParams())
    assert rows["nodule_id"].tolist() == ["n1", "n2", "n0"]
    shuffled = nodules_by_consensus(table.sample(frac=1, random_state=1), LabelParams())
    pd.testing.assert_frame_equal(rows, shuffled)


def test_a_nodule_in_two_series_is_refused():
    table = pd.concat([marks("n", [1]), marks("n", [1], series="b" * 16, reader="other")])
    with pytest.raises(ContractError, match="more than one series"):
        nodules_by_consensus(table, LabelParams())


def test_nodules_with_too_few_marks_get_no_patch():
    rows = nodules_by_consensus(pd.concat([marks("n1", [1]), marks("n2", [1, 2, 3])]), LabelParams())
    assert nodules_for_patches(rows, PatchParams(min_reader_marks=2))["nodule_id"].tolist() == ["n2"]


def test_no_nodules_give_an_empty_table():
    assert len(nodules_by_consensus(marks("n", []), LabelParams())) == 0
