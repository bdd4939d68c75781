"""int8 for the convolutions of an OpenVINO network, after training and without another package.

Weights: symmetric, one scale an output channel, kept as int8. Activations: one range a tensor, the mean over
calibration batches' images of each image's smallest and largest value, moved so that zero is exact (Jacob et al. 2018,
CVPR, section 2.1). The network keeps its float operations; FakeQuantize before each convolution lets OpenVINO run it in
int8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_ACTIVATION_LEVELS = 256
_LARGEST_WEIGHT = 127
#: inputs a pass where the network takes any number
_INPUTS_A_PASS = 16


def quantize_convolutions(openvino: Any, core: Any, model: Any, inputs: NDArray[np.generic]) -> None:
    """Quantise `model` in place; `inputs` (n, ...) show which values its activations take."""
    operations = openvino.opset13
    convolutions = [node for node in model.get_ops() if node.get_type_name() in _CONVOLUTIONS]
    sources = {_name(node.input(0).get_source_output()): node.input(0).get_source_output() for node in convolutions}
    ranges = _activation_ranges(openvino, core, model, list(sources), inputs)
    for name, source in sources.items():
        low, high = quantised_range(*ranges[name])
        shape = (1,) * len(source.get_partial_shape())
        bounds = [operations.constant(np.full(shape, bound, dtype=np.float32)) for bound in (low, high)]
        readers = [
            reader for reader in source.get_target_inputs() if reader.get_node().get_type_name() in _CONVOLUTIONS
        ]
        rounded = operations.fake_quantize(source, *bounds, *bounds, _ACTIVATION_LEVELS)
        for reader in readers:
            reader.replace_source_output(rounded.output(0))
    for node in convolutions:
        values = node.input(1).get_source_output().get_node().get_data()
        # (out, in, h, w), and (groups, out, in, h, w) of grouped ones; a volume has d before h
        axes = tuple(range(1 if node.get_type_name() == "Convolution" else 2, values.ndim))
        rounded_weights, scale = quantised_weights(values, axes)
        stored = operations.convert(operations.constant(rounded_weights), "f32")
        node.input(1).replace_source_output(operations.multiply(stored, operations.constant(scale)).output(0))
    model.validate_nodes_and_infer_types()


def quantised_weights(
    values: NDArray[np.floating], axes: tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights in -127..127 and a scale for each output channel, whose product is next to `values`.

    axes: those within a channel.
    """
    largest = np.maximum(np.abs(values).max(axis=axes, keepdims=True), 1e-8)
    scale = (largest / _LARGEST_WEIGHT).astype(np.float32)
    return np.rint(values / scale).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT).astype(np.int8), scale


def quantised_range(low: float, high: float) -> tuple[float, float]:
    """The range of 256 levels next to [low, high] in which zero is a level."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 0.0, 1.0
    step = (high - low) / (_ACTIVATION_LEVELS - 1)
    below = round(-low / step)
    return -below * step, (_ACTIVATION_LEVELS - 1 - below) * step


def _activation_ranges(
    openvino: Any, core: Any, model: Any, names: list[tuple[str, int]], inputs: NDArray[np.generic]
) -> dict[tuple[str, int], tuple[float, float]]:
    operations = openvino.opset13
    probe = model.clone()
    by_name = {node.get_friendly_name(): node for node in probe.get_ops()}

    def extreme(reduce: Any, node: str, index: int) -> Any:
        """One value an image: over all axes but the first."""
        output = by_name[node].output(index)
        within = operations.constant(np.arange(1, len(output.get_partial_shape())))
        return operations.result(reduce(output, within))

    reductions = (operations.reduce_min, operations.reduce_max)
    results = [extreme(reduce, node, index) for reduce in reductions for node, index in names]
    compiled = core.compile_model(
        openvino.Model(results, probe.get_parameters(), "ranges"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    seen: list[list[NDArray[np.float32]]] = [[] for _ in results]
    for part, count in _passes(inputs, probe.input().get_partial_shape()[0]):
        outputs = compiled([part])
        for position, values in enumerate(seen):
            images = outputs[position].reshape(-1)
            values.append(images[: len(images) * count // len(part)].copy())
    means = [float(np.concatenate(values).mean()) for values in seen]
    return {name: (means[position], means[position + len(names)]) for position, name in enumerate(names)}


def _passes(inputs: NDArray[np.generic], size: Any) -> Iterator[tuple[NDArray[np.float32], int]]:
    """(inputs of one pass, how many of the first of them count)."""
    fixed = 0 if size.is_dynamic else int(size.get_length())
    for start in range(0, len(inputs), fixed or _INPUTS_A_PASS):
        part = np.asarray(inputs[start : start + (fixed or _INPUTS_A_PASS)], dtype=np.float32)
        # The last inputs once more where they do not fill a batch of fixed size, and cut off again.
        yield (np.resize(part, (fixed, *part.shape[1:])) if fixed else part), len(part)


def _name(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()
