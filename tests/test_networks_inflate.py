"""A two-dimensional backbone becomes a three-dimensional one that still sees what it saw."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from data_contracts.records import sha256_file
from flows.datasets.backbone import initial_backbone
from models.networks.backbones import build_backbone, state_digest
from models.networks.inflate import AcsConv, InflatedConv, as_volumetric, inflated
from models.weights.zoo import calibrate_batchnorm, load_weights

FAMILIES = (
    "resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "small_cnn",
    pytest.param("convnext_tiny", marks=pytest.mark.slow),
)  # fmt: skip


def calibrated(name: str):
    backbone = build_backbone(name, seed=0)
    calibrate_batchnorm(backbone, torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return backbone


@pytest.mark.parametrize("name", FAMILIES)
def test_a_volume_that_is_constant_along_its_depth_gives_the_features_of_its_plane(name):
    backbone = calibrated(name)
    planes = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = backbone(planes)
        found = inflated(backbone, "i3d")(planes[:, :, None].expand(-1, -1, 32, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["i3d", "acs"])
def test_the_names_and_numbers_of_the_tensors_stay(kind):
    backbone = calibrated("resnet18")
    made = inflated(backbone, kind)
    assert list(made.state_dict()) == list(backbone.state_dict())
    one, other = (
        sum(parameter.numel() for parameter in network.parameters() if parameter.ndim < 4)
        for network in (backbone, made)
    )
    assert one == other
    if kind == "acs":
        assert state_digest(made) == state_digest(backbone)


@pytest.mark.parametrize("kind", ["i3d", "acs"])
def test_a_copy_is_inflated_and_the_weights_come_from_the_file_of_the_plane_network(kind, tmp_path):
    trained = calibrated("resnet18")
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    backbone = build_backbone("resnet18", seed=3)
    load_weights(backbone, tmp_path / "w.pt")
    before = state_digest(backbone)
    made = as_volumetric(backbone, kind)
    assert state_digest(backbone) == before == state_digest(trained) and backbone.axes == 2 and made.axes == 3
    kernel = made.stages[0][0].weight
    total = kernel.sum(dim=2) if kind == "i3d" else kernel
    torch.testing.assert_close(total, trained.stages[0][0].weight)


def test_what_is_recorded_is_the_digest_of_the_plane_networks_file(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(calibrated("resnet18").state_dict(), path)
    spec = InputSpec(
        kind="3d", patch_shape=(8, 8, 8), value_unit="HU", spacing_mm=1.0, input_size_px=32, volumetric="i3d"
    )
    sample = np.zeros((2, 8, 8, 8), dtype=np.int16)
    backbone, info = initial_backbone("resnet18", str(path), "", 0, sample, spec)
    assert backbone.axes == 3 and info.sha256 == sha256_file(path)


@pytest.mark.parametrize("groups", [1, 6])
def test_each_third_of_an_acs_convolution_is_the_plane_convolution_of_one_view(groups):
    plain = nn.Conv2d(6, 9 if groups == 1 else 12, 3, stride=2, padding=1, groups=groups)
    volumes = torch.randn(2, 6, 8, 10, 12)
    with torch.no_grad():
        found = AcsConv(plain)(volumes)
        assert found.shape == (2, plain.out_channels, 4, 5, 6)
        third = plain.out_channels // 3
        for number, axis in enumerate((2, 3, 4)):  # across the depth, the rows, the columns
            step = plain.stride[0]
            seen = [plain(volumes.select(axis, place)) for place in range(0, volumes.shape[axis], step)]
            expected = torch.stack(seen, dim=axis)[:, number * third : (number + 1) * third]
            torch.testing.assert_close(found[:, number * third : (number + 1) * third], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "axial", "coronal"), [(7, 3, 2), (8, 3, 3), (9, 3, 3), (2, 1, 1), (1, 1, 0)])
def test_the_channels_are_shared_out_as_the_authors_do_it(channels, axial, coronal):
    plain = nn.Conv2d(2, channels, 3, padding=1, bias=False)
    volumes = torch.randn(1, 2, 5, 6, 7)
    with torch.no_grad():
        found = AcsConv(plain)(volumes)
        seen = [torch.stack([plain(plane) for plane in volumes.unbind(axis)], dim=axis) for axis in (2, 3, 4)]
    bounds = (0, axial, axial + coronal, channels)
    for view, (start, stop) in zip(seen, pairwise(bounds), strict=True):
        torch.testing.assert_close(found[:, start:stop], view[:, start:stop], rtol=1e-4, atol=1e-5)


def test_an_inflated_kernel_is_the_plane_kernel_over_its_depth():
    plain = nn.Conv2d(2, 3, 5, padding=2)
    made = InflatedConv(plain)
    assert made.weight.shape == (3, 2, 5, 5, 5)
    for depth in range(5):
        torch.testing.assert_close(made.weight[:, :, depth], plain.weight / 5)
    volumes = torch.randn(1, 2, 7, 9, 9)
    edges = functional.pad(volumes, (0, 0, 0, 0, 2, 2), mode="replicate")
    expected = functional.conv3d(edges, made.weight, plain.bias, padding=(0, 2, 2))
    torch.testing.assert_close(made(volumes), expected)


@pytest.mark.parametrize("kind", ["i3d", "acs"])
def test_gradients_reach_every_weight(kind):
    made = inflated(build_backbone("mobilenet_v2", seed=0), kind).train()
    made(torch.randn(2, 3, 32, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in made.parameters())


def test_a_network_without_three_views_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"no three views.*volumetric=i3d") as refusal:
        inflated(build_backbone("convnext_tiny", seed=0), "acs")
    assert "\n" not in refusal.value.line()


def test_planes_stay_as_they_are_and_a_plane_network_takes_no_volume_by_itself():
    backbone = build_backbone("small_cnn", seed=0)
    assert as_volumetric(backbone, "planes") is backbone
    with pytest.raises(UsageError, match="small_cnn takes planes"):
        as_volumetric(backbone, "native")
