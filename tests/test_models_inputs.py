"""Patches become the images a backbone sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import UsageError
from data_contracts.model_card import LUNG_WINDOW, InputSpec
from models.augmentation.augment import augment, draw_variant
from models.augmentation.orbit import orbit
from models.networks.inputs import plane_count, to_common_spacing, to_images

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def spec(kind: str, shape: tuple[int, ...], unit: str = "HU", size: int = 32, **more: object) -> InputSpec:
    return InputSpec(kind=kind, patch_shape=shape, value_unit=unit, spacing_mm=1.0, input_size_px=size, **more)


@pytest.mark.parametrize(
    ("kind", "shape", "unit", "planes"),
    [
        ("2.5d", (3, 40, 40), "HU", 3),
        ("2d", (3, 40, 40), "HU", 3),
        ("2d", (3, 40, 40), "grey", 1),
        ("2d", (1, 28, 28), "grey", 1),
        ("2d", (28, 28), "grey", 1),
        ("3d", (28, 28, 28), "grey", 3),
        ("3d", (20, 24, 28), "HU", 3),
    ],
)
def test_every_kind_of_patch_gives_planes_of_three_channels(kind, shape, unit, planes):
    made = to_images(np.zeros((2, *shape), dtype=np.int16), spec(kind, shape, unit))
    assert made.shape == (2, planes, 3, 32, 32)
    assert made.dtype == torch.float32
    assert plane_count(spec(kind, shape, unit)) == planes


@given(hu=st.integers(-1500, 1500))
@settings(max_examples=25, deadline=None)
def test_a_window_maps_its_edges_to_zero_and_one(hu):
    patch = np.full((1, 3, 32, 32), hu, dtype=np.int16)
    lung = float(to_images(patch, spec("2.5d", (3, 32, 32), **PLAIN))[0, 0, 0, 0, 0])
    low = LUNG_WINDOW.center_hu - LUNG_WINDOW.width_hu / 2
    assert lung == pytest.approx(np.clip((hu - low) / LUNG_WINDOW.width_hu, 0, 1), abs=1e-6)


def test_a_volume_gives_its_three_central_planes():
    volume = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 32)).astype(np.uint8)
    images = to_images(volume, spec("3d", (32, 32, 32), "grey", **PLAIN))[0, :, 0].numpy() * 255
    for plane, expected in zip(images, (volume[0, 16], volume[0, :, 16], volume[0, :, :, 16]), strict=True):
        np.testing.assert_allclose(plane, expected, atol=1e-3)


def test_shrinking_filters_before_it_samples():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (1, 1, 64, 32))
    images = to_images(stripes, spec("2d", (1, 64, 64), "grey", **PLAIN))
    assert float(images[..., 4:-4, 4:-4].std()) < 0.05


@pytest.mark.parametrize("shape", [(2, 32, 32), (3, 3, 32, 32)])
def test_a_shape_that_no_kind_has_is_refused(shape):
    with pytest.raises(UsageError, match="cannot become images"):
        plane_count(spec("2d", shape, "grey"))


def test_patches_of_another_shape_than_the_networks_are_refused():
    with pytest.raises(UsageError, match="expects"):
        to_images(np.zeros((1, 3, 30, 30), dtype=np.int16), spec("2.5d", (3, 32, 32)))


def test_on_a_common_grid_the_same_nodule_covers_the_same_pixels():
    y, x = np.mgrid[:64, :64] - 31.5
    crops = np.stack([np.where(np.hypot(y, x) * mm < 8.0, 200, 10) for mm in (0.5, 0.8)]).astype(np.uint8)[:, None]
    made = to_common_spacing(crops, np.array([0.5, 0.8]), 0.6)
    areas_mm2 = (made[:, 0] > 105).sum(axis=(1, 2)) * 0.6**2
    np.testing.assert_allclose(areas_mm2, np.pi * 8.0**2, rtol=0.03)
    assert made.dtype == np.uint8


def test_a_crop_of_unknown_spacing_is_left_as_it_is():
    crops = np.random.default_rng(0).integers(0, 255, (2, 1, 16, 16)).astype(np.uint8)
    np.testing.assert_array_equal(to_common_spacing(crops, np.array([np.nan, np.nan]), 0.6), crops)


def test_an_augmented_patch_does_not_depend_on_the_batch_it_travels_in():
    images = torch.randn(6, 3, 3, 16, 16)
    draws = draw_variant(6, 3, seed=4, variant=2)
    whole = augment(images, draws)
    part = torch.tensor([4, 1])
    torch.testing.assert_close(augment(images[part], draws.rows(part)), whole[part])


def test_variants_differ_and_repeat_with_their_seed():
    one, same, other = (draw_variant(5, 1, seed=0, variant=variant) for variant in (1, 1, 2))
    torch.testing.assert_close(one.warp, same.warp, rtol=0, atol=0)
    assert not torch.equal(one.warp, other.warp)


def test_the_orbit_holds_eight_different_views_and_starts_with_the_image():
    image = torch.arange(9.0).reshape(1, 3, 3)
    views = orbit(image, 8)
    assert torch.equal(views[0], image)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
