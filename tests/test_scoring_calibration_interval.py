"""The interval of a probability: how often held-out nodules of its score were malignant."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from pipeline.scoring.calibration_interval import CalibrationInterval


def held_out(n_patients: int, seed: int, *, slope: float = 1.0) -> pd.DataFrame:
    """Two nodules a patient, who share part of what makes them malignant; scores are calibrated where slope is 1."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    score = expit(rng.normal(-0.5, 1.5, 2 * n_patients))
    # a common uniform number of a patient for half of them: labels are dependent, their marginals stay
    common = np.repeat(rng.uniform(size=n_patients), 2)
    own = rng.uniform(size=2 * n_patients)
    drawn = np.where(np.repeat(rng.uniform(size=n_patients) < 0.5, 2), common, own)
    label = (drawn < expit(slope * logit(score))).astype(int)
    return pd.DataFrame({"patient": patient, "score": score, "label": pd.array(label, dtype="Int8")})


@pytest.mark.parametrize("score", [0.1, 0.4, 0.8])
def test_the_interval_covers_the_true_frequency_in_95_of_100_sets(score: float) -> None:
    inside = 0
    for seed in range(300):
        interval = CalibrationInterval.of(held_out(120, seed, slope=0.7)).at(score)
        assert interval is not None
        inside += interval[0] <= expit(0.7 * logit(score)) <= interval[1]
    assert 0.915 <= inside / 300 <= 0.98


def test_the_middle_is_that_of_an_unpenalised_logistic_regression() -> None:
    rows = held_out(150, 3)
    own = CalibrationInterval.of(rows)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        logit(rows[["score"]].to_numpy()), rows["label"].astype(int)
    )
    assert own.coefficients is not None
    assert own.coefficients == pytest.approx([theirs.intercept_[0], theirs.coef_[0, 0]], abs=5e-3)


def test_few_nodules_of_a_class_or_few_patients_have_no_interval() -> None:
    few = held_out(15, 0)
    assert CalibrationInterval.of(few).at(0.5) is None
    benign = held_out(100, 0).assign(label=pd.array([0] * 200, dtype="Int8"))
    assert CalibrationInterval.of(benign).at(0.5) is None
    assert CalibrationInterval.of(held_out(0, 0)).at(0.5) is None


def test_separated_classes_extreme_scores_and_unknown_labels_give_finite_ends() -> None:
    rows = held_out(60, 1)
    rows["label"] = pd.array((rows["score"] > 0.5).astype(int), dtype="Int8")
    rows.loc[0, ["score", "label"]] = [1.0, 1]
    rows.loc[1, "label"] = pd.NA
    interval = CalibrationInterval.of(rows)
    assert interval.n == 119
    for score in (0.0, 0.5, 1.0):
        low, high = interval.at(score) or (np.nan, np.nan)
        assert 0 <= low <= high <= 1
    assert interval.at(float("nan")) is None
