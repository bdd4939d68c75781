"""Marks of several readers become nodules."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.clusters import cluster_marks

marks = st.lists(
    st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30), st.floats(3, 30), st.sampled_from("abcd")),
    max_size=16,
)


def test_four_readers_of_one_nodule_are_one_group() -> None:
    centers = np.array([[0, 0, 0], [1, 0, 0], [0, 1.5, 0], [0, 0, 1]])
    assert cluster_marks(centers, np.full(4, 8.0), list("abcd")).tolist() == [0, 0, 0, 0]


def test_two_marks_of_one_reader_are_two_nodules_and_the_nearer_one_is_joined() -> None:
    centers = np.array([[0, 0, 0], [3, 0, 0], [1, 0, 0]])
    assert cluster_marks(centers, np.full(3, 10.0), list("aab")).tolist() == [0, 1, 0]


def test_neighbours_that_only_touch_stay_apart() -> None:
    centers = np.array([[0, 0, 0], [9, 0, 0]])
    assert cluster_marks(centers, np.full(2, 10.0), list("ab")).tolist() == [0, 1]


def test_no_mark_gives_no_group() -> None:
    assert cluster_marks(np.zeros((0, 3)), np.zeros(0), []).tolist() == []


@settings(deadline=None)
@given(marks=marks, seed=st.integers(0, 99))
def test_a_group_has_one_mark_a_reader_and_the_order_of_marks_does_not_matter(marks: list[tuple], seed: int) -> None:
    centers = np.array([mark[:3] for mark in marks]).reshape(-1, 3)
    diameters, readers = np.array([mark[3] for mark in marks]), [mark[4] for mark in marks]
    groups = cluster_marks(centers, diameters, readers)
    assert len({(group, reader) for group, reader in zip(groups, readers, strict=True)}) == len(marks)
    order = np.random.default_rng(seed).permutation(len(marks))
    again = cluster_marks(centers[order], diameters[order], [readers[index] for index in order])
    same = groups[order][:, None] == groups[order][None, :]
    if len({tuple(np.round(mark[:3], 3)) for mark in marks}) == len(marks):
        assert np.array_equal(same, again[:, None] == again[None, :])
