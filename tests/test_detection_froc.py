"""FROC as LUNA16 defines it: by hand, beside MONAI's, and beside the challenge's way through a ROC curve."""

from __future__ import annotations

import numpy as np
import pytest
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score
from sklearn.metrics import roc_curve

from pipeline.detection.froc import OPERATING_POINTS, ScanMarks, at_threshold, count_marks, froc, froc_interval


def scan(marks: list[tuple[float, float]], nodules: list[tuple[float, float]], ignored=()) -> ScanMarks:
    """Marks (x, score), nodules and ignored lesions (x, diameter) on one line."""
    return ScanMarks(
        marks_mm=np.array([[x, 0.0, 0.0] for x, _ in marks]).reshape(-1, 3),
        scores=np.array([score for _, score in marks], dtype=np.float64),
        nodules_mm=np.array([[x, 0.0, 0.0, d] for x, d in nodules]).reshape(-1, 4),
        ignored_mm=np.array([[x, 0.0, 0.0, d] for x, d in ignored]).reshape(-1, 4),
    )


def random_scans(seed: int, n: int = 12) -> list[ScanMarks]:
    """Scans with nodules far apart; marks on some of them, some of them twice, and elsewhere; scores may be equal."""
    rng = np.random.default_rng(seed)
    scans = []
    for _ in range(n):
        nodules = [(100.0 * number, float(rng.uniform(4, 30))) for number in range(rng.integers(0, 4))]
        marks = [
            (x + float(rng.uniform(-0.49, 0.49)) * d, round(float(rng.uniform(0.2, 1)), 2))
            for x, d in nodules
            for _ in range(rng.integers(0, 3))
        ]
        marks += [(50.0 + 100 * number, round(float(rng.beta(1, 3)), 2)) for number in range(rng.integers(4, 20))]
        scans.append(scan(marks, nodules))
    return scans


def by_the_challenge(scans: list[ScanMarks]) -> tuple[np.ndarray, np.ndarray]:
    """False marks a scan and sensitivity as the challenge computes them: a ROC curve of the marks, rescaled."""
    counted = [count_marks(one) for one in scans]
    best = np.concatenate([one.best_scores for one in counted])
    false = np.concatenate([one.false_scores for one in counted])
    truth = np.append(np.ones(len(best)), np.zeros(len(false)))
    false_rate, true_rate, _ = roc_curve(truth, np.append(best, false))
    n_nodules = sum(one.n_nodules for one in counted)
    return false_rate * len(false) / len(scans), true_rate * len(best) / n_nodules


def test_two_scans_worked_by_hand():
    first = scan([(0.0, 0.9), (3.0, 0.4), (50.0, 0.8)], [(0.0, 10.0), (100.0, 10.0)])
    second = scan([(0.0, 0.7), (60.0, 0.6)], [(0.0, 10.0)])
    curve = froc([first, second])
    # falling score: hit 0.9, false 0.8, hit 0.7, false 0.6; the mark of 0.4 lies on the nodule that is hit already
    assert curve.false_marks.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curve.seven == pytest.approx((1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3))
    assert curve.mean_sensitivity == pytest.approx((2 / 3 + 5 * 2 / 3) / 7)
    assert at_threshold([first, second], 0.65) == pytest.approx((2 / 3, 0.5))


def test_between_two_points_sensitivity_rises_in_a_straight_line():
    scans = [scan([(500.0, 0.9), (0.0, 0.9)], [(0.0, 10.0)]), scan([], [])]
    # the two marks of equal score are accepted together: from nothing to everything at half a false mark a scan
    assert froc(scans).at(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("away_mm", "diameter_mm", "is_hit"),
    [(4.99, 10.0, True), (5.0, 10.0, False), (4.99, -1.0, True), (5.0, float("nan"), False), (1.6, 3.0, False)],
)
def test_a_hit_lies_strictly_within_the_radius_and_an_unknown_diameter_is_10_mm(away_mm, diameter_mm, is_hit):
    counted = count_marks(scan([(away_mm, 0.5)], [(0.0, diameter_mm)]))
    assert (len(counted.best_scores), len(counted.false_scores)) == ((1, 0) if is_hit else (0, 1))


def test_a_mark_on_a_lesion_that_is_not_searched_for_counts_neither_way_but_a_nodule_comes_first():
    counted = count_marks(scan([(0.0, 0.9), (102.0, 0.8), (300.0, 0.3)], [(0.0, 10.0)], [(1.0, 20.0), (100.0, 60.0)]))
    assert counted.best_scores.tolist() == [0.9]
    assert counted.false_scores.tolist() == [0.3]


def test_only_the_hundred_best_marks_of_a_scan_count():
    many = [(200.0 + 10 * number, 0.9) for number in range(100)]
    assert len(count_marks(scan([*many, (0.0, 0.1)], [(0.0, 10.0)])).best_scores) == 0
    assert len(count_marks(scan([*many[:99], (0.0, 0.1)], [(0.0, 10.0)])).best_scores) == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_seven_points_are_those_of_the_challenge_and_of_monai(seed):
    scans = random_scans(seed)
    curve = froc(scans)
    false_marks, sensitivity = by_the_challenge(scans)
    assert curve.seven == pytest.approx(np.interp(OPERATING_POINTS, false_marks, sensitivity))
    counted = [count_marks(one) for one in scans]
    found = np.concatenate([one.best_scores for one in counted])
    # MONAI leaves the lowest score out; a false mark below all others is what it may leave out
    false = np.append(np.concatenate([one.false_scores for one in counted]), 0.001)
    theirs = compute_froc_curve_data(false, found, curve.n_nodules, len(scans))
    assert curve.mean_sensitivity == pytest.approx(compute_froc_score(*theirs, OPERATING_POINTS))


def test_the_interval_holds_the_estimate_and_one_scan_has_none():
    scans = random_scans(3, n=30)
    low, high = froc_interval(scans, draws=200)
    assert low < froc(scans).mean_sensitivity < high
    assert froc_interval(scans, draws=200) == (low, high)
    assert froc_interval(scans[:1]) == (0.0, 1.0)


def test_without_a_nodule_there_is_no_curve():
    with pytest.raises(ValueError, match="one nodule"):
        froc([scan([(0.0, 0.5)], [])])


def test_nothing_found_is_a_sensitivity_of_zero():
    assert froc([scan([], [(0.0, 10.0)])]).mean_sensitivity == 0.0
