"""Backbones are lists of stages; their weights are theirs or refused, never something else in silence."""

from __future__ import annotations

import socket
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from data_contracts.errors import UsageError, WeightsDigestError, WeightsError
from data_contracts.records import sha256_file
from models.networks.backbones import build_backbone, pool
from models.weights import download as weights_download
from models.weights.zoo import calibrate_batchnorm, load_weights

#: one a family, the biggest of which take seconds to draw
_COMPARED = (
    "densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet34",
    "resnet50", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_tiny", "efficientnet_v2_s")),
)  # fmt: skip


@pytest.mark.parametrize("name", _COMPARED)
def test_a_backbone_gives_what_torchvision_gives(name, tmp_path):
    from torchvision import models

    torch.manual_seed(3)
    reference = models.get_model(name, weights=None).eval()
    path = tmp_path / "whole.pt"
    torch.save(reference.state_dict(), path)
    backbone = build_backbone(name, seed=0)
    info = load_weights(backbone, path)
    assert (info.source, info.sha256, info.pretrained) == ("whole.pt", sha256_file(path), True)
    images = torch.randn(2, 3, 64, 64)
    head = "fc" if hasattr(reference, "fc") else "classifier"
    setattr(reference, head, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images).flatten(1), rtol=1e-3, atol=1e-4)
    assert backbone(images).shape == (2, backbone.n_features)


@pytest.mark.parametrize("unfreeze", [0, 2, 7])
def test_prefix_and_suffix_together_are_the_backbone(unfreeze):
    backbone = build_backbone("mobilenet_v2", seed=0)
    prefix, suffix = backbone.split(unfreeze)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(pool(suffix(prefix(images))), backbone(images))
    assert len(suffix) == unfreeze


def test_more_stages_than_there_are_cannot_be_unfrozen():
    with pytest.raises(UsageError, match="resnet18 has 5 stages"):
        build_backbone("resnet18", seed=0).split(6)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    one, same, other = (build_backbone("resnet18", seed=seed).stages[0][0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_unknown_backbone_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"Known: convnext_tiny, .*medicalnet_resnet10, .*small_cnn") as no:
        build_backbone("vgg15", seed=0)
    assert "\n" not in no.value.line()


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t"])
def test_a_network_without_a_convolutional_body_is_refused(name):
    with pytest.raises(UsageError, match="no convolutional body"):
        build_backbone(name, seed=0)


def test_a_stage_begins_where_the_resolution_falls_and_has_tensors_to_learn():
    for name in ("densenet121", "mobilenet_v3_small", "squeezenet1_1", "small_cnn"):
        backbone = build_backbone(name, seed=0)
        maps, sizes = torch.zeros(1, 3, 64, 64), [64]
        with torch.no_grad():
            for stage in backbone.stages:
                assert list(stage.parameters())
                maps = stage(maps)
                sizes.append(maps.shape[-1])
        assert sorted(set(sizes), reverse=True) == sizes[sizes[0] == sizes[1] :], name


def test_a_small_network_is_built_from_nothing_and_says_that_nobody_publishes_its_weights():
    backbone = build_backbone("small_cnn", seed=0)
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 500_000
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, backbone.n_features)
    with pytest.raises(WeightsError, match=r"nobody publishes weights of small_cnn.*weights=none"):
        load_weights(backbone, "auto")


def test_none_leaves_random_weights_and_says_so():
    backbone = build_backbone("resnet18", seed=0)
    before = backbone.stages[0][0].weight.clone()
    info = load_weights(backbone, "none")
    assert (info.source, info.pretrained) == ("none", False)
    assert torch.equal(before, backbone.stages[0][0].weight)


def test_the_given_mobilenet_features_load_by_their_order_too(shared_data, tmp_path):
    path = shared_data / "weights" / "mobilenet_v2_imagenet_features.pt"
    named, listed = build_backbone("mobilenet_v2", seed=0), build_backbone("mobilenet_v2", seed=1)
    load_weights(named, path)
    ordered = tmp_path / "ordered.pt"
    torch.save(list(torch.load(path, weights_only=True).values()), ordered)
    load_weights(listed, ordered)
    for one, other in zip(named.state_dict().values(), listed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_safetensors_of_our_own_names_load(tmp_path):
    trained = build_backbone("resnet18", seed=5)
    save_file({name: value.contiguous() for name, value in trained.state_dict().items()}, tmp_path / "w.safetensors")
    backbone = build_backbone("resnet18", seed=0)
    load_weights(backbone, tmp_path / "w.safetensors")
    assert torch.equal(backbone.stages[4][0][1].conv2.weight, trained.stages[4][0][1].conv2.weight)


def test_another_digest_is_refused_before_anything_is_loaded(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(build_backbone("resnet18", seed=5).state_dict(), path)
    backbone = build_backbone("resnet18", seed=0)
    before = backbone.stages[0][0].weight.clone()
    with pytest.raises(WeightsDigestError, match="sha256"):
        load_weights(backbone, path, "0" * 64)
    assert torch.equal(before, backbone.stages[0][0].weight)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(build_backbone("resnet18", seed=0).state_dict(), path)
    with pytest.raises(WeightsError, match="do not belong to resnet34"):
        load_weights(build_backbone("resnet34", seed=0), path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = build_backbone("resnet18", seed=0).state_dict()
    state["stages.0.0.weight"][0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not finite"):
        load_weights(build_backbone("resnet18", seed=0), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"no tensors", b"cos\nsystem\n(S'true'\ntR."])
def test_a_file_that_is_no_state_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        load_weights(build_backbone("resnet18", seed=0), tmp_path / "w.pt")


def test_without_cache_and_network_auto_stops_soon_with_the_three_ways(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    backbone = build_backbone("resnet18", seed=0)
    started = time.monotonic()
    with pytest.raises(WeightsError) as refusal:
        load_weights(backbone, "auto")
    assert time.monotonic() - started < weights_download.CONNECT_TIMEOUT_S + 1
    for way in ("internet", "--weights FILE", "--set weights=none"):
        assert way in refusal.value.line()


def test_a_name_server_that_never_answers_does_not_hold_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights_download, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(3))
    with pytest.raises(WeightsError, match="TimeoutError"):
        load_weights(build_backbone("resnet18", seed=0), "auto")


def test_calibrated_statistics_keep_a_random_network_from_dying_out():
    backbone = build_backbone("resnet18", seed=0)
    images = torch.randn(16, 3, 64, 64) * 0.1 + 2
    calibrate_batchnorm(backbone, images)
    layer = backbone.stages[0][1]
    with torch.no_grad():
        after = layer(backbone.stages[0][0](images))
    assert float(after.mean()) == pytest.approx(0, abs=0.01)
    assert float(after.std()) == pytest.approx(1, abs=0.05)
    assert layer.momentum == 0.1


def test_a_cached_file_that_is_another_than_its_name_says_is_never_taken_for_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(build_backbone("resnet18", seed=0).state_dict(), tmp_path / "hub/checkpoints/resnet18-f37072fd.pth")
    with pytest.raises(WeightsDigestError, match="another digest than their name says"):
        weights_download.torchvision_file("resnet18")


def test_weights_of_a_deeper_network_of_the_family_are_not_taken_for_a_shallower_one(tmp_path):
    from torchvision import models

    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(WeightsError, match="do not belong to resnet18"):
        load_weights(build_backbone("resnet18", seed=0), tmp_path / "deeper.pth")
