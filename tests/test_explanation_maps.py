"""Maps show what the network uses: off the centre, in planes and in volumes, by Grad-CAM and by occlusion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from models.explanation.faithfulness import deletion_insertion
from models.explanation.maps import grad_cam, grad_cam_stage, occlusion, saliency_maps, to_patch_grid
from models.explanation.randomised import cascade
from models.networks.backbones import Backbone
from models.networks.network import NetworkPlan, NoduleNetwork, build_network
from pipeline.scoring.explanation import (
    energy_in_mask,
    faithfulness,
    localisation,
    pointing_game,
    skill,
    verdict,
    weight_randomisation,
)
from pipeline.scoring.off_centre import displaced, displacements, nodule_masks

SIDE = 32
#: volumes are smaller, so that a fit takes a moment
VOLUME_SIDE = 16


def narrow(dims: int, widths: tuple[int, ...] = (1, 8, 8, 12)) -> Backbone:
    """Three stages that halve the side twice, so that the last has 8 cells a side of 32."""
    convolution = nn.Conv3d if dims == 3 else nn.Conv2d
    norm = nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d
    stages = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 1 if number == len(widths) - 2 else 2
        layer = convolution(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        stages.append([("conv", layer), ("bn", norm(outputs)), ("relu", nn.ReLU())])
    return Backbone("narrow", stages, widths[-1], axes=dims, channels=1)


def discs(n: int, planes: int, dims: int, seed: int) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Noise (n, planes, 1, *plane), a bright disc or ball in every second one, anywhere; its masks and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    side = SIDE if dims == 2 else VOLUME_SIDE
    shape = (planes, *[side] * dims)
    moves = displacements(n, dims, side, 0.25, seed=seed)
    masks = nodule_masks(shape, np.full(n, side / 6), moves)
    images = rng.normal(0, 0.5, (n, *shape)) + 2.0 * masks * labels.reshape(-1, *[1] * len(shape))
    return torch.from_numpy(images.astype(np.float32))[:, :, None], masks, torch.from_numpy(labels.astype(np.float32))


def trained(planes: int, dims: int) -> NoduleNetwork:
    """A network that tells patches with a disc from those without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(narrow(dims), NetworkPlan("linear"), seed=0)
        images, _, labels = discs(48, planes, dims, seed=1)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        network.train()
        for _ in range(12):
            for index in torch.randperm(len(labels)).split(12):
                optimizer.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(network(images[index]), labels[index])
                loss.backward()
                optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def by_planes() -> NoduleNetwork:
    return trained(3, 2)


