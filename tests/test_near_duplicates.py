"""A patient who came twice under two keys is found by the pictures, before anything learns."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pipeline.cohort.near_duplicates import axial_planes, near_duplicates


def lungs(n: int, seed: int, size: int = 48) -> np.ndarray:
    """(n, 3, size, size) grey pictures with structure of several scales; neighbouring slices resemble each other."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 3, size, size))
    volume = (
        ndimage.gaussian_filter(noise, (0, 0.8, 1.5, 1.5)) * 6 + ndimage.gaussian_filter(noise, (0, 0.8, 5, 5)) * 20
    )
    return np.clip(100 + 25 * volume + rng.normal(0, 3, volume.shape), 0, 255).astype(np.uint8)


def names(n_train: int, n_test: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits and patients of pictures, a patient each."""
    parts = np.array(["train"] * n_train + ["test"] * n_test, dtype=object)
    return parts, np.array([f"patient {row}" for row in range(n_train + n_test)], dtype=object)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return lungs(160, 0)


def planted(pictures: np.ndarray, copy: np.ndarray) -> list[tuple[int, int]]:
    """The pairs found when `copy` joins the test split under another key."""
    parts, owners = names(120, 41)
    found = near_duplicates(np.concatenate([pictures, copy[None]]), parts, owners)
    return [(pair.first, pair.second) for pair in found]


def test_strangers_are_no_pair(pictures: np.ndarray) -> None:
    assert near_duplicates(pictures, *names(120, 40)) == []


@pytest.mark.parametrize("quarter", [0, 1, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_picture_is_found_turned_and_mirrored(pictures: np.ndarray, quarter: int, mirrored: bool) -> None:
    copy = np.rot90(pictures[17], quarter, axes=(1, 2))
    assert planted(pictures, copy[:, :, ::-1] if mirrored else copy) == [(17, 160)]


def test_a_picture_is_found_moved_by_a_pixel_noisier_and_with_another_contrast(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    moved = ndimage.shift(pictures[30].astype(float), (0, 1, -1), order=1, mode="nearest")
    copy = np.clip(1.1 * moved - 12 + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8)
    assert planted(pictures, copy) == [(30, 160)]


def test_a_nodule_marked_one_slice_further_is_found(pictures: np.ndarray) -> None:
    copy = np.concatenate([pictures[42][1:], lungs(1, 9)[0][:1]])  # what was its lower neighbour is its middle now
    assert planted(pictures, copy) == [(42, 160)]


def test_pictures_of_one_patient_or_of_one_split_are_none_of_our_business(pictures: np.ndarray) -> None:
    twice = np.concatenate([pictures, pictures[:1]])
    parts, owners = names(120, 41)
    owners[160] = owners[0]
    assert near_duplicates(twice, parts, owners) == []
    parts, owners = names(121, 40)
    assert near_duplicates(np.concatenate([pictures[:1], pictures]), parts, owners) == []


def test_pictures_without_structure_too_small_or_alone_are_not_compared() -> None:
    parts, owners = names(30, 10)
    assert near_duplicates(np.full((40, 3, 32, 32), 7, dtype=np.uint8), parts, owners) == []
    assert near_duplicates(np.zeros((40, 1, 8, 8), dtype=np.uint8), parts, owners) == []
    assert near_duplicates(np.zeros((1, 1, 32, 32), dtype=np.uint8), parts[:1], owners[:1]) == []


def test_in_a_handful_of_patches_only_the_same_pixels_count() -> None:
    few = lungs(8, 3)
    assert near_duplicates(np.concatenate([few, few[:1]]), *names(6, 3))[0].likeness > 0.999
    assert near_duplicates(few, *names(6, 2)) == []


def test_hu_patches_of_every_kind_show_their_axial_planes() -> None:
    assert axial_planes(np.zeros((2, 9, 32, 32)), "2.5d").shape == (2, 1, 32, 32)
    assert axial_planes(np.zeros((2, 32, 32, 32)), "3d").shape == (2, 3, 32, 32)
    assert axial_planes(np.zeros((2, 1, 28, 28)), "2d").shape == (2, 1, 28, 28)


def test_it_takes_no_longer_for_odd_and_oblong_planes() -> None:
    started = time.process_time()
    assert near_duplicates(lungs(60, 4)[:, :, :37], *names(40, 20)) == []
    assert time.process_time() - started < 10


def test_a_leaked_patient_of_the_lidc_crops_is_found_and_clean_crops_are_quiet(shared_data: Path) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from surveillance import leak_trial, lidc_nodules

    nodules = lidc_nodules(shared_data)
    assert leak_trial(nodules, np.random.default_rng(0), None) == (False, True)
    assert leak_trial(nodules, np.random.default_rng(1), 5.0) == (True, True)
