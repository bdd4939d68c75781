"""BatchNorm statistics of a target site are those of all its images, exactly, wherever the layer stands."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, fresh_backbone, narrow_data, params, weights_of
from torch import nn

from data_contracts.errors import UsageError
from models.adaptation.statistics import adapt_batchnorm, adapt_to_patches, batchnorms, held_statistics
from models.fitting.fit import fit_classifier
from models.networks.inputs import as_batch, to_images
from models.networks.network import NetworkPlan, build_network


def network() -> nn.Sequential:
    """Three BatchNorm layers and a dropout that must stay off."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 1)]
    return nn.Sequential(*first, *last).eval()


def of_one_batch(images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of what each layer sees where torch itself normalises all images at once, in training mode."""
    learned = network()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        seen.append((inputs[0].mean(axes), inputs[0].var(axes, correction=0)))

    for layer in batchnorms(learned):
        layer.train()
        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        learned(images)
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_unequal_batches_give_the_statistics_of_one_batch_of_everything(seed):
    images = torch.randn(50, 1, 9, 9, generator=torch.Generator().manual_seed(seed)) * 3 + 2
    adapted = network()
    assert adapt_batchnorm(adapted, lambda: images.split([21, 20, 9]), passes=3) == 3
    for layer, (mean, variance) in zip(batchnorms(adapted), of_one_batch(images), strict=True):
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=1e-6)


def test_two_passes_bring_deep_layers_close_and_the_first_two_exact():
    images = torch.randn(64, 1, 9, 9) + 1
    adapted = network()
    adapt_batchnorm(adapted, lambda: images.split(16))
    exact = of_one_batch(images)
    for layer, (mean, variance) in zip(batchnorms(adapted)[:2], exact, strict=False):
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=1e-6)
    last = batchnorms(adapted)[2]
    assert float(((last.running_mean - exact[2][0]).abs() / exact[2][1].sqrt()).max()) < 0.05


def test_nothing_but_the_statistics_changes_and_twice_is_the_same():
    images = torch.randn(30, 1, 9, 9)
    adapted = network().train()
    adapted[0].eval()
    before = copy.deepcopy(adapted.state_dict())
    modes = [module.training for module in adapted.modules()]
    generator = torch.random.get_rng_state()
    adapt_batchnorm(adapted, lambda: images.split(10))
    after = copy.deepcopy(adapted.state_dict())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"{layer}.running_{kind}" for layer in (1, 4, 9) for kind in ("mean", "var")}
    assert [module.training for module in adapted.modules()] == modes
    assert [layer.momentum for layer in batchnorms(adapted)] == [0.1, 0.1, None]
    assert torch.equal(torch.random.get_rng_state(), generator)
    adapt_batchnorm(adapted, lambda: images.split(10))
    assert all(torch.equal(value, after[name]) for name, value in adapted.state_dict().items())


def test_a_network_without_batchnorm_is_left_alone():
    assert adapt_batchnorm(nn.Linear(2, 1), lambda: iter(())) == 0


def test_no_image_is_refused():
    with pytest.raises(UsageError, match="more than one value a channel"):
        adapt_batchnorm(network(), lambda: iter(()))


def test_held_statistics_do_not_move_and_learn_again_afterwards():
    layer = nn.BatchNorm1d(3)
    with held_statistics(layer):
        layer(torch.randn(8, 3) + 5)
    assert layer.running_mean.tolist() == [0, 0, 0] and layer.momentum == 0.1
    layer(torch.randn(8, 3) + 5)
    assert float(layer.running_mean.min()) > 0.3


def test_adabn_ends_with_what_source_only_learned_and_the_targets_statistics_in_every_layer():
    data = narrow_data()
    chosen = params(unfreeze=1, epochs=2)
    source_only = weights_of(fit_classifier(data, chosen, SPEC, fresh_backbone(data)))
    adapted = fit_classifier(data, params(unfreeze=1, epochs=2, adaptation="adabn"), SPEC, fresh_backbone(data))
    moved = {name for name, value in weights_of(adapted).items() if not torch.equal(value, source_only[name])}
    assert moved == {name for name in source_only if name.endswith(("running_mean", "running_var"))}
    seen: list[torch.Tensor] = []
    first = adapted.network.backbone.stages[0]
    with torch.no_grad():
        seen.append(first[0](as_batch(to_images(data.target, SPEC))))
    torch.testing.assert_close(first[1].running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_frozen_prefix_is_adapted_too_and_a_single_patch_at_the_end_does_no_harm():
    data = narrow_data()
    many = np.concatenate([data.target] * 4)[:97]
    built = build_network(fresh_backbone(data), NetworkPlan("linear"), seed=0)
    before = [layer.running_mean.clone() for layer in batchnorms(built)]
    assert adapt_to_patches(built, many, SPEC) == 5
    assert all(not torch.equal(layer.running_mean, mean) for layer, mean in zip(batchnorms(built), before, strict=True))
