"""A network on disk is loaded by digest, and served as one traced program for any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_contracts.errors import WeightsDigestError, WeightsError
from data_contracts.model_card import Calibration, InputSpec, ModelCard
from models.checkpoint import CHECKPOINT_FILE, save_network
from models.engines.torch_engine import TorchEngine
from models.export import ServingModule
from models.networks.backbones import build_backbone
from models.networks.network import NetworkPlan, build_network
from models.predict import Predictor, extract_features, predict_logits

CALIBRATION = Calibration(
    bias=0.1, image_weight=1, size_weight=2, image_only_bias=-0.3, image_only_weight=1.7, size_only_bias=0,
    size_only_weight=1,
)  # fmt: skip


def spec_of(kind: str, views: int = 1) -> InputSpec:
    unit = "HU" if kind != "2d" else "grey"
    return InputSpec(kind=kind, patch_shape=(3, 24, 24), value_unit=unit, spacing_mm=1.0, input_size_px=32, views=views)


def network_of(backbone: str):
    return build_network(build_backbone(backbone, seed=0), NetworkPlan("mlp", dropout=0.5), seed=1)


def saved(folder, **changes) -> ModelCard:
    card = ModelCard(
        name="test", run_id="r", backbone="resnet18", weights="none", weights_sha256="", pretrained=False, head="mlp",
        input=spec_of("2.5d"), calibration=CALIBRATION, checkpoint_sha256=save_network(folder, network_of("resnet18")),
        dataset_id="d",
    )  # fmt: skip
    card = card.model_copy(update=changes)
    card.write(folder / "model_card.json")
    return card


#: tracing takes seconds each, so the default and the smallest stand for the rest where slow tests are left out
_QUICK = {("resnet18", "2.5d"), ("resnet50", "2.5d"), ("mobilenet_v2", "2d")}
_TRACED = ("densenet121", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "small_cnn")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in _QUICK else pytest.mark.slow)
        for name in _TRACED
        for kind in ("2d", "2.5d")
    ],
)
def test_the_exported_program_answers_any_batch_as_the_network_does(name, kind):
    spec = spec_of(kind, views=8 if name == "resnet18" else 1)
    serving = ServingModule(network_of(name), spec, CALIBRATION)
    program = serving.export().module()
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 8):
        patches = torch.rand(batch, 3, 24, 24, generator=generator) * 255
        with torch.no_grad():
            eager, traced = serving(patches), program(patches)
        assert traced.shape == (batch, 2)
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


def test_the_probability_is_the_image_only_calibration_of_the_logit():
    out = ServingModule(network_of("resnet18"), spec_of("2.5d"), CALIBRATION)(torch.zeros(2, 3, 24, 24))
    torch.testing.assert_close(out[:, 1], torch.sigmoid(-0.3 + 1.7 * out[:, 0]))


def test_a_saved_network_gives_the_same_logits_when_loaded(tmp_path):
    saved(tmp_path)
    patches = np.random.default_rng(0).integers(-1000, 400, (5, 3, 24, 24)).astype(np.int16)
    predictor = Predictor.load(tmp_path)
    expected = predict_logits(network_of("resnet18"), patches, spec_of("2.5d"))
    np.testing.assert_array_equal(predictor.logits(patches), expected)
    assert predictor.logits(patches[:0]).shape == (0,)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    assert save_network(tmp_path / "a", network_of("resnet18")) == save_network(tmp_path / "b", network_of("resnet18"))


def test_predictions_do_not_depend_on_the_batch_size():
    patches = np.random.default_rng(0).integers(-1000, 400, (7, 3, 24, 24)).astype(np.int16)
    network = network_of("mobilenet_v2")
    one, five = (predict_logits(network, patches, spec_of("2.5d", views=8), size) for size in (1, 5))
    np.testing.assert_allclose(one, five, atol=1e-4)


def test_features_are_read_a_batch_at_a_time():
    patches = np.random.default_rng(0).integers(-1000, 400, (7, 3, 24, 24)).astype(np.int16)
    asked: list[slice] = []

    def load(rows: slice) -> np.ndarray:
        asked.append(rows)
        return patches[rows]

    engine = TorchEngine(build_backbone("resnet18", seed=0))
    engine.images_a_pass = 3
    features = extract_features(engine, load, 7, spec_of("2.5d"))
    assert features.shape == (7, 3, 512)
    assert asked == [slice(n, n + 1) for n in range(7)]
    engine.images_a_pass = 7
    np.testing.assert_allclose(extract_features(engine, load, 7, spec_of("2.5d")), features, atol=1e-5)


def test_a_changed_checkpoint_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsDigestError, match="its card says"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet34"}, "does not hold the tensors of resnet34"),
        ({"head": "linear"}, "does not hold the tensors"),
        ({"backbone": "nonet"}, "unknown backbone"),
        ({"head": "tree"}, "unknown head"),
    ],
)
def test_a_card_that_does_not_fit_its_checkpoint_is_refused_in_one_line(tmp_path, changes, message):
    saved(tmp_path, **changes)
    with pytest.raises(WeightsError, match=message) as refusal:
        Predictor.load(tmp_path)
    assert "\n" not in refusal.value.line()


def test_a_missing_checkpoint_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / CHECKPOINT_FILE).unlink()
    with pytest.raises(WeightsError, match="no checkpoint"):
        Predictor.load(tmp_path)
