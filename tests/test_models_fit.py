"""Fitting learns what is there, freezes what it should, and does not care whether it was interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, blobs, fresh_backbone, narrow_data, params, weights_of

from data_contracts.errors import NoduleflowError, NothingUsableError, UsageError
from data_contracts.params.training import ADAPTATION_METHODS
from models.fitting import precision as fit_precision
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.fitting.frozen_prefix import PatchInputs
from models.fitting.losses import class_balance, masked_cross_entropy, weighted_cross_entropy
from models.fitting.optimizer import rate_factor
from models.fitting.state import EpochRecord
from models.predict import predict_logits


@pytest.fixture(scope="module")
def data() -> FitData:
    return narrow_data()


@pytest.mark.parametrize(("unfreeze", "rate"), [(0, 1e-4), (1, 1e-4), (5, 3e-3)])
def test_it_learns_with_nothing_one_stage_or_everything_unfrozen(data, unfreeze, rate):
    backbone = fresh_backbone(data)
    prefix, _ = backbone.split(unfreeze)
    before = {name: value.clone() for name, value in prefix.state_dict().items()}
    result = fit_classifier(data, params(unfreeze=unfreeze, epochs=15, lr_head=3e-3, lr_backbone=rate), SPEC, backbone)
    assert max(record.validation_auc for record in result.history) > 0.95
    for name, value in prefix.state_dict().items():
        assert torch.equal(value, before[name])
    logits = predict_logits(result.network, data.validation.patches, SPEC)
    assert logits[data.validation.labels == 1].mean() > logits[data.validation.labels == 0].mean()


def test_the_kept_weights_are_those_of_the_best_validation_epoch(data):
    result = fit_classifier(data, params(), SPEC, fresh_backbone(data))
    best = max(result.history, key=lambda record: (record.validation_auc, -record.validation_loss))
    assert result.best_epoch == best.epoch
    logits = torch.from_numpy(predict_logits(result.network, data.validation.patches, SPEC))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.validation.labels))
    assert float(loss) == pytest.approx(best.validation_loss, rel=1e-4)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"unfreeze": 1},
        {"unfreeze": 5, "batchnorm": "adaptive"},
        {"unfreeze": 1, "adaptation": "dann"},
        *({"unfreeze": 5, "batchnorm": "adaptive", "adaptation": name} for name in ADAPTATION_METHODS),
        {"unfreeze": 5, "batchnorm": "adaptive", "precision": "bf16", "noise": 0.1},
    ],
    ids=["last stage", "all stages", "dann of the last stage", *ADAPTATION_METHODS, "all stages in bf16 with noise"],
)
def test_a_fit_killed_after_any_epoch_ends_with_the_same_weights(data, tmp_path, changes):
    chosen = params(**changes, epochs=4)
    expected = weights_of(fit_classifier(data, chosen, SPEC, fresh_backbone(data)))

    def kill(record: EpochRecord) -> None:
        if record.epoch in (0, 2):
            raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            fit_classifier(data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path, on_epoch=kill)
    seen: list[int] = []
    result = fit_classifier(
        data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path, on_epoch=lambda record: seen.append(record.epoch)
    )
    assert seen == [3]
    assert [record.epoch for record in result.history] == [0, 1, 2, 3]
    for name, value in weights_of(result).items():
        assert torch.equal(value, expected[name]), name


def test_a_finished_fit_is_not_fitted_again(data, tmp_path):
    first = fit_classifier(data, params(unfreeze=0), SPEC, fresh_backbone(data), state_dir=tmp_path)
    seen: list[EpochRecord] = []
    again = fit_classifier(
        data, params(unfreeze=0), SPEC, fresh_backbone(data), state_dir=tmp_path, on_epoch=seen.append
    )
    assert seen == [] and again.history == first.history
    assert all(torch.equal(value, weights_of(first)[name]) for name, value in weights_of(again).items())


@pytest.mark.parametrize("damage", ["other parameters", "other data", "torn json", "torn tensors"])
def test_the_state_of_another_fit_or_a_torn_one_is_ignored(data, tmp_path, damage):
    chosen = params(unfreeze=0, epochs=2)
    fit_classifier(data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path)
    used = data
    if damage == "other parameters":
        chosen = params(unfreeze=0, epochs=2, seed=1)
    elif damage == "other data":
        used = FitData(blobs(48, 7), data.validation)
    elif damage == "torn json":
        (tmp_path / "state.json").write_text('{"digest": ')
    else:
        for path in tmp_path.glob("now-*.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
    seen: list[int] = []
    fit_classifier(
        used, chosen, SPEC, fresh_backbone(used), state_dir=tmp_path, on_epoch=lambda record: seen.append(record.epoch)
    )
    assert seen == [0, 1]


def test_the_state_folder_keeps_only_what_counts(data, tmp_path):
    fit_classifier(data, params(unfreeze=0), SPEC, fresh_backbone(data), state_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(data):
    before = torch.random.get_rng_state()
    one, other = (weights_of(fit_classifier(data, params(epochs=2), SPEC, fresh_backbone(data))) for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(before, torch.random.get_rng_state())


def test_frozen_statistics_stay_and_adaptive_ones_move(data):
    for policy in ("frozen", "adaptive"):
        backbone = fresh_backbone(data)
        before = backbone.stages[4][1].running_mean.clone()
        fit_classifier(data, params(epochs=1, batchnorm=policy), SPEC, backbone)
        assert torch.equal(before, backbone.stages[4][1].running_mean) == (policy == "frozen")


def test_it_stops_when_validation_no_longer_gets_better(data):
    result = fit_classifier(data, params(unfreeze=0, epochs=40, patience=2, lr_head=1e-2), SPEC, fresh_backbone(data))
    assert len(result.history) == result.best_epoch + 3 < 40


def test_bf16_learns_as_well_as_fp32_and_keeps_the_frozen_stages_exact(data):
    """Validation AUC within 0.02 of float32's; the same threshold holds in the benchmark on real nodules."""
    figures = {}
    for precision in ("fp32", "bf16"):
        backbone = fresh_backbone(data)
        inputs = PatchInputs(data.train.patches, SPEC, backbone.split(1)[0], pooled=False, variants=2, seed=0)
        exact = inputs.plain().batch(torch.arange(4)).clone()
        result = fit_classifier(data, params(unfreeze=1, epochs=12, lr_head=3e-3, precision=precision), SPEC, backbone)
        figures[precision] = max(record.validation_auc for record in result.history)
        assert result.precision.startswith(precision)
        assert all(value.dtype in (torch.float32, torch.int64) for value in result.network.state_dict().values())
        again = PatchInputs(data.train.patches, SPEC, backbone.split(1)[0], pooled=False, variants=2, seed=0)
        assert torch.equal(again.plain().batch(torch.arange(4)), exact) and exact.dtype == torch.float32
    assert figures["bf16"] >= figures["fp32"] - 0.02


