"""Calibration error, slope and intercept: their intervals, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from pipeline.scoring.calibration_figures import ece_figure, recalibration_figures
from pipeline.scoring.figures import expected_calibration_error


def scored(n, seed=0, slope=1.0, shift=0.0):
    """Labels, scores and patients; the truth of the score is expit((logit(score) - shift) / slope)."""
    rng = np.random.default_rng(seed)
    true = 1.5 * rng.normal(size=n)
    return (rng.random(n) < expit(true)).astype(np.int64), expit(slope * true + shift), np.arange(n) // 2


def test_a_calibrated_score_has_slope_one_and_intercept_zero_within_the_intervals():
    found = [recalibration_figures(*scored(600, seed)) for seed in range(25)]
    for expected, figures in ((1, [slope for slope, _ in found]), (0, [intercept for _, intercept in found])):
        assert np.mean([figure.value for figure in figures]) == pytest.approx(expected, abs=0.06)
        assert np.mean([figure.low < expected < figure.high for figure in figures]) >= 0.84


def test_a_score_that_is_too_sure_has_a_slope_below_one():
    slope, _ = recalibration_figures(*scored(1000, slope=2.0))
    assert slope.value == pytest.approx(0.5, abs=0.1) and slope.high < 1


def test_recalibrating_by_slope_and_intercept_leaves_nothing_to_recalibrate():
    labels, scores, patients = scored(300, slope=1.7, shift=0.8)
    slope, intercept = recalibration_figures(labels, scores, patients)
    again = recalibration_figures(labels, expit(intercept.value + slope.value * logit(scores)), patients)
    assert (again[0].value, again[1].value) == pytest.approx((1.0, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "scores", "note"),
    [
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], "no malignant nodule"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "the score separates the classes"),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], "every nodule has the same score"),
    ],
)
def test_a_slope_that_does_not_exist_says_why(labels, scores, note):
    for figure in recalibration_figures(np.array(labels), np.array(scores), np.arange(4)):
        assert (figure.value, figure.low, figure.note) == (None, None, note)


def test_scores_of_zero_and_one_have_a_slope():
    labels, scores, patients = scored(200)
    scores[:2], labels[:2] = (0.0, 1.0), (0, 1)
    assert np.isfinite(recalibration_figures(labels, scores, patients)[0].value)


def test_the_error_of_a_calibrated_score_may_be_zero_and_the_note_says_so():
    low, notes = [], []
    for seed in range(40):
        labels, scores, patients = scored(100, seed)
        figure = ece_figure(labels, scores, patients, bins=10, seed=0)
        assert figure.value == pytest.approx(expected_calibration_error(labels, scores, bins=10), abs=1e-12)
        assert figure.low <= figure.value <= figure.high
        low.append(figure.low)
        notes.append(figure.note)
    assert np.mean(np.array(low) == 0) >= 0.9
    assert any(note.startswith("chance alone") for note in notes) or max(low) >= 0


def test_the_interval_of_a_bad_score_holds_its_error_and_not_zero():
    truth = expected_calibration_error(*scored(400_000, 1, slope=3.0)[:2], bins=10)
    held = []
    for seed in range(60):
        figure = ece_figure(*scored(300, seed, slope=3.0), bins=10, seed=0)
        held.append(figure.low <= truth <= figure.high)
        assert figure.low > 0
    assert np.mean(held) >= 0.88


def test_one_patient_has_a_value_and_no_interval():
    labels, scores, _ = scored(20)
    figure = ece_figure(labels, scores, np.zeros(20), bins=10, seed=0)
    assert figure.value is not None and figure.low is None and "of one patient" in figure.note
    assert ece_figure(labels[:0], scores[:0], np.zeros(0), bins=10, seed=0).value is None
