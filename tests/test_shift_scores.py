"""Label-free scores of a shift, against closed forms and numbers computed by other means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from scipy.stats import ks_2samp

from pipeline.scoring.shift.certainty import (
    agreement_at_prevalence,
    batch_nuclear_norm,
    infomax,
    soft_neighbourhood_density,
)
from pipeline.scoring.shift.domains import (
    deep_embedded_validation,
    domain_probabilities,
    importance_weights,
    proxy_a_distance,
)
from pipeline.scoring.shift.prevalence import bbse_prevalence, fit_mixture


def test_infomax_is_ln_2_for_sure_and_even_predictions_and_0_where_all_are_alike() -> None:
    assert infomax([0.0, 1.0, 0.0, 1.0]) == pytest.approx(np.log(2), abs=1e-12)
    assert infomax([1.0, 1.0, 1.0]) == pytest.approx(0, abs=1e-12)
    assert infomax([0.3, 0.3, 0.3]) == pytest.approx(0, abs=1e-12)


def test_infomax_is_the_mutual_information_that_scipy_gives() -> None:
    p = np.array([0.1, 0.8, 0.4, 0.95])
    joint = np.stack([p, 1 - p]) / len(p)
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    assert infomax(p) == pytest.approx(float(scipy_entropy(joint.ravel(), independent.ravel())), abs=1e-12)


def test_the_nuclear_norm_is_1_for_sure_and_even_predictions_and_a_half_for_undecided_ones() -> None:
    assert batch_nuclear_norm([0.0, 1.0] * 8) == pytest.approx(1, abs=1e-6)
    assert batch_nuclear_norm([0.5] * 16) == pytest.approx(0.5, abs=1e-6)
    assert batch_nuclear_norm([1.0] * 16) == pytest.approx(np.sqrt(0.5), abs=1e-6)


def test_the_nuclear_norm_is_the_one_numpy_computes_from_the_matrix() -> None:
    p = np.array([0.2, 0.9, 0.6])
    by_numpy = np.linalg.norm(np.column_stack([p, 1 - p]), ord="nuc") / np.sqrt(6)
    assert batch_nuclear_norm(p) == pytest.approx(by_numpy, abs=1e-12)


def test_neighbourhood_density_is_ln_of_the_others_where_all_are_alike() -> None:
    assert soft_neighbourhood_density(np.ones((7, 3))) == pytest.approx(np.log(6), abs=1e-12)


def test_neighbourhood_density_of_two_orthogonal_groups_has_its_closed_form() -> None:
    size, temperature = 4, 0.5
    vectors = np.repeat(np.eye(2), size, axis=0)
    near, far = np.exp(1 / temperature), 1.0
    total = (size - 1) * near + size * far
    expected = -((size - 1) * near / total * np.log(near / total) + size * far / total * np.log(far / total))
    assert soft_neighbourhood_density(vectors, temperature) == pytest.approx(expected, abs=1e-12)


def test_neighbourhood_density_does_not_depend_on_the_length_of_a_vector() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    longer = vectors * np.linspace(1, 9, 30)[:, None]
    assert soft_neighbourhood_density(longer) == pytest.approx(soft_neighbourhood_density(vectors), abs=1e-9)


def test_agreement_sees_through_a_shift_of_all_logits() -> None:
    logits = np.random.default_rng(1).normal(size=50)
    assert agreement_at_prevalence(logits, logits + 5, 0.4) == 1.0
    assert agreement_at_prevalence(logits, -logits, 0.5) == 0.0


def test_validation_with_equal_weights_is_the_mean_loss() -> None:
    assert deep_embedded_validation(np.ones(4), [0, 1, 0, 1]) == pytest.approx(0.5)


def test_validation_of_a_constant_loss_is_that_loss_whatever_the_weights() -> None:
    weights = np.array([0.2, 3.0, 1.1, 0.4])
    assert deep_embedded_validation(weights, np.full(4, 0.7)) == pytest.approx(0.7, abs=1e-12)


def test_validation_is_what_regression_on_the_weights_gives_at_weight_1() -> None:
    # mean(w l) - b (mean(w) - 1), b the slope of w l on w, is the regression line read at w = 1
    rng = np.random.default_rng(2)
    weights, losses = rng.gamma(2.0, 0.5, 40), rng.random(40)
    slope, at_zero = np.polyfit(weights, weights * losses, 1)
    assert deep_embedded_validation(weights, losses) == pytest.approx(at_zero + slope, abs=1e-9)


def test_weights_are_the_odds_of_the_target() -> None:
    np.testing.assert_allclose(importance_weights([0.5, 0.8, 0.2]), [1.0, 4.0, 0.25])


def test_the_a_distance_is_0_for_a_coin_and_2_for_a_perfect_classifier() -> None:
    assert proxy_a_distance([0.1, 0.2], [0.9, 0.8]) == 2.0
    assert proxy_a_distance([0.1, 0.9], [0.1, 0.9]) == 0.0
    # one error in four on each side: 2 (1 - 2 / 4)
    assert proxy_a_distance([0.1, 0.1, 0.1, 0.9], [0.9, 0.9, 0.9, 0.1]) == pytest.approx(1.0)


def test_two_gaussians_are_as_far_apart_as_the_best_linear_rule_says() -> None:
    # Bayes error of N(-1, 1) against N(1, 1): Phi(-1) = 0.1587
    rng = np.random.default_rng(3)
    source, target = rng.normal(-1, 1, (1500, 1)), rng.normal(1, 1, (900, 1))
    assert proxy_a_distance(*domain_probabilities(source, target)) == pytest.approx(2 * (1 - 2 * 0.1587), abs=0.08)


def test_label_shift_is_estimated_from_called_shares() -> None:
    labels = np.repeat([1, 0], [10, 10])
    called = np.concatenate([np.repeat([1, 0], [8, 2]), np.repeat([1, 0], [1, 9])])
    # true positives 0.8, false positives 0.1; a share of 0.2 gives 0.1 + 0.7 * 0.2 = 0.24 called
    target = np.repeat([1, 0], [24, 76])
    assert bbse_prevalence(labels, called, target) == pytest.approx(0.2, abs=1e-12)
    assert np.isnan(bbse_prevalence(labels, np.ones(20), target))


def _logits(rng: np.random.Generator, n: int, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(n) < prevalence * n).astype(float)
    return labels, rng.normal(np.where(labels > 0, 1.5, -1.5), 1.0)


def test_another_mix_of_classes_is_explained_and_its_prevalence_found() -> None:
    rng = np.random.default_rng(4)
    labels, source = _logits(rng, 400, 0.5)
    _, target = _logits(rng, 300, 0.1)
    fit = fit_mixture(labels, source, target)
    assert fit.prevalence == pytest.approx(0.1, abs=0.05)
    assert fit.excess < 1


def test_a_shift_of_all_logits_is_not_explained_by_a_mix_of_classes() -> None:
    rng = np.random.default_rng(5)
    labels, source = _logits(rng, 400, 0.5)
    _, target = _logits(rng, 300, 0.5)
    assert fit_mixture(labels, source, target - 1.5).excess > 1.5


def test_the_distance_of_a_mixture_is_scipys_where_one_class_alone_fits_best() -> None:
    rng = np.random.default_rng(6)
    labels, source = _logits(rng, 100, 0.5)
    target = rng.normal(-4, 0.5, 80)
    fit = fit_mixture(labels, source, target)
    assert fit.prevalence == 0
    assert fit.distance == pytest.approx(ks_2samp(source[labels == 0], target).statistic, abs=1e-12)


def test_no_shift_is_rarely_taken_for_one() -> None:
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(100):
        labels, source = _logits(rng, 120, 0.45)
        seen += fit_mixture(labels, source, _logits(rng, 150, 0.2)[1]).excess > 1
    assert seen <= 8
