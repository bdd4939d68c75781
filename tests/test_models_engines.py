"""Features come out alike from every engine, from one that says what it took and why, and none of them phones home."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import models.engines.plan as planning
from data_contracts.errors import UsageError
from models.engines import heap
from models.engines import open_engine as engines
from models.engines.open_engine import open_engine, smallest_cosine
from models.engines.plan import EnginePlan, plan_engine
from models.engines.processor import has_compiler
from models.engines.quantize import quantised_range
from models.engines.torch_engine import TorchEngine
from models.networks.backbones import Backbone, build_backbone, state_digest
from models.weights.zoo import calibrate_batchnorm

SIZE_PX = 48
openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed"
)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def blobs(n: int) -> Tensor:
    """Smooth images of different brightness, as patches are; noise alone would look alike to a random network."""
    noise = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(SIZE_PX, SIZE_PX), mode="bicubic")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    network = build_backbone("resnet18", seed=0)
    calibrate_batchnorm(network, blobs(16))
    return network


def features_by(engine: engines.Engine, images: Tensor) -> np.ndarray:
    return np.concatenate(list(engine.stream(torch.split(images, engine.images_a_pass))))


@pytest.fixture(scope="module")
def expected(backbone) -> np.ndarray:
    return features_by(TorchEngine(backbone), blobs(40))


CASES = [
    pytest.param(("openvino", "fp32"), 0.99999, marks=openvino),
    pytest.param(("openvino", "bf16"), 0.998, marks=openvino),
    pytest.param(("int8", "auto"), 0.97, marks=openvino),
    pytest.param(("torch", "fp32"), 0.99999),
    pytest.param(("torch", "bf16"), 0.998),
    pytest.param(
        ("compile", "auto"), 0.998, marks=[pytest.mark.slow, pytest.mark.skipif(not has_compiler(), reason="")]
    ),
]


@pytest.mark.parametrize(("wish", "least"), CASES)
def test_every_engine_gives_the_features_of_plain_torch(backbone, expected, tmp_path, wish, least):
    opened = open_engine(backbone, plan_engine("cpu", *wish), blobs(40), cache=tmp_path)
    features = features_by(opened.engine, blobs(40))
    assert features.dtype == np.float32 and features.shape == expected.shape
    assert smallest_cosine(features, expected) >= least
    assert wish[0] in (opened.plan.engine, opened.plan.precision) and opened.first_call_s > 0
    assert opened.cosine is None if wish == ("torch", "fp32") else opened.cosine >= least


@pytest.mark.parametrize("wish", [pytest.param(("openvino", "fp32"), marks=openvino), ("torch", "fp32")])
def test_a_vector_does_not_depend_on_what_travels_in_its_batch(backbone, tmp_path, wish):
    opened = open_engine(backbone, plan_engine("cpu", *wish), blobs(8), cache=tmp_path)
    images = blobs(40)
    whole = features_by(opened.engine, images)
    turned = features_by(opened.engine, images.flip(0))[::-1]
    few = np.concatenate([features_by(opened.engine, part) for part in torch.split(images, 5)])
    if wish[0] == "openvino":  # its passes have one size, so the bits are the same
        np.testing.assert_array_equal(turned, whole)
        np.testing.assert_array_equal(few, whole)
    np.testing.assert_allclose(few, whole, rtol=1e-4, atol=1e-5)


@openvino
def test_a_converted_network_is_kept_and_taken_up_again(backbone, expected, tmp_path):
    plan = plan_engine("cpu", "openvino", "fp32")
    open_engine(backbone, plan, blobs(4), cache=tmp_path)
    kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["model.bin", "model.xml"]
    again = open_engine(backbone, plan, blobs(4), cache=tmp_path)
    assert smallest_cosine(features_by(again.engine, blobs(40)), expected) > 0.99999
    for path in tmp_path.rglob("model.xml"):
        path.write_text("<torn")
    torn = open_engine(backbone, plan, blobs(4), cache=tmp_path)
    assert torn.plan.engine == "openvino"


@openvino
def test_a_cache_that_cannot_be_written_is_done_without(backbone, tmp_path):
    (tmp_path / "file").touch()
    opened = open_engine(backbone, plan_engine("cpu", "openvino", "fp32"), blobs(4), cache=tmp_path / "file" / "below")
    assert opened.plan.engine == "openvino"


class _Wrong:
    """An engine of someone's broken driver."""

    images_a_pass = 16

    def stream(self, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
        for images in batches:
            yield np.random.default_rng(0).normal(size=(len(images), 512)).astype(np.float32)


@pytest.mark.parametrize(
    ("planned", "taken"),
    [(("openvino", "fp32"), ("torch", "fp32")), (("torch", "bf16"), ("torch", "fp32"))],
)
def test_an_engine_that_disagrees_with_float32_is_replaced_with_a_word(backbone, monkeypatch, planned, taken):
    true_build = engines._build

    def build(network, plan: EnginePlan, sample, cache):
        return _Wrong() if (plan.engine, plan.precision) == planned else true_build(network, plan, sample, cache)

    monkeypatch.setattr(engines, "_build", build)
    opened = open_engine(backbone, EnginePlan("cpu", *planned, "asked for"), blobs(8))
    assert (opened.plan.engine, opened.plan.precision) == taken
    assert "gave a cosine of" in opened.plan.line() and opened.plan.line().endswith("asked for")


def test_plain_torch_on_another_device_stays_where_nothing_else_is_left_to_try(backbone, monkeypatch):
    monkeypatch.setattr(engines, "_build", lambda *_: _Wrong())
    opened = open_engine(backbone, EnginePlan("cuda", "torch", "bf16", "asked for"), blobs(8))
    assert (opened.plan.device, opened.plan.engine, opened.plan.precision) == ("cuda", "torch", "fp32")
    assert opened.cosine is not None and opened.cosine < 0.99


def test_an_engine_that_cannot_be_built_is_replaced_with_a_word(backbone, monkeypatch):
    true_build = engines._build

    def build(network, plan: EnginePlan, sample, cache):
        if plan.engine == "compile":
            raise RuntimeError("no compiler")
        return true_build(network, plan, sample, cache)

    monkeypatch.setattr(engines, "_build", build)
    opened = open_engine(backbone, EnginePlan("cpu", "compile", "fp32", "asked for"), blobs(4))
    assert opened.plan.engine == "torch" and "compile failed here (RuntimeError)" in opened.plan.why


@pytest.mark.parametrize(
    ("bf16", "with_openvino", "compiler", "name"),
    [
        (True, True, True, "openvino-bf16"),
        (False, True, True, "openvino-fp32"),
        (True, False, True, "compile-bf16"),
        (True, False, False, "torch-bf16"),
        (False, False, False, "torch-fp32"),
    ],
)
def test_auto_takes_the_fastest_that_is_there_and_says_why(monkeypatch, bf16, with_openvino, compiler, name):
    monkeypatch.setattr(planning, "has_bf16_units", lambda: bf16)
    monkeypatch.setattr(planning, "has_openvino", lambda: with_openvino)
    monkeypatch.setattr(planning, "has_compiler", lambda: compiler)
    plan = plan_engine("cpu")
    assert plan.name == name
    assert ("in hardware" in plan.why) == bf16 and ("openvino is installed" in plan.why) == with_openvino
    assert plan_engine("cpu", precision="fp32").precision == "fp32"


def test_a_wish_that_cannot_be_fulfilled_is_refused_or_said(monkeypatch):
    monkeypatch.setattr(planning, "has_openvino", lambda: False)
    monkeypatch.setattr(planning, "has_compiler", lambda: False)
    for wishes in (("cpu", "int8"), ("cpu", "openvino"), ("tpu",), ("cpu", "onnx"), ("cpu", "torch", "fp8")):
        with pytest.raises(UsageError):
            plan_engine(*wishes)
    assert "no C++ compiler" in plan_engine("cpu", "compile").line()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        plan_engine("cuda")


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-2.5, 0.1), (0.4, 2.0), (0.0, 0.0)])
def test_zero_is_a_level_of_every_quantised_range(low, high):
    found_low, found_high = quantised_range(low, high)
    step = (found_high - found_low) / 255
    assert step > 0 and abs(found_low / step - round(found_low / step)) < 1e-6
    assert found_low <= 0 <= found_high and abs(found_low - min(low, 0)) <= step / 2 + 1e-9


