"""What a parameter of a fit says is what the fit does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, fresh_backbone, narrow_data, params

from data_contracts.model_card import InputSpec
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.fitting.learner import Learner
from models.fitting.losses import weighted_cross_entropy
from models.fitting.optimizer import build_optimizer, rate_factor
from models.networks.inputs import as_batch, to_images
from models.networks.network import NetworkPlan, build_network, by_plane
from models.networks.pooling import AttentionPooling
from models.predict import predict_logits


@pytest.fixture(scope="module")
def data() -> FitData:
    return narrow_data()


def rates(data: FitData, **changes) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every tensor that learns."""
    network = build_network(fresh_backbone(data), NetworkPlan("linear"), seed=0)
    learner = Learner(network, params(**changes), n_planes=1, n_patches=10)
    optimizer = build_optimizer(learner, params(**changes))
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def probabilities(result, patches: np.ndarray, spec: InputSpec = SPEC) -> np.ndarray:
    return 1 / (1 + np.exp(-predict_logits(result.network, patches, spec)))


def same_image(n: int, share: float, **more) -> LabelledPatches:
    """The same grey patch n times, of which a share is malignant: all that can be learned is how many."""
    labels = (np.arange(n) < share * n).astype(float)
    return LabelledPatches(np.full((n, 1, 32, 32), 90, dtype=np.uint8), labels, **more)


CONSTANT = {"unfreeze": 0, "head": "linear", "dropout": 0.0, "augmentations": 1, "epochs": 60, "patience": 60}


def test_each_stage_learns_at_a_fraction_of_the_rate_of_the_one_behind_it(data):
    found = rates(data, unfreeze=3, lr_head=1e-2, lr_backbone=1e-3, lr_decay=0.5)
    weights = [found[f"trunk.stages.{stage}.0.weight"][0] for stage in range(3)]
    assert weights == pytest.approx([0.25e-3, 0.5e-3, 1e-3])
    assert found["head.logit.weight"][0] == pytest.approx(1e-2)
    assert len(found) == len({*found}) and not any("stages.3" in name for name in found)


def test_biases_and_statistics_do_not_decay(data):
    found = rates(data, unfreeze=2, weight_decay=0.1)
    assert found["head.logit.weight"][1] == found["trunk.stages.0.0.weight"][1] == 0.1
    assert found["head.logit.bias"][1] == found["trunk.stages.0.1.weight"][1] == 0


def test_a_strong_decay_of_rates_leaves_the_first_stages_nearly_where_they_were(data):
    moved = {}
    for decay in (1.0, 0.01):
        backbone = fresh_backbone(data)
        before = [stage[0].weight.detach().clone() for stage in backbone.stages]
        fit_classifier(data, params(unfreeze=5, epochs=2, lr_decay=decay, lr_backbone=1e-3), SPEC, backbone)
        moved[decay] = [
            float((stage[0].weight - old).detach().abs().mean())
            for stage, old in zip(backbone.stages, before, strict=True)
        ]
    assert moved[0.01][0] < 0.01 * moved[1.0][0]
    assert moved[0.01][4] > 0.3 * moved[1.0][4]


def test_sgd_has_nesterov_momentum_and_learns(data):
    chosen = params(optimizer="sgd", schedule="annealed", unfreeze=5, epochs=15, lr_head=5e-2, lr_backbone=3e-2)
    network = build_network(fresh_backbone(data), NetworkPlan("mlp"), seed=0)
    optimizer = build_optimizer(Learner(network, chosen, n_planes=1, n_patches=10), chosen)
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)
    result = fit_classifier(data, chosen, SPEC, fresh_backbone(data))
    assert max(record.validation_auc for record in result.history) > 0.95


def test_the_annealed_rate_is_that_of_ganin_after_the_warm_up():
    chosen = params(schedule="annealed", epochs=12, warmup_epochs=2)
    assert [rate_factor(epoch, chosen) for epoch in (0, 1, 2)] == pytest.approx([0.05, 0.5, 1.0])
    for position in (0.25, 0.5, 1.0):
        assert rate_factor(2 + 10 * position, chosen) == pytest.approx((1 + 10 * position) ** -0.75)


def test_without_a_warm_up_the_first_step_has_the_whole_rate():
    assert rate_factor(0, params(warmup_epochs=0)) == 1.0


