"""An exported form, run: patches in, logit and image-only probability out."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_contracts.errors import WeightsError
from data_contracts.model_card import InputSpec, ModelCard
from models.checkpoint import load_network
from models.engines.heap import keep_heap
from models.engines.openvino_engine import load_openvino
from models.export import ServingModule
from models.networks.inputs import patches_a_pass
from models.served import holds_pickle

Floats = NDArray[np.float32]
#: patches (n, *patch_shape) float32 -> (n, 2): logit, image-only probability
Run = Callable[[Floats], Floats]

SAFETENSORS_CARD = "model_card.json"
PT2_FILE, ONNX_FILE, OPENVINO_FILE = "model.pt2", "model.onnx", "model.xml"


def open_form(form: str, folder: Path, batch: int, patch_shape: tuple[int, ...], properties: Mapping[str, str]) -> Run:
    """What runs `batch` patches of a form whose files lie in `folder`.

    Raises
    ------
    WeightsError: files that are not of this form, or a .pt2 that holds a pickle.
    """
    if form == "safetensors":
        card = ModelCard.read(folder / SAFETENSORS_CARD)
        return torch_run(ServingModule(load_network(folder, card), card.input, card.calibration))
    if form == "pt2":
        check_no_pickle(folder / PT2_FILE)
        return torch_run(torch.export.load(folder / PT2_FILE).module())
    if form == "onnx":
        return _onnx_run(folder / ONNX_FILE)
    return _openvino_run(folder / OPENVINO_FILE, batch, patch_shape, properties)


def run_all(run: Run, patches: NDArray[np.generic], batch: int) -> Floats:
    """(n, 2) of any number of patches, `batch` at a time; the last pass is filled up with its own patches."""
    out = np.zeros((len(patches), 2), dtype=np.float32)
    for start in range(0, len(patches), batch):
        part = np.asarray(patches[start : start + batch], dtype=np.float32)
        filled = part if len(part) == batch else np.resize(part, (batch, *part.shape[1:]))
        out[start : start + batch] = run(filled)[: len(part)]
    return out


def batch_of(spec: InputSpec) -> int:
    """How many patches go through at once when many are to be run."""
    return patches_a_pass(spec)


def torch_run(module: torch.nn.Module) -> Run:
    """The module in float32 of torch."""
    keep_heap()

    def run(patches: Floats) -> Floats:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(patches)).numpy())

    return run


def check_no_pickle(path: Path) -> None:
    """Raises WeightsError where a .pt2 archive holds anything that torch would unpickle."""
    try:
        pickled = holds_pickle(path)
    except (zipfile.BadZipFile, ValueError, AttributeError) as error:
        raise WeightsError("not a torch.export archive", where=path.name) from error
    if pickled:
        raise WeightsError("the archive holds a pickle, which is never loaded", where=path.name)


def _onnx_run(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda patches: np.asarray(session.run(None, {name: patches})[0])


def _openvino_run(path: Path, batch: int, patch_shape: tuple[int, ...], properties: Mapping[str, str]) -> Run:
    openvino = load_openvino()
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch, *patch_shape])
    options: dict[str, Any] = {
        **properties,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda patches: np.array(request.infer([patches])[0])