def test_auto_takes_bf16_where_the_processor_has_it_and_the_gradients_agree(data, monkeypatch):
    monkeypatch.setattr(fit_precision, "has_bf16_units", lambda: True)
    chosen = params(unfreeze=1, epochs=1, precision="auto")
    assert fit_classifier(data, chosen, SPEC, fresh_backbone(data)).precision.startswith("bf16: gradients")
    monkeypatch.setattr(fit_precision, "LEAST_GRADIENT_COSINE", 1.1)
    refused = fit_classifier(data, chosen, SPEC, fresh_backbone(data))
    assert refused.precision.startswith("fp32: gradients") and "too far" in refused.precision
    monkeypatch.setattr(fit_precision, "has_bf16_units", lambda: False)
    plain = fit_classifier(data, chosen, SPEC, fresh_backbone(data))
    assert plain.precision == "fp32: the processor has no bf16 units"
    for name, value in weights_of(plain).items():  # the trial has changed nothing
        assert torch.equal(value, weights_of(refused)[name])


def test_adaptation_fools_the_discriminator_and_keeps_the_last_epoch(data):
    result = fit_classifier(data, params(adaptation="dann", epochs=3), SPEC, fresh_backbone(data))
    assert result.best_epoch == 2
    assert all(record.adaptation_loss is not None for record in result.history)