def test_a_cosine_of_what_is_not_finite_is_not_a_number():
    assert np.isnan(smallest_cosine(np.array([[1.0, np.inf]]), np.ones((1, 2))))
    assert smallest_cosine(np.array([[1.0, 1.0], [1.0, 0.0]]), np.ones((2, 2))) == pytest.approx(2**-0.5)


def test_the_digest_of_a_network_is_that_of_its_numbers(backbone):
    other = build_backbone("resnet18", seed=0)
    assert state_digest(backbone) != state_digest(other)
    other.load_state_dict(backbone.state_dict())
    assert state_digest(backbone) == state_digest(other)


_FAULTS = """
import resource, sys, torch
from models.networks.backbones import build_backbone
from models.engines.heap import keep_heap
if sys.argv[1] == "kept": assert keep_heap() and keep_heap()
network, images = build_backbone("resnet18", seed=0), torch.zeros(16, 3, 128, 128)
faults = []
with torch.inference_mode():
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(images)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[2:]))
"""


@pytest.mark.skipif(heap._glibc() is None, reason="not glibc")
def test_kept_memory_is_not_fetched_from_the_system_again(repository):
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", _FAULTS, mode], cwd=repository, capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("kept", "given back")
    }
    assert faults["kept"] * 5 < faults["given back"]
    heap.give_back()


_RUN = """
import sys, torch
from models.networks.backbones import build_backbone
from models.engines.plan import plan_engine
from models.engines.open_engine import open_engine
plan = plan_engine("cpu", "openvino", "fp32")
opened = open_engine(build_backbone("resnet18", seed=0), plan, torch.zeros(2, 3, 32, 32))
assert opened.plan.engine == "openvino", opened.plan
loaded = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
assert not loaded, loaded
"""


@openvino
def test_openvino_asks_for_no_host(repository, tmp_path, watched: Callable[[Path], dict[str, str]]):
    log = tmp_path / "hosts.txt"
    environment = {**watched(log), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _RUN], cwd=repository, env=environment, check=True, timeout=300)
    assert log.read_text() == ""
    # The package that would send writes its consent below the home folder.
    assert not (tmp_path / "intel").exists()


@cuda
@pytest.mark.parametrize("wish", [("torch", "fp32"), ("torch", "bf16"), ("compile", "bf16")])
def test_a_gpu_gives_the_features_of_the_processor(backbone, wish):
    opened = open_engine(backbone, plan_engine("cuda", *wish), blobs(16))
    assert opened.plan.device == "cuda"
    images = blobs(300)
    features = features_by(opened.engine, images)
    assert smallest_cosine(features, features_by(TorchEngine(backbone), images)) >= 0.998
