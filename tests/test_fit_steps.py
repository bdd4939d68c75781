"""A step is what it says: batches joined exactly, nothing but finite numbers, the same operations every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, blobs, fresh_backbone, narrow_data, params, weights_of
from torch import nn

from data_contracts.errors import NoduleflowError, UsageError
from models.adaptation.base import Adaptation
from models.fitting import learner as learner_module
from models.fitting.batches import Batches
from models.fitting.data import FitData
from models.fitting.fit import fit_classifier
from models.fitting.learner import Learner
from models.fitting.losses import batch_losses
from models.networks.network import NetworkPlan, build_network


def uneven_data() -> FitData:
    """49 patches, one more than whole batches of 8; weights of 0.1 to 3, two concepts half of which are unknown."""
    random = np.random.default_rng(3)
    train = blobs(49, 0)
    auxiliary = random.uniform(0, 1, (49, 2))
    auxiliary[random.uniform(size=(49, 2)) < 0.5] = np.nan
    from_target = random.uniform(size=49) < 0.3
    weights = random.uniform(0.1, 3, 49)
    return FitData(
        replace(train, auxiliary=auxiliary, from_target=from_target, weights=weights),
        blobs(20, 1),
        concepts=("spiculation", "margin"),
    )


@pytest.mark.parametrize("unfreeze", [1, 5])
def test_joined_batches_make_the_same_steps_as_one_large_batch(unfreeze: int) -> None:
    """Frozen BatchNorm, no dropout; class balance, uneven weights, masked concepts, two sites: all pooled exactly."""
    shared = {
        "unfreeze": unfreeze,
        "optimizer": "sgd",
        "dropout": 0.0,
        "epochs": 2,
        "auxiliary_weight": 0.5,
        "auxiliary_weights": {"margin": 3.0},
        "target_label_weight": 0.7,
        "lr_head": 1e-2,
        "lr_backbone": 1e-2,
    }
    data = uneven_data()
    large = fit_classifier(data, params(**shared, batch_size=32), SPEC, fresh_backbone(data))
    small = fit_classifier(data, params(**shared, batch_size=8, accumulate=4), SPEC, fresh_backbone(data))
    start = fresh_backbone(data).state_dict()
    for name, value in weights_of(large).items():
        assert torch.allclose(weights_of(small)[name], value, rtol=0, atol=1e-6), name
    moved = [float((weights_of(large)[f"backbone.{name}"] - value).abs().max()) for name, value in start.items()]
    assert max(moved) > 1e-4
    assert [record.train_loss for record in small.history] == pytest.approx([r.train_loss for r in large.history])


def test_labels_of_the_target_count_with_beta_that_rises_from_zero() -> None:
    data = uneven_data()
    used = params(unfreeze=0, dropout=0.0, target_label_weight=0.7, batch_size=49)
    network = build_network(fresh_backbone(data), NetworkPlan("mlp", "mean", (), 0.0), seed=0)
    learner = Learner(network, used, n_planes=1, n_patches=49).eval()
    batches = Batches(data, data.train, SPEC, network.backbone.split(0)[0], used)
    (step,) = batches.of_epoch(0)
    (batch,) = step.batches
    loss = nn.functional.binary_cross_entropy_with_logits(
        learner.head(learner.features(batch.inputs)), batch.targets, reduction="none"
    )
    at_source, at_target = (
        float((loss * batch.weights)[rows].sum() / batch.weights[rows].sum())
        for rows in (~batch.from_target, batch.from_target)
    )
    for progress in (0.0, 0.1, 1.0):
        beta = 0.7 * (2 / (1 + np.exp(-used.adaptation_gamma * progress)) - 1)
        found = batch_losses(learner, batch, used, progress).classification
        assert found == pytest.approx(at_source + beta * at_target, rel=1e-5)


def test_a_target_patch_that_is_not_a_number_stops_the_fit_and_names_the_adaptation() -> None:
    data = narrow_data()
    target = np.asarray(data.target, dtype=np.float32)
    target[:, 0, 5, 5] = np.nan
    with pytest.raises(NoduleflowError, match="not finite: epoch 0, batch 0, adaptation loss"):
        fit_classifier(replace(data, target=target), params(adaptation="dann"), SPEC, fresh_backbone(data))


class RootOfNothing(Adaptation):
    """A loss of 0 whose gradient is not a number."""

    def forward(self, source, target, source_targets, progress):
        return torch.sqrt(0 * source.representation.square().sum()), {}


def test_a_gradient_that_is_not_finite_stops_the_fit_before_it_can_spoil_a_weight(monkeypatch) -> None:
    data = narrow_data()
    monkeypatch.setattr(learner_module, "build_adaptation", lambda *given: RootOfNothing())
    backbone = fresh_backbone(data)
    with pytest.raises(NoduleflowError, match="gradient is not finite: epoch 0, batch 0"):
        fit_classifier(data, params(adaptation="dann"), SPEC, backbone)
    assert all(bool(torch.isfinite(value).all()) for value in backbone.state_dict().values())


@pytest.mark.parametrize("weight", [np.inf, np.nan, 0.0, -1.0])
def test_a_weight_that_is_no_positive_number_is_refused_before_the_first_step(weight: float) -> None:
    data = narrow_data()
    weights = np.ones(len(data.train))
    weights[7] = weight
    broken = FitData(replace(data.train, weights=weights), data.validation)
    with pytest.raises(UsageError, match="positive and finite: training row 7"):
        fit_classifier(broken, params(unfreeze=0), SPEC, fresh_backbone(data))


def test_the_switch_holds_during_the_fit_only() -> None:
    data = narrow_data()
    seen: list[bool] = []
    chosen = params(unfreeze=5, epochs=1, batchnorm="adaptive", deterministic=True)

    def note(_: object) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())

    fit_classifier(data, chosen, SPEC, fresh_backbone(data), on_epoch=note)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


class Unsteady(nn.Module):
    """An operation that torch has in no deterministic form."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(
                "unsteady_backward_cuda does not have a deterministic implementation, but you set "
                "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
            )
        return maps


def test_an_operation_that_is_refused_is_named_in_one_line() -> None:
    data = narrow_data()
    backbone = fresh_backbone(data)
    backbone.stages[4].append(Unsteady())
    with pytest.raises(NoduleflowError, match=r"every time: unsteady_backward_cuda\. .*deterministic=false") as found:
        fit_classifier(data, params(unfreeze=1, deterministic=True), SPEC, backbone)
    assert "\n" not in str(found.value)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("part", ["now", "best"])
def test_a_saved_state_in_which_one_bit_has_changed_is_not_taken_up(tmp_path, part) -> None:
    data = narrow_data()
    chosen = params(unfreeze=0, epochs=2)
    first = fit_classifier(data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path)
    (path,) = tmp_path.glob(f"{part}-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    seen: list[int] = []
    again = fit_classifier(
        data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path, on_epoch=lambda record: seen.append(record.epoch)
    )
    assert seen == [0, 1]
    assert all(torch.equal(value, weights_of(first)[name]) for name, value in weights_of(again).items())
