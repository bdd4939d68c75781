"""Intervals of AUCs where patients have several nodules, against the definition and the jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.scoring.clustered_auc import (
    clustered_auc,
    clustered_auc_figure,
    paired_difference,
    paired_difference_figure,
    unpaired_difference_figure,
)
from pipeline.scoring.delong import delong, delong_paired


def nodules(n_patients=60, seed=0, likeness=0.8, digits=2):
    """Labels, two scores and patients, up to four nodules each, some patients with both classes."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
    common = rng.normal(size=n_patients)[patients]
    latent = np.sqrt(likeness) * common + np.sqrt(1 - likeness) * rng.normal(size=patients.size)
    labels = (latent + 0.7 * rng.normal(size=patients.size) > 0.3).astype(np.int64)
    scores = np.round(latent + 0.5 * rng.normal(size=patients.size), digits)
    return labels, scores, np.round(scores + rng.normal(size=patients.size), digits), patients


def covariance_by_definition(labels, one, other, patients):
    """(S10 + S01 + 2 S11) of Obuchowski 1997, pair by pair and patient by patient."""
    malignant, benign = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n = len(malignant), len(benign)

    def psi(scores, i, j):
        return 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0

    parts = []
    for scores in (one, other):
        above = {i: np.mean([psi(scores, i, j) for j in benign]) for i in malignant}
        below = {j: np.mean([psi(scores, i, j) for i in malignant]) for j in benign}
        auc = np.mean(list(above.values()))
        names = sorted(set(patients))
        parts.append(
            (
                [sum(above[i] - auc for i in malignant if patients[i] == name) for name in names],
                [sum(below[j] - auc for j in benign if patients[j] == name) for name in names],
            )
        )
    (a10, a01), (b10, b01) = (tuple(np.array(part) for part in pair) for pair in parts)
    with_malignant, with_benign = len(set(patients[malignant])), len(set(patients[benign]))
    everyone = len(set(patients))
    s10 = with_malignant / (with_malignant - 1) * (a10 * b10).sum() / m**2
    s01 = with_benign / (with_benign - 1) * (a01 * b01).sum() / n**2
    s11 = everyone / (everyone - 1) * ((a10 * b01).sum() + (a01 * b10).sum()) / (m * n)
    return s10 + s01 + s11


@pytest.mark.parametrize("seed", range(3))
def test_the_covariance_is_that_of_the_definition_with_ties(seed):
    labels, a, b, patients = nodules(25, seed, digits=0)
    found = clustered_auc(labels, np.stack([a, b]), patients)
    assert found.aucs == pytest.approx([roc_auc_score(labels, a), roc_auc_score(labels, b)], abs=1e-12)
    expected = [[covariance_by_definition(labels, x, y, patients) for y in (a, b)] for x in (a, b)]
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)


def test_leaving_out_one_patient_after_the_other_gives_nearly_the_same_error():
    labels, a, _, patients = nodules(150)
    without = np.array([roc_auc_score(labels[patients != p], a[patients != p]) for p in range(150)])
    jackknife = 149 / 150 * ((without - without.mean()) ** 2).sum()
    assert clustered_auc(labels, a, patients).covariance[0, 0] == pytest.approx(jackknife, rel=0.05)


def test_where_each_patient_has_one_nodule_the_variance_is_delongs():
    labels, a, b, _ = nodules(60)
    found = clustered_auc(labels, np.stack([a, b]), np.arange(labels.size))
    np.testing.assert_allclose(found.covariance, delong(labels, np.stack([a, b]))[1], atol=1e-14)
    assert found.aucs == pytest.approx(delong(labels, np.stack([a, b]))[0])


def test_nodules_that_resemble_each_other_widen_the_interval_and_copies_change_nothing():
    alike, rng = np.repeat(np.arange(60), 3), np.random.default_rng(0)
    classes, score = alike % 2, (alike % 2) + rng.normal(size=60)[alike] + 0.1 * rng.normal(size=180)
    assert clustered_auc(classes, score, alike).covariance[0, 0] > 2.5 * delong(classes, score)[1][0, 0]
    labels, a, _, patients = nodules(80)
    once = clustered_auc_figure(labels, a, patients)
    thrice = clustered_auc_figure(np.tile(labels, 3), np.tile(a, 3), np.tile(patients, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_the_interval_stays_within_0_and_1_and_holds_its_value():
    for seed in range(20):
        labels, a, _, patients = nodules(12, seed)
        figure = clustered_auc_figure(labels, a + 3 * labels, patients)
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.low < 1


def test_separated_classes_have_the_interval_of_as_many_patients_without_an_error():
    figure = clustered_auc_figure(np.array([0, 0, 0, 1, 1]), np.arange(5.0), np.array(list("abcde"), dtype=object))
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(2 / (2 + 1.959964**2), abs=1e-6)


def test_a_class_of_one_patient_has_a_value_and_says_why_there_is_no_interval():
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.3, 0.1])
    patients = np.array(["a", "a", "b", "c"], dtype=object)
    figure = clustered_auc_figure(labels, scores, patients)
    assert figure.value == 0.75 and figure.low is None and "of one patient" in figure.note
    difference = paired_difference_figure(labels, scores, scores[::-1], patients)
    assert difference.low is None and "of one patient" in difference.note


def test_the_paired_difference_has_the_variance_of_the_definition_and_turns_with_its_order():
    labels, a, b, patients = nodules(40)
    there, back = paired_difference(labels, a, b, patients), paired_difference(labels, b, a, patients)
    assert there.difference == pytest.approx(delong_paired(labels, a, b).difference)
    assert (there.low, there.p_value) == pytest.approx((-back.high, back.p_value))
    itself = paired_difference(labels, a, a, patients)
    assert (itself.difference, itself.low, itself.high, itself.p_value) == (0, 0, 0, 1)


def test_two_groups_of_other_patients_have_the_sum_of_their_variances():
    labels_a, a, _, patients_a = nodules(50, 1)
    labels_b, b, _, patients_b = nodules(70, 2)
    figure = unpaired_difference_figure(labels_a, a, patients_a, labels_b, b, patients_b + 1000)
    one, two = clustered_auc(labels_a, a, patients_a), clustered_auc(labels_b, b, patients_b)
    assert figure.value == pytest.approx(float(one.aucs[0] - two.aucs[0]))
    error = np.sqrt(one.covariance[0, 0] + two.covariance[0, 0])
    assert (figure.high - figure.low) / 2 == pytest.approx(2.02 * error, rel=0.05)
    assert figure.n == len(labels_a) + len(labels_b)


def test_patients_who_are_in_both_groups_do_not_count_as_two():
    labels, a, _, patients = nodules(50)
    same = unpaired_difference_figure(labels, a, patients, labels, a, patients)
    other = unpaired_difference_figure(labels, a, patients, labels, a, patients + 1000)
    assert same.value == other.value == 0
    assert same.high - same.low < 0.35 * (other.high - other.low)


def test_a_group_without_a_class_has_no_difference_and_says_so():
    labels, a, _, patients = nodules(20)
    benign = labels == 0
    figure = unpaired_difference_figure(labels, a, patients, labels[benign], a[benign], patients[benign])
    assert figure.value is None and figure.note == "no malignant nodule"
