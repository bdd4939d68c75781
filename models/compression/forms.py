"""A network written for other runtimes, with its preprocessing inside: patches in, logit and probability out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from data_contracts.errors import UsageError
from data_contracts.export_card import EXPORT_FORMS
from data_contracts.model_card import ModelCard
from models.checkpoint import save_network
from models.compression.runners import ONNX_FILE, OPENVINO_FILE, PT2_FILE, SAFETENSORS_CARD
from models.engines.openvino_engine import load_openvino
from models.engines.quantize import quantize_convolutions
from models.export import ServingModule, quiet, save_program
from models.networks.network import NoduleNetwork

#: names of the tensors in ONNX and OpenVINO
INPUT_NAME, OUTPUT_NAME = "patches", "logit_and_probability"
#: what OpenVINO is told when it compiles a form
PROPERTIES = {
    "openvino-fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "openvino-bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "openvino-int8": {"INFERENCE_PRECISION_HINT": "f32"},
}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
#: matrices and kernels with at least so many values are kept as bfloat16; biases, scales and means are not
_FEWEST_WEIGHTS = 256


class Exporter:
    """Writes the forms of one network, tracing it once.

    Parameters
    ----------
    calibration: patches (n, *patch_shape) of training patients that set the int8 scales; None where int8 is not wanted.
    """

    def __init__(self, network: NoduleNetwork, card: ModelCard, calibration: NDArray[np.generic] | None = None) -> None:
        self.network = network
        self.card = card
        self.serving = ServingModule(network, card.input, card.calibration)
        self._calibration = calibration
        self._program: ExportedProgram | None = None
        self._model: Any = None

    def write(self, form: str, folder: Path) -> None:
        """Write the files of a form into `folder`, which is made."""
        folder.mkdir(parents=True)
        if form == "safetensors":
            sha256 = save_network(folder, self.network)
            self.card.model_copy(update={"checkpoint_sha256": sha256}).write(folder / SAFETENSORS_CARD)
        elif form == "pt2":
            save_program(self._traced(), folder / PT2_FILE)
        elif form == "onnx":
            self._write_onnx(folder / ONNX_FILE)
        else:
            self._write_openvino(form, folder / OPENVINO_FILE)

    def _traced(self) -> ExportedProgram:
        if self._program is None:
            self._program = self.serving.export()
        return self._program

    def _write_onnx(self, path: Path) -> None:
        with quiet():
            written = torch.onnx.export(
                self._traced(),
                (self.serving.example(),),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamo=True,
                verbose=False,
            )
            written.save(path, external_data=False)

    def _write_openvino(self, form: str, path: Path) -> None:
        openvino = load_openvino()
        if self._model is None:
            with quiet():
                self._model = openvino.convert_model(self._traced())
            self._model.reshape([-1, *self.card.input.patch_shape])
            self._model.inputs[0].get_tensor().set_names({INPUT_NAME})
            self._model.outputs[0].get_tensor().set_names({OUTPUT_NAME})
        model = self._model.clone()
        if form == "openvino-bf16":
            store_as_bf16(openvino, model)
        elif form == "openvino-int8":
            assert self._calibration is not None
            quantize_convolutions(openvino, openvino.Core(), model, self._calibration)
            store_as_bf16(openvino, model)  # what is no convolution: the head
        openvino.save_model(model, path, compress_to_fp16=False)


def store_as_bf16(openvino: Any, model: Any) -> None:
    """Keep the weights of `model` as bfloat16, rounded to nearest, in place."""
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        values = node.get_data()
        if values.size < _FEWEST_WEIGHTS or sum(length > 1 for length in values.shape) < 2:
            continue
        stored = openvino.op.Constant(openvino.Type.bf16, openvino.Shape(values.shape), values.reshape(-1).tolist())
        widened = openvino.opset13.convert(stored, "f32").output(0)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(widened)
    model.validate_nodes_and_infer_types()


def runtime_of(form: str) -> str:
    """Name and version of what runs a form here."""
    if form.startswith("openvino"):
        return f"openvino {load_openvino().__version__.split('-')[0]}"
    if form == "onnx":
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"
    return f"torch {torch.__version__}"


def check_forms(forms: tuple[str, ...]) -> None:
    """Raises UsageError for a form that nobody knows, or whose packages are not installed."""
    for form in forms:
        if form not in EXPORT_FORMS:
            raise UsageError(f"unknown form {form!r}", todo=f"Known: {', '.join(EXPORT_FORMS)}, all.")
        extra = form.split("-", 1)[0]
        missing = [name for name in _PACKAGES.get(extra, ()) if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"{form} needs {', '.join(missing)}", todo=f"Install the extra `{extra}`.")
