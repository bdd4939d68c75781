"""Two networks are compared on the nodules that both scored, matched by name and not by place."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from flows.whole.summary import comparison_text
from pipeline.scoring.compare import compare_paired
from pipeline.scoring.delong import delong_paired


def scored(n=80, noise=1.0, seed=0):
    labels = np.arange(n) % 2
    return pd.DataFrame(
        {
            "patch_id": [f"patch{i}" for i in range(n)],
            "nodule_id": [f"nodule{i}" for i in range(n)],
            "patient_key": [f"patient{i // 2}" for i in range(n)],
            "label": pd.array(labels, dtype="Int8"),
            "score": 1 / (1 + np.exp(-(labels + noise * np.random.default_rng(seed).normal(size=n)))),
        }
    )


def test_rows_are_matched_by_patch_and_not_by_place():
    a, b = scored(noise=0.5), scored(noise=2.0, seed=1)
    expected = delong_paired(a["label"].to_numpy(dtype=int), a["score"], b["score"])
    shuffled = b.sample(frac=1, random_state=0)
    found = compare_paired(a, shuffled, draws=100)
    assert found.difference.value == pytest.approx(expected.difference)
    assert (found.auc_a, found.auc_b, found.p_value) == pytest.approx(
        (expected.auc_a, expected.auc_b, expected.p_value)
    )
    assert (found.n, found.n_positive, found.n_patients, found.n_only_a, found.n_only_b) == (80, 40, 40, 0, 0)
    assert found.difference_bootstrap.low <= found.difference.value <= found.difference_bootstrap.high


def test_only_shared_nodules_count_and_the_others_are_counted():
    a, b = scored().iloc[:60], scored(seed=1).iloc[20:]
    found = compare_paired(a, b, draws=100)
    assert (found.n, found.n_only_a, found.n_only_b) == (40, 20, 20)


def test_nodules_whose_labels_differ_are_left_out_and_are_not_called_unshared():
    a, b = scored(), scored(seed=1)
    b.loc[:3, "label"] = 1 - b.loc[:3, "label"]
    found = compare_paired(a, b, draws=100)
    assert (found.n, found.n_only_a, found.n_only_b) == (76, 0, 0)


def test_rows_without_label_or_score_are_left_out():
    a, b = scored(), scored(seed=1)
    a.loc[0, "label"] = pd.NA
    b.loc[1, "score"] = np.nan
    assert compare_paired(a, b, draws=100).n == 78


def test_patches_cut_anew_are_matched_by_nodule():
    a, b = scored(), scored(seed=1)
    b["patch_id"] = [f"other{i}" for i in range(len(b))]
    assert compare_paired(a, b, draws=100) == compare_paired(a, scored(seed=1), draws=100)


def test_a_network_against_itself_differs_by_nothing():
    found = compare_paired(scored(), scored(), draws=100)
    assert (found.difference.value, found.difference.low, found.difference.high, found.p_value) == (0, 0, 0, 1)
    assert (found.difference_bootstrap.low, found.difference_bootstrap.high) == (0, 0)


def test_swapping_the_networks_swaps_the_sign():
    a, b = scored(), scored(noise=2, seed=1)
    there, back = compare_paired(a, b, draws=100), compare_paired(b, a, draws=100)
    assert back.difference.value == pytest.approx(-there.difference.value)
    assert back.difference.low == pytest.approx(-there.difference.high)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 80, 2)], ids=["nothing shared", "benign only"])
def test_without_both_classes_in_common_there_is_a_note(rows):
    found = compare_paired(scored(), scored(seed=1).iloc[rows], draws=100)
    assert found.difference.value is None and found.difference.note
    assert found.difference_bootstrap.value is None
    assert found.auc_a is None and found.p_value is None


@pytest.mark.parametrize("patients", [40, 1])
def test_the_printed_p_is_of_the_method_of_the_printed_interval(patients):
    a, b = (scored(seed=seed).assign(patient_key=[f"p{i % patients}" for i in range(80)]) for seed in (0, 1))
    record = {"a": "1", "b": "2", **asdict(compare_paired(a, b, draws=100))}
    record["difference"] = record["difference"].model_dump()
    text = comparison_text(record)
    if patients == 1:
        assert record["p_value_clustered"] is None and "p = " not in text
    else:
        assert f"p = {record['p_value_clustered']:.3f} on" in text
        assert f"{record['p_value']:.3f}" != f"{record['p_value_clustered']:.3f}"
