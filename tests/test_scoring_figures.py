"""Every figure of a score against scikit-learn or a plain formula, and the tables that have no figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from data_contracts.evaluation import Figure
from data_contracts.params import EvaluateParams
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval
from pipeline.scoring.figures import expected_calibration_error, score_figures
from pipeline.scoring.size_matched import match_by_size, size_matched_auc
from pipeline.scoring.weighted_metrics import (
    weighted_auc,
    weighted_average_precision,
    weighted_brier,
    weighted_ece,
)

PARAMS = EvaluateParams(bootstrap=200)


def prediction_table(n=160, seed=0, indeterminate=0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(int)
    diameter = np.exp(rng.normal(2.1 + 0.5 * label, 0.4))
    score = 1 / (1 + np.exp(-(1.5 * label - 0.75 + rng.normal(size=n))))
    table = pd.DataFrame(
        {
            "patch_id": [f"patch{i}" for i in range(n)],
            "nodule_id": [f"nodule{i}" for i in range(n)],
            "patient_key": [f"patient{i // 2}" for i in range(n)],
            "split": "test",
            "fold": 0,
            "site": np.where(np.arange(n) % 4 < 2, "a", "b"),
            "label": pd.array(label, dtype="Int8"),
            "score": score,
            "score_size": diameter / (diameter + 10),
            "score_image": score,
            "diameter_mm": diameter,
        }
    )
    table.loc[: indeterminate - 1, "label"] = pd.NA
    return table


def arrays(table):
    return table["label"].to_numpy(dtype=np.int64), table["score"].to_numpy(), table["diameter_mm"].to_numpy()


def test_auc_average_precision_and_brier_are_those_of_scikit_learn():
    table = prediction_table()
    labels, scores, _ = arrays(table)
    figures = score_figures(table, "score", "all", PARAMS, None)
    assert figures.auc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert figures.auc_bootstrap.value == pytest.approx(figures.auc.value, abs=1e-12)
    assert figures.average_precision.value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert figures.brier.value == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)
    assert figures.auc.n == 160 and figures.auc.n_positive == labels.sum()
    assert figures.sensitivity is None and figures.specificity is None


@pytest.mark.parametrize("seed", range(3))
def test_size_matched_auc_and_calibration_error_follow_the_plain_formulas(seed):
    table = prediction_table(seed=seed)
    y, s, size = arrays(table)
    free, rows = list(np.where(y == 0)[0]), []
    for i in np.random.default_rng(0).permutation(np.where(y == 1)[0]):
        candidates = [j for j in free if abs(size[j] - size[i]) / size[i] < 0.1]
        if candidates:
            j = min(candidates, key=lambda j: abs(size[j] - size[i]))
            free.remove(j)
            rows += [i, j]
    bins = np.clip((s * 10).astype(int), 0, 9)
    error = sum(
        abs(s[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any()
    )
    figures = score_figures(table, "score", "all", PARAMS, None)
    assert figures.size_matched_auc.value == pytest.approx(roc_auc_score(y[rows], s[rows]), abs=1e-12)
    assert figures.size_matched_auc.n == len(rows) // 2
    assert figures.ece.value == pytest.approx(error, abs=1e-12)
    assert expected_calibration_error(y, s, bins=10) == pytest.approx(error, abs=1e-12)


def test_matched_pairs_are_close_in_size_and_use_no_nodule_twice():
    labels, _, size = arrays(prediction_table())
    pairs = match_by_size(labels, size, tolerance=0.1, seed=0)
    assert len(pairs) > 10
    assert (labels[pairs[:, 0]] == 1).all() and (labels[pairs[:, 1]] == 0).all()
    assert len(np.unique(pairs)) == pairs.size
    assert (np.abs(size[pairs[:, 1]] - size[pairs[:, 0]]) < 0.1 * size[pairs[:, 0]]).all()


def test_size_alone_is_worth_nothing_among_nodules_matched_by_size():
    table = prediction_table(n=1500)
    figures = score_figures(table, "score_size", "all", EvaluateParams(bootstrap=100), None)
    assert figures.auc.value > 0.75
    assert figures.size_matched_auc.value == pytest.approx(0.5, abs=0.03)


def test_unknown_diameters_match_nothing():
    unknown = np.array([np.nan, 0.0, -5.0, 8.0, np.nan, 0.0, -5.0, np.nan])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    assert len(match_by_size(labels, unknown, tolerance=0.1, seed=0)) == 0
    figure = size_matched_auc(labels, np.linspace(0, 1, 8), unknown, tolerance=0.1, seed=0)
    assert figure.value is None and "within 10% of diameter" in figure.note


def intervals(figures):
    named = {name: getattr(figures, name) for name in type(figures).model_fields}
    return {name: figure for name, figure in named.items() if isinstance(figure, Figure)}


def test_intervals_are_the_same_each_time_and_hold_their_value():
    table = prediction_table()
    once, again = (score_figures(table, "score", "all", PARAMS, 0.5) for _ in range(2))
    assert once == again
    found = intervals(once)
    assert set(found) == {
        "auc", "auc_clustered", "auc_bootstrap", "average_precision", "size_matched_auc", "brier", "ece",
        "calibration_slope", "calibration_intercept", "sensitivity", "specificity",
    }  # fmt: skip
    for name, figure in found.items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.high - figure.low > 0.005, name
    other = score_figures(table, "score", "all", EvaluateParams(bootstrap=200, seed=1), 0.5)
    assert other.auc == once.auc
    assert other.auc_bootstrap.low != once.auc_bootstrap.low


def test_copies_of_a_patients_nodule_widen_nothing_and_narrow_nothing():
    table = prediction_table(n=60)
    table["patient_key"] = table["patch_id"]
    copies = pd.concat([table] * 3, ignore_index=True)
    copies["patch_id"] = [f"copy{i}" for i in range(len(copies))]
    single, triple = (score_figures(t, "score", "all", PARAMS, None) for t in (table, copies))
    assert triple.auc_bootstrap.low == pytest.approx(single.auc_bootstrap.low, abs=1e-9)
    assert triple.auc_bootstrap.high == pytest.approx(single.auc_bootstrap.high, abs=1e-9)
    # DeLong takes the copies for new nodules: this is why both intervals stand in the table.
    assert triple.auc.high - triple.auc.low < 0.7 * (single.auc.high - single.auc.low)


def test_indeterminate_nodules_are_in_no_figure():
    table = prediction_table(indeterminate=30)
    figures = score_figures(table, "score", "all", PARAMS, 0.5)
    assert figures.auc.n == 130
    assert figures == score_figures(table.iloc[30:], "score", "all", PARAMS, 0.5)


def test_a_site_has_its_own_figures():
    table = prediction_table()
    only_a = table[table["site"] == "a"]
    figures = score_figures(table, "score", "a", PARAMS, None)
    assert figures.auc.n == len(only_a) == 80
    assert figures.auc == score_figures(only_a, "score", "all", PARAMS, None).auc


def test_rows_without_the_score_are_left_out_of_its_figures_alone():
    table = prediction_table()
    table.loc[:9, ["score_size", "diameter_mm"]] = np.nan
    assert score_figures(table, "score_size", "all", PARAMS, None).auc.n == 150
    assert score_figures(table, "score", "all", PARAMS, None).auc.n == 160


@pytest.mark.parametrize("kept", [[], [0], [1]], ids=["no rows", "benign only", "malignant only"])
def test_one_class_or_no_row_gives_notes_and_no_exception(kept):
    table = prediction_table()
    figures = score_figures(table[table["label"].isin(kept)], "score", "all", PARAMS, 0.5)
    for name in ("auc", "auc_bootstrap", "average_precision", "size_matched_auc"):
        assert getattr(figures, name).value is None, name
        assert getattr(figures, name).note, name
    # One class is enough for these.
    for name in ("brier", "ece"):
        assert (getattr(figures, name).value is None) == (not kept), name
    assert (figures.sensitivity.value is None) == (1 not in kept)
    assert (figures.specificity.value is None) == (0 not in kept)


def test_a_site_that_is_not_there_has_no_figure():
    assert score_figures(prediction_table(), "score", "nowhere", PARAMS, None).auc.note == (
        "no nodule with a label and a score"
    )


def test_one_patient_with_every_malignant_nodule_leaves_an_interval_or_a_reason():
    table = prediction_table(n=20)
    table["patient_key"] = "one"
    figure = score_figures(table, "score", "all", PARAMS, None).auc_bootstrap
    assert figure.low == pytest.approx(figure.value) and figure.high == pytest.approx(figure.value)
    values = np.full(100, np.nan)
    values[:49] = 0.7
    assert percentile_interval(values, 0.7) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10), st.integers(0, 3)), min_size=2, max_size=30).filter(
        lambda rows: {label for label, _, weight in rows if weight} == {0, 1}
    )
)
def test_a_weighted_figure_is_the_figure_of_repeated_rows(rows):
    labels, tenths, weights = np.array(rows).T
    scores = tenths / 10
    y, s = np.repeat(labels, weights), np.repeat(scores, weights)
    draw = weights[None].astype(float)
    assert weighted_auc(labels, scores, draw)[0] == pytest.approx(roc_auc_score(y, s), abs=1e-9)
    assert weighted_average_precision(labels, scores, draw)[0] == pytest.approx(average_precision_score(y, s), abs=1e-9)
    assert weighted_brier(labels, scores, draw)[0] == pytest.approx(np.mean((s - y) ** 2), abs=1e-9)
    ece = expected_calibration_error(y, s, bins=10)
    assert weighted_ece(labels, scores, draw, bins=10)[0] == pytest.approx(ece, abs=1e-9)


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    clusters = np.array(["a", "a", "b", "c", "c", "c"], dtype=object)
    weights = cluster_draws(clusters, lambda w: w, draws=50, seed=0)
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


@pytest.mark.slow
def test_the_patient_bootstrap_holds_the_true_auc_where_nodules_of_a_patient_resemble_each_other():
    rng = np.random.default_rng(0)
    truth, held = float(norm.cdf(1 / np.sqrt(2 * (1 + 0.3**2)))), []
    for _ in range(300):
        patients = np.repeat(np.arange(60), 3)
        labels = np.repeat((np.arange(60) % 2), 3)
        scores = 1.0 * labels + np.repeat(rng.normal(size=60), 3) + 0.3 * rng.normal(size=180)
        draws = cluster_draws(patients, lambda w, y=labels, s=scores: weighted_auc(y, s, w), draws=200, seed=0)
        low, high = percentile_interval(draws, roc_auc_score(labels, scores))
        held.append(low <= truth <= high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_perfectly_calibrated_score_of_sixty_nodules_has_an_ece_of_a_tenth_by_chance():
    random = np.random.default_rng(0)
    errors = []
    for _ in range(2000):
        probabilities = random.uniform(size=60)
        labels = (random.uniform(size=60) < probabilities).astype(np.int64)
        errors.append(expected_calibration_error(labels, probabilities, bins=10))
    low, middle, high = np.percentile(errors, [5, 50, 95])
    assert (round(low, 2), round(middle, 2), round(high, 2)) == (0.08, 0.13, 0.18)
