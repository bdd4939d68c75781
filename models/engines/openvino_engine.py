"""Features by OpenVINO on processors: float32, bfloat16 where the processor has it, int8 by choice.

OpenVINO's converter would send usage statistics through the package openvino_telemetry; that package is made
unimportable before OpenVINO is loaded, and the converter then falls back to a stub of its own.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.engines.quantize import quantize_convolutions
from models.networks.backbones import Backbone

IMAGES_A_PASS = 32
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoEngine:
    """Images (n <= 32, 3, S, S) -> features (n, F), through buffers that every pass uses again.

    Parameters
    ----------
    cache: folder for converted networks; another process may write it at the same time. None keeps nothing.
    key: names the weights and size among them.
    calibration: images (n, 3, S, S) whose activations set the int8 scales.
    """

    images_a_pass = IMAGES_A_PASS

    def __init__(
        self,
        backbone: Backbone,
        size_px: int,
        precision: str,
        *,
        cache: Path | None,
        key: str,
        calibration: Tensor,
    ) -> None:
        openvino = load_openvino()
        core = openvino.Core()
        model = _converted(openvino, core, backbone, size_px, cache, key)
        model.reshape([IMAGES_A_PASS, 3, size_px, size_px])
        if precision == "int8":
            quantize_convolutions(openvino, core, model, calibration.numpy())
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self._images = torch.zeros((IMAGES_A_PASS, 3, size_px, size_px))
        self._features = np.zeros((IMAGES_A_PASS, backbone.n_features), dtype=np.float32)
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self._images.numpy(), shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(self._features, shared_memory=True))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Features (n, F) of each batch (n, 3, S, S)."""
        for images in batches:
            self._images[: len(images)] = images
            self._request.infer()
            yield self._features[: len(images)].copy()


def load_openvino() -> Any:
    """The package, with its telemetry out of reach."""
    if "openvino.tools.ovc" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def _converted(openvino: Any, core: Any, backbone: Backbone, size_px: int, cache: Path | None, key: str) -> Any:
    """The network as OpenVINO's, float32: from the cache, or converted (some seconds) and kept there."""
    folder = None if cache is None else cache / f"{backbone.name}-{size_px}-{key}-{openvino.__version__.split('-')[0]}"
    if folder is not None and (folder / "model.xml").is_file():
        try:
            return core.read_model(folder / "model.xml")
        except RuntimeError:  # a disk that lied; it is converted again
            logging.getLogger(__name__).info("a converted network could not be read")
    example = torch.zeros(2, 3, size_px, size_px)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace, which the converter calls, announces its successor
        model = openvino.convert_model(backbone, example_input=example)
    if folder is not None:
        _keep(openvino, model, folder)
    return model


def _keep(openvino: Any, model: Any, folder: Path) -> None:
    """Write the folder whole by a rename; where it cannot be written or is there by now, leave it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            openvino.save_model(model, made / "model.xml", compress_to_fp16=False)
            made.rename(folder)
    except OSError:
        return