@pytest.fixture(scope="module")
def by_volume() -> NoduleNetwork:
    return trained(1, 3)


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_a_network_that_sees_bright_discs_has_its_maps_in_the_disc_in_every_plane(by_planes, method):
    images, masks, labels = discs(8, 3, 2, seed=2)
    shown = labels.numpy() == 1
    maps = saliency_maps(by_planes, images, method)
    assert maps.shape == (8, 3, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() == pytest.approx(1)
    share = masks.reshape(8, -1).mean(axis=1)
    assert (energy_in_mask(maps, masks) > 2 * share)[shown].all()
    assert pointing_game(maps, masks)[shown].mean() > 0.7


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_a_volume_has_a_map_of_three_dimensions(by_volume, method):
    images, masks, labels = discs(2, 1, 3, seed=3)
    maps = saliency_maps(by_volume, images[labels == 1], method)
    assert maps.shape == (1, 1, VOLUME_SIDE, VOLUME_SIDE, VOLUME_SIDE)
    held = masks[labels.numpy() == 1]
    assert energy_in_mask(maps, held)[0] > 4 * held.mean()
    spec = InputSpec(
        kind="3d", patch_shape=(24, 40, 40), value_unit="HU", spacing_mm=1.0, input_size_px=32, volumetric="i3d"
    )
    assert to_patch_grid(maps, spec).shape == (1, 24, 40, 40)


def sanity_of(network: NoduleNetwork):
    """The tests that need no second training, on discs off the centre; half of the patches show none."""
    images, masks, labels = discs(32, 1, 2, seed=11)
    shown = labels.numpy() == 1
    patients = np.array([f"patient{number // 2}" for number in range(16)], dtype=object)
    images, masks, all_images = images[shown], masks[shown], images
    with torch.no_grad():
        logits = network(all_images).double().numpy()
    maps = grad_cam(network, images, stage=2)
    own, other = (deletion_insertion(network, images, order) for order in (maps, np.roll(maps, 1, axis=0)))
    randomised = {name: grad_cam(copy, images, stage=2) for name, copy in cascade(network, images, seed=0)}
    return [
        skill(labels.numpy().astype(int), logits),
        localisation(maps, masks, patients, dims=2),
        faithfulness(own, other, patients),
        weight_randomisation(maps, randomised, patients, dims=2),
    ]


def test_maps_of_a_network_that_sees_bright_discs_are_localised_and_faithful(by_planes):
    found = sanity_of(by_planes)
    # Not weight randomisation: random filters, too, answer to the brightest thing in a picture of one bright thing.
    assert verdict(found[:3])[0], found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_network_of_random_weights_is_refused(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = narrow(2)
    found = sanity_of(build_network(backbone, NetworkPlan("linear"), seed=seed))
    reliable, reason = verdict(found)
    assert not reliable, found
    assert reason.startswith("failed: ")


def test_the_other_planes_show_nothing_where_one_plane_holds_the_disc(by_planes):
    images, masks, _ = discs(2, 3, 2, seed=4)
    one = images[1:].clone()
    one[:, :2] = images[:1, :2]
    maps = occlusion(by_planes, one)[0]
    assert maps[2].sum() > 4 * maps[:2].sum()
    assert energy_in_mask(maps[None, 2:], masks[1:, 2:])[0] > 0.3


def test_maps_leave_the_network_as_it_was_without_hooks_or_gradients(by_planes):
    images = discs(2, 3, 2, seed=5)[0]
    before = {name: value.clone() for name, value in by_planes.state_dict().items()}
    grad_cam(by_planes, images)
    occlusion(by_planes, images[:1])
    list(cascade(by_planes, images, seed=0))
    assert all(torch.equal(before[name], value) for name, value in by_planes.state_dict().items())
    assert all(not module._forward_hooks and not module._backward_hooks for module in by_planes.modules())


def test_frozen_weights_have_the_same_map_as_free_ones(by_planes):
    images = discs(4, 3, 2, seed=6)[0]
    free = grad_cam(by_planes, images)
    by_planes.requires_grad_(False)
    try:
        assert np.array_equal(grad_cam(by_planes, images), free)
    finally:
        by_planes.requires_grad_(True)


def test_a_map_of_a_patch_does_not_depend_on_the_patches_beside_it(by_planes):
    images = discs(4, 3, 2, seed=7)[0]
    together = grad_cam(by_planes, images)
    alone = np.concatenate([grad_cam(by_planes, image[None]) for image in images])
    assert np.allclose(together, alone, atol=1e-5)


def test_the_stage_is_the_deepest_one_that_is_not_too_coarse(by_planes):
    images = discs(1, 3, 2, seed=8)[0]
    assert grad_cam_stage(by_planes, images) == 2
    assert grad_cam_stage(by_planes, images[..., :16, :16]) == 0


def test_the_cascade_starts_at_the_head_and_ends_with_nothing_learned_left(by_planes):
    images = discs(32, 3, 2, seed=9)[0]
    steps = dict(cascade(by_planes, images, seed=3))
    assert list(steps) == ["head", "stage 2", "stage 1", "stage 0"]
    for name, value in by_planes.backbone.stages[0].state_dict().items():
        assert torch.equal(value, steps["stage 1"].backbone.stages[0].state_dict()[name])
    kernel, shuffled = by_planes.backbone.stages[0][0].weight, steps["stage 0"].backbone.stages[0][0].weight
    assert not torch.equal(kernel, shuffled)
    assert torch.equal(kernel.flatten().sort().values, shuffled.flatten().sort().values)
    with torch.no_grad():
        assert steps["stage 0"](images).isfinite().all()
    assert torch.equal(dict(cascade(by_planes, images, seed=3))["stage 0"](images), steps["stage 0"](images))


def test_deletion_and_insertion_are_ahead_in_the_order_of_the_mask(by_planes):
    images, masks, labels = discs(8, 3, 2, seed=10)
    images, masks = images[labels == 1], masks[labels.numpy() == 1]
    deleted, inserted = deletion_insertion(by_planes, images, masks.astype(np.float32))
    elsewhere = masks[..., ::-1, ::-1].astype(np.float32)
    other_deleted, other_inserted = deletion_insertion(by_planes, images, elsewhere)
    assert (deleted < other_deleted).all()
    assert (inserted > other_inserted).all()


def test_planes_come_back_on_the_grid_of_their_patches():
    maps = np.zeros((2, 3, 32, 32), dtype=np.float32)
    maps[:, 1, 24, 8] = 1
    spec = InputSpec(kind="2.5d", patch_shape=(3, 64, 64), value_unit="HU", spacing_mm=1.0, input_size_px=32)
    on_grid = to_patch_grid(maps, spec)
    assert on_grid.shape == (2, 3, 64, 64)
    _, plane, row, column = np.unravel_index(on_grid.argmax(), on_grid.shape)
    assert plane == 1
    assert abs(row - 48.5) <= 1
    assert abs(column - 16.5) <= 1
    slab = spec.model_copy(update={"kind": "3d", "patch_shape": (20, 64, 64)})
    with pytest.raises(UsageError, match="no common grid"):
        to_patch_grid(maps, slab)


def test_a_nodule_that_is_moved_lies_where_its_mask_says():
    patches = np.zeros((6, 2, SIDE, SIDE), dtype=np.uint8)
    still = nodule_masks((2, SIDE, SIDE), np.full(6, 3.0), np.zeros((6, 2), dtype=np.int64))
    patches[still] = 200
    moves = displacements(6, 2, SIDE, 0.25, seed=1)
    assert np.allclose(np.hypot(*moves.T), SIDE / 4, atol=1)
    moved = displaced(patches, moves)
    masks = nodule_masks((2, SIDE, SIDE), np.full(6, 3.0), moves)
    assert moved.dtype == np.uint8
    assert np.array_equal(moved == 200, masks)
    assert not masks[:, :, SIDE // 2, SIDE // 2].any()
