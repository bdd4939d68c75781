"""Prediction sets keep their promise for each class, and say "uncertain" where they cannot tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from data_contracts.model_card import ConformalQuantiles
from pipeline.scoring.conformal import conformal_calls, conformal_figures, fit_conformal


def drawn(n, seed, prevalence=0.3, gap=1.5):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(int)
    return expit(gap * (2 * labels - 1) + rng.normal(size=n) - 1.0), labels


@pytest.mark.parametrize("prevalence", [0.1, 0.5])
def test_each_class_is_covered_as_promised_at_another_prevalence_too(prevalence):
    missed = {0: [], 1: []}
    for seed in range(150):
        quantiles = fit_conformal(*drawn(120, seed), alpha=0.1)
        scores, labels = drawn(400, 1000 + seed, prevalence)
        calls = conformal_calls(quantiles, scores)
        for label, other in ((0, "malignant"), (1, "benign")):
            missed[label].append((calls[labels == label] == other).mean())
    for label in (0, 1):
        assert 0.04 < np.mean(missed[label]) < 0.105


def test_the_quantile_is_the_rank_that_split_conformal_asks_for():
    scores = np.r_[np.arange(1, 20) / 100, 0.9, 0.8]
    quantiles = fit_conformal(scores, np.r_[np.zeros(19), 1, 1], alpha=0.1)
    assert quantiles.benign == 0.18  # the 18th of 19: ceil(20 * 0.9)
    assert quantiles.malignant == 1.0  # two nodules say nothing about one in ten
    assert (quantiles.n_benign, quantiles.n_malignant) == (19, 2)


def test_rows_without_label_or_score_are_left_out_and_a_missing_class_gives_no_quantiles():
    scores, labels = np.array([0.1, 0.2, 0.9, np.nan]), np.array([0, np.nan, 1, 1])
    assert fit_conformal(scores, labels, alpha=0.1).n_malignant == 1
    assert fit_conformal(scores, np.zeros(4), alpha=0.1) is None


def test_a_call_is_one_class_or_uncertain():
    overlap = ConformalQuantiles(alpha=0.1, benign=0.6, malignant=0.7, n_benign=50, n_malignant=50)
    assert list(conformal_calls(overlap, [0.29, 0.31, 0.6, 0.61])) == ["benign", "uncertain", "uncertain", "malignant"]
    gap = ConformalQuantiles(alpha=0.1, benign=0.2, malignant=0.2, n_benign=50, n_malignant=50)
    assert list(conformal_calls(gap, [0.2, 0.5, 0.8])) == ["benign", "uncertain", "malignant"]


def test_coverage_and_abstention_can_be_counted_again_from_the_column():
    rng = np.random.default_rng(0)
    scores, labels = drawn(90, 5)
    quantiles = fit_conformal(*drawn(100, 6), alpha=0.1)
    rows = pd.DataFrame(
        {
            "label": labels,
            "score": scores,
            "patient_key": [f"patient{i // 2}" for i in range(90)],
            "site": "a",
            "diameter_mm": rng.uniform(4, 25, 90),
            "conformal": conformal_calls(quantiles, scores),
        }
    )
    found = conformal_figures(rows, 0.1)
    truth = np.where(labels == 1, "malignant", "benign")
    covered = (rows["conformal"] == truth) | (rows["conformal"] == "uncertain")
    assert found.coverage.value == pytest.approx(covered.mean())
    assert found.abstention.value == pytest.approx((rows["conformal"] == "uncertain").mean())
    groups = {(group.variable, group.level): group for group in found.subgroups}
    assert groups["class", "malignant"].n == labels.sum()
    assert groups["class", "malignant"].coverage.value == pytest.approx(covered[labels == 1].mean())
    small = rows["diameter_mm"] < 6
    assert groups["diameter", "<6 mm"].coverage.value == pytest.approx(covered[small].mean())
    assert groups["diameter", "<6 mm"].flagged == (small.sum() < 30)
