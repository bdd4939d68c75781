"""int8 for the convolutions of an OpenVINO network, after training and without another package.

Weights: symmetric, one scale an output channel. Activations: one range a tensor, the mean over calibration images of
each image's smallest and largest value, moved so that zero is exact (Jacob et al. 2018, CVPR, section 2.1). The
network keeps its float operations; FakeQuantize before each convolution lets OpenVINO run it in int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_ACTIVATION_LEVELS = 256
_WEIGHT_LEVELS = 255


def quantize_convolutions(openvino: Any, core: Any, model: Any, images: NDArray[np.float32]) -> None:
    """Quantise `model` in place; `images` (n, 3, S, S) show which values its activations take."""
    operations = openvino.opset13
    convolutions = [node for node in model.get_ops() if node.get_type_name() in _CONVOLUTIONS]
    sources = {_name(node.input(0).get_source_output()): node.input(0).get_source_output() for node in convolutions}
    ranges = _activation_ranges(openvino, core, model, list(sources), images)
    for name, source in sources.items():
        low, high = quantised_range(*ranges[name])
        bounds = [operations.constant(np.full((1, 1, 1, 1), bound, dtype=np.float32)) for bound in (low, high)]
        readers = [
            reader for reader in source.get_target_inputs() if reader.get_node().get_type_name() in _CONVOLUTIONS
        ]
        rounded = operations.fake_quantize(source, *bounds, *bounds, _ACTIVATION_LEVELS)
        for reader in readers:
            reader.replace_source_output(rounded.output(0))
    for node in convolutions:
        weights = node.input(1).get_source_output()
        values = weights.get_node().get_data()
        # (out, in, h, w), and (groups, out, in, h, w) of grouped ones
        axes = tuple(range(1 if node.get_type_name() == "Convolution" else 2, values.ndim))
        largest = np.maximum(np.abs(values).max(axis=axes, keepdims=True), 1e-8).astype(np.float32)
        bounds = [operations.constant(-largest), operations.constant(largest)]
        node.input(1).replace_source_output(
            operations.fake_quantize(weights, *bounds, *bounds, _WEIGHT_LEVELS).output(0)
        )
    model.validate_nodes_and_infer_types()


def quantised_range(low: float, high: float) -> tuple[float, float]:
    """The range of 256 levels next to [low, high] in which zero is a level."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 0.0, 1.0
    step = (high - low) / (_ACTIVATION_LEVELS - 1)
    below = round(-low / step)
    return -below * step, (_ACTIVATION_LEVELS - 1 - below) * step


def _activation_ranges(
    openvino: Any, core: Any, model: Any, names: list[tuple[str, int]], images: NDArray[np.float32]
) -> dict[tuple[str, int], tuple[float, float]]:
    operations = openvino.opset13
    probe = model.clone()
    by_name = {node.get_friendly_name(): node for node in probe.get_ops()}
    within = operations.constant(np.array([1, 2, 3]))
    results = [
        operations.result(reduce(by_name[node].output(index), within))
        for reduce in (operations.reduce_min, operations.reduce_max)
        for node, index in names
    ]
    size = int(probe.input().get_partial_shape()[0].get_length())
    compiled = core.compile_model(
        openvino.Model(results, probe.get_parameters(), "ranges"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    seen: list[list[NDArray[np.float32]]] = [[] for _ in results]
    for start in range(0, len(images), size):
        # The last images once more where they do not fill a batch, and cut off again.
        part = images[start : start + size]
        outputs = compiled([np.resize(part, (size, *part.shape[1:]))])
        for position, values in enumerate(seen):
            values.append(outputs[position][: len(part)].reshape(-1).copy())
    means = [float(np.concatenate(values).mean()) for values in seen]
    return {name: (means[position], means[position + len(names)]) for position, name in enumerate(names)}


def _name(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()