def test_balanced_classes_count_alike_and_unbalanced_ones_as_often_as_they_come():
    rare = FitData(same_image(40, 0.25), same_image(8, 0.5))
    for how, expected in (("balanced", 0.5), ("none", 0.25)):
        chosen = params(**CONSTANT, class_weights=how, batch_size=40, lr_head=3e-2)
        result = fit_classifier(rare, chosen, SPEC, fresh_backbone(narrow_data()))
        assert result.history[-1].train_loss == pytest.approx(
            -(expected * math.log(expected) + (1 - expected) * math.log(1 - expected)), abs=0.02
        )
        without = FitData(rare.train, rare.validation.rows(np.zeros(8, dtype=bool)))
        last = fit_classifier(without, chosen, SPEC, fresh_backbone(narrow_data()))
        assert probabilities(last, rare.train.patches[:1])[0] == pytest.approx(expected, abs=0.03)


def test_the_readers_mean_is_what_a_fit_on_soft_labels_predicts():
    soft = same_image(40, 0.5, soft_labels=np.full(40, 0.8))
    nothing = same_image(2, 0.5).rows(np.zeros(2, dtype=bool))
    for share, expected in ((1.0, 0.8), (0.5, 0.65), (0.0, 0.5)):
        chosen = params(**CONSTANT, class_weights="none", batch_size=40, lr_head=3e-2, soft_label_weight=share)
        result = fit_classifier(FitData(soft, nothing), chosen, SPEC, fresh_backbone(narrow_data()))
        assert probabilities(result, soft.patches[:1])[0] == pytest.approx(expected, abs=0.03)


def test_a_smoothed_label_is_best_met_short_of_certainty(data):
    logits = torch.linspace(-8, 8, 1601)
    for smoothing in (0.1, 0.3):
        losses = torch.stack(
            [weighted_cross_entropy(logit[None], torch.ones(1), torch.ones(1), smoothing) for logit in logits]
        )
        assert float(torch.sigmoid(logits[losses.argmin()])) == pytest.approx(1 - smoothing / 2, abs=1e-2)
    spread = {}
    for smoothing in (0.0, 0.4):
        chosen = params(unfreeze=1, epochs=12, lr_head=1e-2, lr_backbone=1e-3, label_smoothing=smoothing)
        everything = FitData(data.train, data.validation.rows(np.zeros(20, dtype=bool)))
        result = fit_classifier(everything, chosen, SPEC, fresh_backbone(data))
        spread[smoothing] = np.abs(predict_logits(result.network, data.train.patches, SPEC)).mean()
    assert spread[0.4] < 0.7 * spread[0.0]


PLANES = InputSpec(kind="2.5d", patch_shape=(3, 32, 32), value_unit="grey", spacing_mm=1.0, input_size_px=32)


def one_plane_tells(n: int, seed: int) -> LabelledPatches:
    """Noise in three planes, with a bright disc in one of them, at random, of every second patch."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y, x = np.mgrid[:32, :32] - 15.5
    disc = (np.hypot(y, x) < 7) * 120
    patches = rng.normal(90, 15, (n, 3, 32, 32))
    patches[np.arange(n), rng.integers(0, 3, n)] += labels[:, None, None] * disc
    return LabelledPatches(patches.clip(0, 255).astype(np.uint8), labels.astype(float))


@pytest.mark.parametrize("unfreeze", [0, 1, 5])
def test_attention_learns_to_tell_planes_apart_even_on_frozen_features(unfreeze):
    data = FitData(one_plane_tells(64, 0), one_plane_tells(32, 1))
    chosen = params(
        unfreeze=unfreeze, pooling="attention", head="linear", dropout=0.0, epochs=15, lr_head=1e-2, lr_backbone=1e-3
    )
    result = fit_classifier(data, chosen, PLANES, fresh_backbone(narrow_data()))
    assert max(record.validation_auc for record in result.history) > 0.9
    network = result.network
    with torch.no_grad():
        features = by_plane(network.backbone(as_batch(to_images(data.validation.patches, PLANES))), 3)
        weights = network.pooling.weights(features)[data.validation.labels == 1]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    assert float(weights.std(dim=1).mean()) > 0.02  # one plane is not like the others any more
    logits = predict_logits(network, data.validation.patches, PLANES)
    rolled = predict_logits(network, np.roll(data.validation.patches, 1, axis=1), PLANES)
    np.testing.assert_allclose(rolled, logits, atol=1e-4)  # wherever it stands


def test_attention_before_any_step_is_the_mean():
    features = torch.randn(4, 3, 16)
    torch.testing.assert_close(AttentionPooling(16)(features), features.mean(dim=1))
