"""MedicalNet's networks are MONAI's, their weights come from a local file of plain tensors or not at all."""

from __future__ import annotations

import socket

import pytest
import torch

from data_contracts.errors import UsageError, WeightsError
from data_contracts.records import sha256_file
from models.networks.backbones import build_backbone
from models.networks.inflate import as_volumetric
from models.weights.zoo import load_weights


def published(path, depth: int = 10, **changes):
    """A network of MONAI, and a file of its weights as MedicalNet's authors write theirs."""
    from monai.networks.nets import resnet

    bias, shortcut = (False, "A") if depth in (18, 34) else (False, "B")
    torch.manual_seed(depth)
    net = getattr(resnet, f"resnet{depth}")(
        spatial_dims=3, n_input_channels=1, feed_forward=False, conv1_t_stride=2, shortcut_type=shortcut,
        bias_downsample=bias,
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    state = {f"module.{name}": value for name, value in net.state_dict().items() if "num_batches" not in name}
    state["module.conv_seg.0.weight"] = torch.zeros(3, 3)
    whole = {"epoch": 100, "state_dict": {**state, **changes}}
    torch.save(whole, path, _use_new_zipfile_serialization=False)
    return net.eval()


@pytest.mark.parametrize("depth", [10, 18])
def test_a_file_of_medicalnet_gives_what_monai_gives(depth, tmp_path):
    reference = published(tmp_path / "resnet.pth", depth)
    backbone = build_backbone(f"medicalnet_resnet{depth}", seed=0)
    info = load_weights(backbone, tmp_path / "resnet.pth")
    assert (info.pretrained, info.sha256) == (True, sha256_file(tmp_path / "resnet.pth"))
    volumes = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(volumes), reference(volumes), rtol=1e-4, atol=1e-5)
    assert [len(stage) for stage in backbone.stages] == [4, 1, 1, 1, 1]
    assert backbone.n_features == 512 and backbone.axes == 3 and backbone.channels == 1


@pytest.mark.slow
@pytest.mark.parametrize("depth", [34, 50])
def test_the_deep_ones_load_as_well(depth, tmp_path):
    reference = published(tmp_path / "resnet.pth", depth)
    backbone = build_backbone(f"medicalnet_resnet{depth}", seed=0)
    load_weights(backbone, tmp_path / "resnet.pth")
    volumes = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(volumes), reference(volumes), rtol=1e-4, atol=1e-5)


def test_gradients_go_through_the_shortcut_without_weights():
    backbone = build_backbone("medicalnet_resnet18", seed=0)
    for block in backbone.stages[2][0]:  # nothing but the shortcuts is left
        block.bn2.weight.data.zero_()
    backbone(torch.randn(1, 1, 32, 32, 32)).sum().backward()
    assert float(backbone.stages[0][0].weight.grad.abs().sum()) > 0


def test_nothing_is_downloaded_and_the_refusal_says_where_the_file_is(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(WeightsError, match=r"never downloaded.*resnet_50_23dataset\.pth.*--weights FILE") as refusal:
        load_weights(build_backbone("medicalnet_resnet50", seed=0), "auto")
    assert "\n" not in refusal.value.line()


def test_weights_of_another_depth_are_refused(tmp_path):
    published(tmp_path / "resnet.pth", 10)
    with pytest.raises(WeightsError, match="do not belong to medicalnet_resnet18"):
        load_weights(build_backbone("medicalnet_resnet18", seed=0), tmp_path / "resnet.pth")


def test_a_file_with_code_in_it_is_refused(tmp_path):
    torch.save({"state_dict": build_backbone("medicalnet_resnet10", seed=0)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        load_weights(build_backbone("medicalnet_resnet10", seed=0), tmp_path / "resnet.pth")


def test_it_takes_volumes_only_and_is_not_inflated():
    backbone = build_backbone("medicalnet_resnet10", seed=0)
    assert as_volumetric(backbone, "native") is backbone
    for volumetric in ("planes", "i3d", "acs"):
        with pytest.raises(UsageError, match="takes volumes as they are"):
            as_volumetric(backbone, volumetric)
