"""Augmentation in batches: the geometry of others, noise that is noise, and the same bytes on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.nn import functional

from data_contracts.errors import UsageError
from models.augmentation.augment import augment, draw_variant
from models.augmentation.batch import AugmentRanges, augment_batch, noise_keys, random_matrices, warp_batch
from models.augmentation.kernels import add_noise

RANGES = AugmentRanges(noise_std=20.0)
PLAIN = AugmentRanges()


def volumes(n: int, channels: int = 1, size: tuple[int, ...] = (20, 24, 28), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, (n, channels, *size)).astype(np.float32)


@pytest.mark.parametrize("size", [(20, 24, 28), (30, 21)])
def test_a_warp_is_that_of_scipy(size):
    images = volumes(5, 2, size)
    matrices = random_matrices(5, size, AugmentRanges(rotation_rad=0.6, zoom=(0.7, 1.4)), seed=3, draw=0)
    made = warp_batch(images, matrices, np.ones((5, 2)), np.zeros((5, 2)))
    for image, matrix, found in zip(images, matrices, made, strict=True):
        for channel in range(2):
            expected = ndimage.affine_transform(
                image[channel].astype(np.float64), matrix[:, :-1], matrix[:, -1], order=1, mode="nearest"
            )
            assert np.abs(found[channel] - expected).max() <= 1e-3 * np.abs(image).max()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_warp_of_training_is_that_of_grid_sample(seed):
    images = torch.randn(3, 2, 3, 17, 22, generator=torch.Generator().manual_seed(seed))
    draws = draw_variant(3, 2, seed=seed, variant=1)
    flat = images.reshape(6, 3, 17, 22)
    grid = functional.affine_grid(draws.warp.reshape(-1, 2, 3), list(flat.shape), align_corners=False)
    warped = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    expected = warped * draws.contrast.reshape(-1, 1, 1, 1) + draws.brightness.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(augment(images, draws), expected.reshape(images.shape), rtol=1e-3, atol=1e-3)


def test_no_turn_no_zoom_and_no_flip_is_the_image_itself_to_the_last_voxel():
    images = volumes(2)
    still = AugmentRanges(rotation_rad=0, zoom=(1, 1), flip_probability=0)
    np.testing.assert_allclose(augment_batch(images, still, seed=0, draw=0), images, atol=1e-3)
    turned = augment_batch(images, AugmentRanges(rotation_rad=0, zoom=(1, 1), flip_probability=1), seed=0, draw=0)
    np.testing.assert_allclose(turned, images[:, :, ::-1, ::-1, ::-1], atol=1e-3)


def test_zoom_enlarges_and_turns_stay_within_their_range():
    matrices = random_matrices(500, (32, 32, 32), AugmentRanges(rotation_rad=0.2, zoom=(0.8, 1.25)), seed=0, draw=0)
    determinants = np.abs(np.linalg.det(matrices[:, :, :3]))
    magnification = determinants ** (-1 / 3)
    assert 0.8 <= magnification.min() < 0.85 and 1.2 < magnification.max() <= 1.25
    assert 0.4 < (np.linalg.det(matrices[:, :, :3]) < 0).mean() < 0.6
    centre = np.full(3, 15.5)
    np.testing.assert_allclose(matrices[:, :, :3] @ centre + matrices[:, :, 3], np.broadcast_to(centre, (500, 3)))


@pytest.mark.parametrize("size", [(12, 13, 15), (31, 33)])
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads_and_in_any_batch(size):
    images = volumes(7, 2, size)
    one = augment_batch(images, RANGES, seed=5, draw=2, threads=1)
    reused = np.full_like(images, np.nan)
    for threads in (2, 3, 8):
        again = augment_batch(images, RANGES, seed=5, draw=2, threads=threads, out=reused)
        assert again is reused and again.tobytes() == one.tobytes()
    assert augment_batch(images, RANGES, seed=5, draw=3).tobytes() != one.tobytes()
    assert augment_batch(images, RANGES, seed=6, draw=2).tobytes() != one.tobytes()


def noise(n: int, seed: int, draw: int = 0, size: int = 64**3) -> np.ndarray:
    made = np.zeros((n, size), dtype=np.float32)
    for row, (first, second) in zip(made, noise_keys(n, seed=seed, draw=draw), strict=True):
        add_noise(row, np.float32(1), first, second)
    return made.astype(np.float64)


def test_noise_is_normal_with_the_mean_and_spread_it_says():
    values = noise(16, seed=0)
    count = values.size
    assert abs(values.mean()) < 5 / np.sqrt(count)
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * count)
    assert abs(stats.skew(values, axis=None)) < 5 * np.sqrt(6 / count)
    assert abs(stats.kurtosis(values, axis=None)) < 5 * np.sqrt(24 / count)
    assert stats.kstest(values[:4].ravel(), "norm").pvalue > 1e-3
    # as many beyond four deviations as there should be
    assert abs((np.abs(values) > 4).sum() - 2 * stats.norm.sf(4) * count) < 5 * np.sqrt(2 * stats.norm.sf(4) * count)


def test_noise_of_neighbours_images_and_draws_is_independent():
    values = noise(6, seed=1)
    bound = 5 / np.sqrt(values.shape[1])
    for step in (1, 2, 3, 64, 4096, values.shape[1] // 2):
        for row in values:
            assert abs(np.mean(row[:-step] * row[step:])) < bound
            assert abs(np.mean((row[:-step] ** 2 - 1) * (row[step:] ** 2 - 1))) < 2 * bound
    others = [*noise(6, seed=1, draw=1), *noise(6, seed=2), *values]
    correlations = np.corrcoef(others) - np.eye(len(others))
    assert np.abs(correlations).max() < bound


@pytest.mark.parametrize("size", [1, 2, 5, 1023, 2049])
def test_noise_reaches_every_place_of_any_size_once(size):
    values = noise(200, seed=3, size=size)
    assert (values != 0).all()
    assert np.abs(values.mean(axis=0)).max() < 6 / np.sqrt(200) and values.std(axis=0).min() > 0.6


def test_noise_is_added_after_the_warp_and_of_the_size_that_was_asked_for():
    images = volumes(4)
    noisy, plain = (augment_batch(images, ranges, seed=0, draw=0) for ranges in (RANGES, PLAIN))
    assert (noisy - plain).std() == pytest.approx(20, rel=0.02)
    draws = draw_variant(4, 3, seed=0, variant=1)
    batch = torch.zeros(4, 3, 3, 32, 32)
    assert float((augment(batch, draws, 0.25) - augment(batch, draws)).std()) == pytest.approx(0.25, rel=0.02)


def test_what_cannot_be_warped_is_refused():
    for shape in ((2, 1, 8), (2, 1, 1, 8), (2, 1, 8, 8, 1)):
        with pytest.raises(UsageError, match="cannot be warped"):
            augment_batch(np.zeros(shape, dtype=np.float32), PLAIN, seed=0, draw=0)
    images = volumes(2)
    with pytest.raises(UsageError, match="C order"):
        augment_batch(images, PLAIN, seed=0, draw=0, out=np.zeros(images.shape, dtype=np.float64))
