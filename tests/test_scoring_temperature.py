"""Calibration by temperature: what scikit-learn finds, what an offset is worth, and what the card says of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from data_contracts.model_card import Calibration
from pipeline.scoring.fusion import apply_calibration, fit_calibration, fit_temperature


def validation(n, seed=0, steep=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    true_logit = 1.8 * rng.normal(size=n) - 0.9
    labels = (rng.random(n) < expit(true_logit)).astype(float)
    return steep * true_logit + shift, labels


def log_loss(linear, labels):
    return float(np.mean(np.logaddexp(0, linear) - labels * linear))


def image_only(logits, labels, method):
    unknown = np.full(len(logits), np.nan)
    return fit_calibration(logits, unknown, labels, [], [], method=method)


class Given(ClassifierMixin, BaseEstimator):
    """A network that was fitted before: its logits are its only feature."""

    def fit(self, features, labels):
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, features):
        return features[:, 0]

    def predict(self, features):
        return (features[:, 0] > 0).astype(int)


def test_the_temperature_is_that_of_scikit_learn():
    logits, labels = validation(600, steep=2.5)
    network = FrozenEstimator(Given().fit(None, None))
    theirs = CalibratedClassifierCV(network, method="temperature").fit(logits[:, None], labels.astype(int))
    ours = expit(logits / fit_temperature(logits, labels))
    np.testing.assert_allclose(ours, theirs.predict_proba(logits[:, None])[:, 1], atol=0.005)


def test_too_sure_logits_get_a_temperature_above_one_and_too_shy_ones_below():
    for steep in (2.5, 1.0, 0.4):
        found = np.mean([fit_temperature(*validation(200, seed, steep)) for seed in range(20)])
        assert found == pytest.approx(steep, rel=0.12)


def test_separated_or_absent_validation_nodules_give_a_moderate_temperature():
    assert fit_temperature(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0.0, 0, 1, 1])) > 0.1
    assert fit_temperature(np.array([]), np.array([])) == pytest.approx(1.0, abs=1e-6)


def test_temperature_alone_has_no_offset_and_divides_the_fused_logit():
    rng = np.random.default_rng(0)
    logits, labels = validation(200)
    diameters = np.exp(2.0 + 0.4 * labels + 0.3 * rng.normal(size=200))
    plain = fit_calibration(logits, diameters, labels, diameters, labels)
    found = fit_calibration(logits, diameters, labels, diameters, labels, method="temperature")
    assert plain.temperature == 1 != found.temperature
    assert found.image_only_bias == 0
    assert found.image_only_weight == pytest.approx(1 / found.image_only_temperature)
    for weight in ("bias", "image_weight", "size_weight"):
        assert getattr(found, weight) == pytest.approx(getattr(plain, weight) / found.temperature)
    scores = apply_calibration(found, [0.0], [np.nan])
    assert scores["score_image"][0] == scores["score"][0] == 0.5


def test_the_offset_mends_a_shift_that_no_temperature_mends_and_costs_little_where_there_is_none():
    others = {shift: validation(20_000, 999, shift=shift) for shift in (0.0, 0.75)}
    losses = {}
    for shift, (logits, labels) in others.items():
        for method in ("logistic", "temperature"):
            found = [image_only(*validation(80, seed, shift=shift), method) for seed in range(60)]
            losses[shift, method] = np.mean(
                [log_loss(card.image_only_bias + card.image_only_weight * logits, labels) for card in found]
            )
    assert losses[0.75, "temperature"] - losses[0.75, "logistic"] > 0.03
    assert losses[0.0, "logistic"] - losses[0.0, "temperature"] < 0.01


def test_a_card_from_before_is_read():
    names = ("bias", "image_weight", "size_weight", "image_only_bias", "image_only_weight")
    old = dict.fromkeys((*names, "size_only_bias", "size_only_weight"), 0.5)
    assert Calibration.model_validate(old).temperature == 1
