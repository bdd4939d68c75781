"""AUC and DeLong's variance against the definitions, written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from pipeline.scoring.delong import auc_figure, delong, delong_paired, difference_figure


def placements(labels, scores):
    """Placement values by the definition: every malignant nodule against every benign one, a tie is a half."""
    wins = np.array([[(p > q) + 0.5 * (p == q) for q in scores[labels == 0]] for p in scores[labels == 1]], float)
    return wins.mean(axis=1), wins.mean(axis=0)


def covariance_by_definition(labels, scores_a, scores_b):
    """S10 / m + S01 / n of DeLong, DeLong & Clarke-Pearson 1988."""
    total = 0.0
    for one, other in zip(placements(labels, scores_a), placements(labels, scores_b), strict=True):
        total += ((one - one.mean()) * (other - other.mean())).sum() / (one.size - 1) / one.size
    return total


def simulated(seed=0, n=60, digits=1):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 0, 1, 1, (rng.random(n - 4) < 0.4)].astype(np.int64)
    latent = labels + rng.normal(size=n)
    return labels, np.round(latent, digits), np.round(latent + rng.normal(size=n), digits)


@pytest.mark.parametrize("seed", range(4))
def test_the_variance_is_that_of_the_placement_values_with_ties(seed):
    labels, a, b = simulated(seed)
    aucs, covariance = delong(labels, np.stack([a, b]))
    assert aucs == pytest.approx([roc_auc_score(labels, a), roc_auc_score(labels, b)], abs=1e-12)
    expected = [[covariance_by_definition(labels, x, y) for y in (a, b)] for x in (a, b)]
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


#: Patients with good and poor outcome at each distinct value, ascending, of two predictors after subarachnoid
#: haemorrhage: 72 good, 41 poor (Turck 2010, Intensive Care Med 36:107), read off their published ROC curves.
WFNS_GRADE = ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18])
S100B = (
    [int(c) for c in "05326667403443212001000101110101011210200000000000"],
    [int(c) for c in "10003122112101000110111011101010200011011112111111"],
)


def delong_of_counts(good, poor):
    values = np.arange(len(good))
    scores = np.r_[np.repeat(values, good), np.repeat(values, poor)]
    labels = np.r_[np.zeros(sum(good)), np.ones(sum(poor))]
    aucs, covariance = delong(labels, scores)
    return aucs[0], covariance[0, 0]


def test_auc_and_interval_are_those_that_proc_publishes_for_its_patients():
    # Robin 2011, BMC Bioinformatics 12:77, and the figures pROC's own tests expect.
    wfns, wfns_variance = delong_of_counts(*WFNS_GRADE)
    s100b, s100b_variance = delong_of_counts(*S100B)
    assert wfns == pytest.approx(0.82367886178861782, abs=1e-12)
    assert s100b == pytest.approx(0.73136856368563685, abs=1e-12)
    for auc, variance, low, high in ((wfns, wfns_variance, 0.749, 0.899), (s100b, s100b_variance, 0.630, 0.833)):
        half = 1.959964 * np.sqrt(variance)
        assert (auc - half, auc + half) == pytest.approx((low, high), abs=5e-4)
    # The statistic of the unpaired comparison holds the sum of both variances to every digit.
    statistic = (wfns - s100b) / np.sqrt(wfns_variance + s100b_variance)
    assert statistic == pytest.approx(1.43490640926908, abs=1e-12)


def test_the_paired_difference_has_the_variance_and_p_value_of_the_definition():
    labels, a, b = simulated(7)
    paired = delong_paired(labels, a, b)
    variance = (
        covariance_by_definition(labels, a, a)
        + covariance_by_definition(labels, b, b)
        - 2 * covariance_by_definition(labels, a, b)
    )
    assert paired.variance == pytest.approx(variance, abs=1e-12)
    assert paired.p_value == pytest.approx(2 * norm.sf(abs(paired.difference) / np.sqrt(variance)), abs=1e-12)
    figure = difference_figure(labels, a, b)
    assert figure.low == pytest.approx(paired.difference - 1.959964 * np.sqrt(variance), abs=1e-6)


def test_a_score_against_itself_differs_by_nothing():
    labels, a, _ = simulated(3)
    paired = delong_paired(labels, a, a)
    assert (paired.difference, paired.variance, paired.p_value) == (0.0, 0.0, 1.0)


def test_separated_classes_have_an_auc_of_one_and_a_note_about_the_interval():
    figure = auc_figure(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert (figure.value, figure.low, figure.high) == (1.0, 1.0, 1.0)
    assert "degenerate" in figure.note


@pytest.mark.parametrize(
    ("labels", "note"),
    [([], "no nodule with a label and a score"), ([0, 0], "no malignant nodule"), ([1, 1], "no benign nodule")],
)
def test_a_missing_class_gives_no_figure_and_says_why(labels, note):
    scores = np.linspace(0, 1, len(labels))
    for figure in (auc_figure(np.array(labels, int), scores), difference_figure(np.array(labels, int), scores, scores)):
        assert (figure.value, figure.low, figure.high, figure.note) == (None, None, None, note)
        assert figure.n == len(labels)


def test_one_malignant_nodule_is_enough_for_a_figure():
    figure = auc_figure(np.array([0, 0, 0, 1]), np.array([0.1, 0.5, 0.3, 0.4]))
    assert figure.value == pytest.approx(2 / 3)
    assert 0 <= figure.low < figure.value < figure.high <= 1


cases = st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=4, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_the_auc_sees_only_the_order_of_the_scores(rows):
    labels, scores = np.array(rows).T
    mapped = np.exp(scores / 7.0) * 3 + 1
    for plain, changed in zip(delong(labels, scores), delong(labels, mapped), strict=True):
        np.testing.assert_allclose(plain, changed, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_swapped_labels_give_one_minus_the_auc_and_the_same_variance(rows):
    labels, scores = np.array(rows).T
    auc, covariance = delong(labels, scores)
    swapped, swapped_covariance = delong(1 - labels, scores)
    np.testing.assert_allclose(swapped, 1 - auc, atol=1e-12)
    np.testing.assert_allclose(swapped_covariance, covariance, atol=1e-12)


@pytest.mark.slow
def test_the_95_percent_interval_holds_the_true_auc_about_95_times_in_100():
    rng = np.random.default_rng(0)
    truth = float(norm.cdf(1.2 / np.sqrt(2)))
    labels = np.repeat([0, 1], [120, 60])
    figures = [auc_figure(labels, rng.normal(size=180) + 1.2 * labels) for _ in range(2000)]
    held = np.mean([figure.low <= truth <= figure.high for figure in figures])
    assert 0.925 <= held <= 0.965


#: The same patients one by one, 41 poor and then 72 good: WFNS grade, and rank of NDKA among all, from the placement
#: values that pROC's tests expect (tests/testthat/helper-deLongPlacementsCpp-expected.R).
_WFNS = (
    "21344441410143314441414134330331144114444000040110110001010023030440013001101011000010100213103004311000201133000"
)
_NDKA = (
    "37 24 28 35 3 9 18 43 47 43 43 14 32 39 5 7 30 1 51 39 16 18 22 30 41 26 39 7 49 34 3 12 39 3 11 43 20 32 45 18 "
    "35 0 8 6 17 4 34 4 38 29 38 36 46 10 4 23 4 4 50 25 13 13 38 2 6 4 12 27 6 33 44 6 4 23 10 6 27 42 40 15 21 48 "
    "4 36 13 17 17 33 2 36 23 10 17 38 17 21 6 13 17 42 8 23 26 44 19 23 10 42 15 31 40 4 29"
)
WFNS_OF, NDKA_OF = [int(grade) for grade in _WFNS], [int(rank) for rank in _NDKA.split()]


def test_two_predictors_of_the_same_patients_differ_as_proc_says():
    # tests/testthat/test-roc.test.R of pROC: roc.test(wfns, ndka), and ci.auc of ndka.
    labels = np.repeat([1, 0], [41, 72])
    figure = auc_figure(labels, np.array(NDKA_OF, float))
    assert figure.value == pytest.approx(0.611957994579946, abs=1e-12)
    assert (figure.low, figure.high) == pytest.approx((0.501, 0.724), abs=1.5e-3)
    paired = delong_paired(labels, WFNS_OF, NDKA_OF)
    assert paired.difference / np.sqrt(paired.variance) == pytest.approx(2.79777591868904, abs=1e-12)
    assert paired.p_value == pytest.approx(0.00514557970691098, abs=1e-14)
    difference = difference_figure(labels, np.array(WFNS_OF, float), np.array(NDKA_OF, float))
    assert (difference.low, difference.high) == pytest.approx((0.0634011709339876, 0.3600405634833566), abs=1e-12)