def test_adaptation_without_target_patches_is_refused(data):
    with pytest.raises(UsageError, match="target site"):
        fit_classifier(FitData(data.train, data.validation), params(adaptation="dann"), SPEC, fresh_backbone(data))


def test_adaptation_where_nothing_can_adapt_is_refused(data):
    with pytest.raises(UsageError, match="nothing can adapt"):
        fit_classifier(data, params(adaptation="dann", unfreeze=0, head="linear"), SPEC, fresh_backbone(data))


@pytest.mark.parametrize("method", ["mcc", "mutual"])
def test_a_loss_of_the_logits_adapts_a_linear_head_on_frozen_features(data, method):
    changes = {"unfreeze": 0, "head": "linear", "epochs": 2, "adaptation": method}
    ignored, adapted = (
        fit_classifier(data, params(**changes, adaptation_weight=weight), SPEC, fresh_backbone(data)).network
        for weight in (0.0, 1.0)
    )
    assert not torch.equal(ignored.head.logit.weight, adapted.head.logit.weight)


def test_one_class_is_nothing_to_learn_from(data):
    benign = data.train.rows(data.train.labels == 0)
    with pytest.raises(NothingUsableError, match="0 malignant and 24 benign"):
        fit_classifier(FitData(benign, data.validation), params(), SPEC, fresh_backbone(data))


def test_a_loss_that_is_not_finite_stops_with_its_batch(data):
    with pytest.raises(NoduleflowError, match=r"not finite: epoch \d+, batch \d+"):
        fit_classifier(data, params(lr_head=1e20, unfreeze=0), SPEC, fresh_backbone(data))


def test_without_validation_the_last_epoch_is_kept(data):
    empty = data.validation.rows(np.zeros(len(data.validation), dtype=bool))
    result = fit_classifier(FitData(data.train, empty), params(unfreeze=0, epochs=3), SPEC, fresh_backbone(data))
    assert result.best_epoch == 2 and result.history[0].validation_auc is None


def test_indeterminate_patches_teach_through_the_readers_mean_only():
    patches = np.zeros((3, 1, 32, 32), dtype=np.uint8)
    part = LabelledPatches(patches, np.array([1, 0, np.nan]), soft_labels=np.array([0.7, np.nan, 0.5]))
    np.testing.assert_allclose(part.targets(0.5), [0.85, 0, 0.5])
    np.testing.assert_allclose(part.targets(0.0), [1, 0, np.nan])


def test_rows_of_different_length_are_refused():
    with pytest.raises(UsageError, match="labels has 2 rows"):
        LabelledPatches(np.zeros((3, 1, 8, 8), dtype=np.uint8), np.zeros(2))


def test_unknown_auxiliary_targets_cost_nothing():
    logits = torch.zeros(2, 2, requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")]])
    loss = masked_cross_entropy(logits, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(2))
    assert logits.grad[0, 1] == 0 and (logits.grad[1] == 0).all()


def test_classes_count_alike_however_rare_one_is():
    targets = torch.tensor([1.0, 0, 0, 0])
    weights = class_balance(targets)
    assert float(weights[0]) == pytest.approx(float(weights[1:].sum()))
    even = weighted_cross_entropy(torch.zeros(4), targets, weights)
    assert float(even) == pytest.approx(np.log(2), rel=1e-6)


def test_the_rate_warms_up_and_falls_to_one_percent():
    chosen = params(epochs=10, warmup_epochs=2)
    rates = [rate_factor(epoch, chosen) for epoch in np.linspace(0, 10, 41)]
    assert rates[0] == 0.05 and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.01)
    assert np.argmax(rates) == 8
