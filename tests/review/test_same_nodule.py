"""Several places of a search in one nodule are one finding."""

from __future__ import annotations

import numpy as np
from results_factory import ball

from pipeline.review.measure import measured
from pipeline.review.same_nodule import repeats

HERE = np.array([10.0, -20.0, 30.0])


def test_outlines_that_cover_each_other_are_one_nodule_and_the_first_place_stays():
    centers = HERE + np.array([[0, 0, 0], [1, 0, 0], [30, 0, 0], [0, 1, 0]])
    outlines = [ball(center, 6.0) for center in centers[:3]] + [None]
    assert repeats(outlines, centers) == [False, True, False, True]
    assert repeats([], np.empty((0, 3))) == []


def test_neighbours_and_a_small_nodule_beside_a_large_one_stay_two():
    apart = HERE + np.array([[0, 0, 0], [10, 0, 0]])
    assert repeats([ball(apart[0], 6.0), ball(apart[1], 6.0)], apart) == [False, False]
    within = HERE + np.array([[0, 0, 0], [5, 0, 0]])
    assert repeats([ball(within[0], 8.0), ball(within[1], 2.0)], within) == [False, False]
    assert repeats([None, None], within) == [False, False]


def test_places_in_a_measured_nodule_are_known_again(make_nodule):
    volume, center = make_nodule((10, 10, 10))
    places = center + np.array([[0, 0, 0], [4, 0, 3], [0, -5, -2]])
    assert repeats([measured(volume, place, 20.0)[1] for place in places], places) == [False, True, True]
