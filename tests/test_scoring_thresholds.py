"""Thresholds are frozen on validation and reach what they are asked for there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.proportions import clustered_proportion_figure
from pipeline.scoring.thresholds import (
    freeze_operating_points,
    freeze_sensitivity,
    freeze_thresholds,
    operating_point,
    operating_points,
    proportion_figure,
    threshold_name,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60).filter(
        lambda rows: any(label == 0 for label, _ in rows)
    )
)
def test_every_frozen_threshold_reaches_its_specificity_and_calls_no_fewer_malignant_than_it_must(rows):
    labels, twelfths = np.array(rows).T
    scores = twelfths / 12
    frozen = freeze_thresholds(scores, labels)
    assert set(frozen) == {"specificity_0.80", "specificity_0.85", "specificity_0.90"}
    for asked in (0.80, 0.85, 0.90):
        threshold = frozen[threshold_name(asked)]
        assert (scores[labels == 0] < threshold).mean() >= asked - 1e-9
        # The next lower score would no longer do.
        below = scores[scores < threshold]
        assert (scores[labels == 0] < below.max()).mean() < asked
    assert list(frozen.values()) == sorted(frozen.values())


def test_nine_of_ten_benign_nodules_are_a_specificity_of_90_percent():
    scores = np.arange(1, 11) / 20
    assert freeze_thresholds(scores, np.zeros(10))["specificity_0.90"] == pytest.approx(0.475)
    hundred = np.arange(100) / 100
    assert freeze_thresholds(hundred, np.zeros(100), specificities=[0.55])["specificity_0.55"] == pytest.approx(0.545)


def test_a_benign_nodule_with_probability_one_is_still_excluded():
    threshold = freeze_thresholds([1.0] * 5, [0] * 5)["specificity_0.90"]
    assert threshold > 1


def test_rows_without_label_or_score_are_left_out():
    labels = pd.Series([0, 0, 1, pd.NA, 0], dtype="Int8")
    with_gaps = freeze_thresholds([0.1, 0.2, 0.9, 0.15, np.nan], labels)
    assert with_gaps == freeze_thresholds([0.1, 0.2, 0.9], [0, 0, 1])


@pytest.mark.parametrize("labels", [[], [1, 1], [np.nan]])
def test_without_a_benign_nodule_there_is_no_threshold(labels):
    assert freeze_thresholds(np.full(len(labels), 0.5), np.array(labels, float)) == {}


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Stat Med 1998;17:857, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(successes, n, low, high):
    figure = proportion_figure(successes, n, n_positive=n, what="nodules")
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = proportion_figure(n - successes, n, n_positive=n, what="nodules")
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_sensitivity_counts_malignant_nodules_and_specificity_benign_ones():
    labels, scores = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.5, 0.1, 0.4, 0.5])
    sensitivity, specificity = operating_point(labels, scores, 0.5)
    assert (sensitivity.value, sensitivity.n) == (pytest.approx(2 / 3), 3)
    assert (specificity.value, specificity.n) == (0.5, 2)


def test_no_nodule_of_a_class_gives_a_note():
    sensitivity, specificity = operating_point(np.array([0]), np.array([0.2]), 0.5)
    assert sensitivity.value is None and sensitivity.note == "no malignant nodules"
    assert specificity.value == 1.0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60).filter(
        lambda rows: any(label == 1 for label, _ in rows)
    )
)
def test_the_threshold_of_a_sensitivity_reaches_it_and_calls_no_more_benign_than_it_must(rows):
    labels, twelfths = np.array(rows).T
    scores = twelfths / 12
    threshold = freeze_sensitivity(scores, labels)["sensitivity_0.95"]
    assert (scores[labels == 1] >= threshold).mean() >= 0.95 - 1e-9
    # The next higher score that a malignant nodule has would no longer do.
    above = scores[scores >= threshold].min()
    assert (scores[labels == 1] > above).mean() < 0.95


def test_nineteen_of_twenty_malignant_nodules_are_a_sensitivity_of_95_percent():
    scores = np.arange(1, 21) / 40
    assert freeze_sensitivity(scores, np.ones(20))["sensitivity_0.95"] == pytest.approx(0.0375)
    assert freeze_sensitivity(scores, np.zeros(20)) == {}


def test_a_card_holds_four_operating_points_and_older_cards_fewer():
    labels, scores = np.arange(40) % 2, np.linspace(0.1, 0.9, 40)
    frozen = freeze_operating_points(scores, labels)
    names = ["specificity_0.80", "specificity_0.85", "specificity_0.90", "sensitivity_0.95"]
    assert list(frozen) == names
    points = operating_points(labels, scores, frozen)
    assert [point.name for point in points] == names
    assert points[3].sensitivity.value >= 0.95 and points[0].specificity.value >= 0.80
    older = {name: frozen[name] for name in names[:3]}
    assert [point.name for point in operating_points(labels, scores, older)] == names[:3]


def test_patients_with_one_nodule_have_wilsons_interval_and_patients_whose_nodules_agree_a_wider_one():
    hits, each = np.arange(60) % 4 > 0, np.arange(60)
    plain = proportion_figure(45, 60, n_positive=60, what="nodules")
    alone = clustered_proportion_figure(hits, each, n_positive=60, what="nodules")
    assert alone == plain
    agreeing = clustered_proportion_figure(np.repeat(hits, 3), np.repeat(each, 3), n_positive=180, what="nodules")
    independent = proportion_figure(135, 180, n_positive=180, what="nodules")
    assert agreeing.value == independent.value == 0.75
    # Three nodules that agree are worth one.
    assert (agreeing.low, agreeing.high) == pytest.approx((plain.low, plain.high), abs=0.006)
    assert agreeing.high - agreeing.low > 1.5 * (independent.high - independent.low)


def test_where_all_nodules_agree_the_interval_still_has_a_width():
    figure = clustered_proportion_figure(np.ones(30, bool), np.arange(30) // 3, n_positive=30, what="nodules")
    assert figure.value == figure.high == 1 and 0.7 < figure.low < 0.9
    one = clustered_proportion_figure(np.ones(3, bool), np.zeros(3), n_positive=3, what="malignant nodules")
    assert one.low is None and one.note == "no interval: all malignant nodules are of one patient"
