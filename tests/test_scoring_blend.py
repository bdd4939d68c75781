"""The blend of concepts and the balance of sizes find what was put into the data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from pipeline.scoring.blend import fit_blend
from pipeline.scoring.size_balance import size_balance


def test_a_concept_that_holds_more_of_the_label_gets_weight_and_one_that_holds_none_gets_little():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4000, 3))
    labels = (rng.random(4000) < expit(outputs[:, 0] + 0.5 * outputs[:, 1])).astype(float)
    blend = fit_blend(outputs, rng.normal(size=4000), labels)
    assert blend[0] == 1
    assert blend[1] == pytest.approx(0.5, abs=0.15)
    assert abs(blend[2]) < 0.1


def test_a_concept_is_not_paid_for_what_the_diameter_says():
    rng = np.random.default_rng(1)
    sizes = rng.normal(size=4000)
    outputs = np.column_stack([rng.normal(size=4000), sizes + rng.normal(0, 0.3, 4000)])
    labels = (rng.random(4000) < expit(outputs[:, 0] + 2 * sizes)).astype(float)
    assert abs(fit_blend(outputs, sizes, labels)[1]) < 0.25


def test_without_rows_of_both_classes_the_blend_is_the_plain_logit():
    assert fit_blend(np.zeros((0, 3)), [], []).tolist() == [1, 0, 0]
    assert fit_blend(np.ones((5, 2)), np.zeros(5), np.ones(5)).tolist() == [1, 0]


def test_with_balanced_weights_size_says_nothing_of_the_label():
    rng = np.random.default_rng(2)
    diameters = rng.uniform(5, 20, 3000)
    labels = (rng.random(3000) < expit((diameters - 12) / 2)).astype(float)
    weights = size_balance(labels, diameters, np.ones(3000))
    assert np.average(weights) == pytest.approx(1)
    for low, high in ((9, 11), (11, 13), (13, 15)):
        rows = (diameters > low) & (diameters < high)
        assert np.average(labels[rows], weights=weights[rows]) == pytest.approx(0.5, abs=0.06)


def test_a_nodule_of_unknown_size_or_target_counts_as_it_did():
    weights = size_balance([1, 0, np.nan, 1], [8, 8, 8, np.nan], np.ones(4))
    assert weights[2] == weights[3] == 1
