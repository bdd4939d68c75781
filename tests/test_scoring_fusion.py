"""What the image may add to the size: never against it, little on noise, much where it knows something."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_contracts.model_card import Calibration
from pipeline.scoring.fusion import apply_calibration, fit_calibration, fit_platt, log_size
from pipeline.scoring.penalised_logistic import fit_towards


def nodules(rng, n, strength):
    """Logits (of a network too sure of itself), diameters in mm and labels of n nodules."""
    labels = (rng.random(n) < 0.4).astype(float)
    diameters = np.exp(rng.normal(np.log(8) + 0.6 * labels, 0.5))
    return 3 * (strength * (labels - 0.5) + rng.normal(size=n)), diameters, labels


def gains(strength, n_validation=30, draws=50):
    """AUC of image + size minus AUC of size only on 300 new nodules of each draw, and the image weights."""
    gain, weights = [], []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        _, train_diameters, train_labels = nodules(rng, 120, strength)
        calibration = fit_calibration(*nodules(rng, n_validation, strength), train_diameters, train_labels)
        logits, diameters, labels = nodules(rng, 300, strength)
        scores = apply_calibration(calibration, logits, diameters)
        gain.append(roc_auc_score(labels, scores["score"]) - roc_auc_score(labels, scores["score_size"]))
        weights.append(calibration.image_weight)
    return np.array(gain), np.array(weights)


@pytest.mark.parametrize("n_validation", [20, 30, 60])
def test_a_network_of_noise_costs_next_to_nothing(n_validation):
    gain, weights = gains(0.0, n_validation)
    assert gain.mean() > -0.02
    assert (weights >= 0).all()


def test_a_network_that_knows_something_helps():
    gain, _ = gains(1.5)
    assert gain.mean() > 0.05
    assert (gain > 0).mean() > 0.9


def test_a_network_that_is_wrong_gets_no_weight_and_is_not_turned_round():
    gain, weights = gains(-1.5, draws=20)
    assert weights.max() < 0.1 and (weights >= 0).all()
    assert gain.mean() > -0.02


def test_twenty_nodules_do_not_turn_the_size_round():
    rng = np.random.default_rng(0)
    _, train_diameters, train_labels = nodules(rng, 120, 0.0)
    labels = np.tile([1.0, 0.0], 10)
    small_is_malignant = np.where(labels == 1, 5.0, 15.0)
    calibration = fit_calibration(rng.normal(size=20), small_is_malignant, labels, train_diameters, train_labels)
    assert calibration.size_only_weight > 0
    assert calibration.size_weight >= 0


def test_size_only_is_a_plain_logistic_regression_of_the_log_diameter():
    rng = np.random.default_rng(1)
    logits, diameters, labels = nodules(rng, 400, 1.0)
    calibration = fit_calibration(logits, diameters, labels, diameters, labels)
    plain = LogisticRegression(C=1e9).fit(log_size(diameters)[:, None], labels)
    assert calibration.size_only_weight == pytest.approx(plain.coef_[0, 0], rel=0.02)
    assert calibration.size_only_bias == pytest.approx(plain.intercept_[0], rel=0.05, abs=0.02)


def test_with_many_nodules_the_fusion_is_a_plain_logistic_regression():
    rng = np.random.default_rng(2)
    logits, diameters, labels = nodules(rng, 4000, 1.5)
    calibration = fit_calibration(logits, diameters, labels, diameters, labels)
    plain = LogisticRegression(C=1e9).fit(np.column_stack([logits, log_size(diameters)]), labels)
    assert [calibration.image_weight, calibration.size_weight] == pytest.approx(plain.coef_[0], rel=0.03)


def sized_nodules(rng, n):
    """Nodules whose label is mostly size, and a logit that knows something of the rest."""
    diameters = rng.uniform(4, 24, n)
    other = rng.normal(size=n)
    labels = (rng.random(n) < expit((diameters - 12) / 1.5 + other)).astype(float)
    return 2 * other + rng.normal(size=n), diameters, labels


def test_balance_gives_more_of_the_score_to_the_image_and_keeps_it_calibrated():
    logits, diameters, labels = sized_nodules(np.random.default_rng(10), 4000)
    fitted = [fit_calibration(logits, diameters, labels, [], [], balance=share) for share in (0.0, 0.5)]
    plain, balanced = (calibration.size_weight / calibration.image_weight for calibration in fitted)
    assert balanced < 0.8 * plain
    score = apply_calibration(fitted[1], logits, diameters)["score"]
    assert score.mean() == pytest.approx(labels.mean(), abs=0.01)
    bias, slope = fit_platt(np.log(score / (1 - score)), labels)
    assert (bias, slope) == pytest.approx((0, 1), abs=0.02)


def test_a_row_of_weight_two_is_two_rows():
    rng = np.random.default_rng(11)
    design, labels = rng.normal(size=(30, 2)), (rng.random(30) < 0.5).astype(float)
    prior = {"anchor": np.zeros(2), "precision": np.ones(2)}
    twice = fit_towards(np.r_[design, design[:10]], np.r_[labels, labels[:10]], **prior)
    weighted = fit_towards(design, labels, **prior, weights=np.r_[np.full(10, 2.0), np.ones(20)])
    np.testing.assert_allclose(weighted, twice, atol=1e-5)


def test_overconfident_logits_become_calibrated_probabilities():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=5000)
    labels = (rng.random(5000) < expit(truth - 0.5)).astype(float)
    bias, slope = fit_platt(4 * truth, labels)
    assert slope == pytest.approx(0.25, rel=0.1)
    assert bias == pytest.approx(-0.5, abs=0.1)


def test_without_a_diameter_the_score_is_the_images():
    calibration = Calibration(
        bias=0.3,
        image_weight=0.5,
        size_weight=2.0,
        image_only_bias=-0.1,
        image_only_weight=0.8,
        size_only_bias=0.2,
        size_only_weight=1.5,
    )
    logits, diameters = np.array([1.0, -2.0, 0.5, 0.0]), np.array([10.0, np.nan, 20.0, -1.0])
    scores = apply_calibration(calibration, logits, diameters)
    assert scores["score_image"] == pytest.approx(expit(-0.1 + 0.8 * logits))
    assert scores["score"][[1, 3]] == pytest.approx(scores["score_image"][[1, 3]])
    assert scores["score"][[0, 2]] == pytest.approx(expit([0.8, 0.3 + 0.25 + 2 * np.log(2)]))
    assert np.isnan(scores["score_size"][[1, 3]]).all()
    assert scores["score_size"][0] == pytest.approx(expit(0.2))


def test_without_any_diameter_the_fusion_is_the_image_only_calibration():
    rng = np.random.default_rng(4)
    logits, _, labels = nodules(rng, 50, 2.0)
    unknown = np.full(50, np.nan)
    calibration = fit_calibration(logits, unknown, labels, unknown, labels)
    assert calibration.size_weight == 0 == calibration.size_only_weight
    scores = apply_calibration(calibration, logits, unknown)
    np.testing.assert_array_equal(scores["score"], scores["score_image"])
    assert np.isnan(scores["score_size"]).all()


def test_the_order_of_nodules_by_the_image_is_kept():
    rng = np.random.default_rng(5)
    logits, diameters, labels = nodules(rng, 40, -2.0)
    calibration = fit_calibration(logits, diameters, labels, diameters, labels)
    image = apply_calibration(calibration, logits, diameters)["score_image"]
    assert (np.diff(image[np.argsort(logits)]) >= 0).all()
    assert calibration.image_only_weight > 0


def test_indeterminate_nodules_change_no_coefficient():
    rng = np.random.default_rng(6)
    logits, diameters, labels = nodules(rng, 40, 1.0)
    more = pd.Series(np.r_[labels, np.nan, np.nan]).astype("Int8")
    plain = fit_calibration(logits, diameters, labels, diameters, labels)
    longer = fit_calibration(np.r_[logits, 9, -9], np.r_[diameters, 3, 30], more, diameters, labels)
    assert longer == plain


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_hardly_any_validation_nodule_gives_finite_coefficients(n, label):
    calibration = fit_calibration(np.full(n, 2.0), np.full(n, 8.0), np.full(n, label), [], [])
    assert np.isfinite(list(calibration.model_dump().values())).all()
    scores = apply_calibration(calibration, np.array([-3.0, 3.0]), np.array([5.0, 25.0]))
    assert all(((values > 0) & (values < 1)).all() for values in scores.values())


def test_separated_classes_give_finite_coefficients():
    labels = np.repeat([0.0, 1.0], 15)
    calibration = fit_calibration(100 * (labels - 0.5), 5 + 20 * labels, labels, 5 + 20 * labels, labels)
    assert np.abs(list(calibration.model_dump().values())).max() < 100


def test_without_rows_the_penalised_regression_is_its_anchor():
    anchor = np.array([0.5, -1.0])
    found = fit_towards(np.zeros((0, 2)), np.zeros(0), anchor=anchor, precision=np.ones(2))
    np.testing.assert_allclose(found, anchor, atol=1e-9)
    bounded = fit_towards(np.zeros((0, 2)), np.zeros(0), anchor=anchor, precision=np.ones(2), lower=np.zeros(2))
    np.testing.assert_allclose(bounded, [0.5, 0.0], atol=1e-9)
