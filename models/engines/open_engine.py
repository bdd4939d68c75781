"""An engine that is ready to extract features: built from its plan, compared with float32, replaced where it fails."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_contracts.records import digest_of
from models.engines.plan import EnginePlan
from models.engines.torch_engine import TorchEngine
from models.networks.backbones import Backbone, state_digest

#: Cosine between features of an image in bfloat16 and in float32 that every image of the first batch must reach.
LEAST_COSINE = 0.998
_COMPARED_IMAGES = 16


class Engine(Protocol):
    """Images in, features out, a batch at a time."""

    images_a_pass: int

    def stream(self, batches: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Features (n, F) of each batch of at most `images_a_pass` images (n, 3, S, S) float32, in their order."""


@dataclass(frozen=True, eq=False)
class OpenedEngine:
    """An engine and what opening it told.

    Attributes
    ----------
    plan: what is used, which may differ from what was planned; its `why` says so.
    cosine: smallest cosine to float32 over the images compared; None where it is float32 of torch itself.
    first_call_s: seconds to convert or compile the network and run it once.
    """

    engine: Engine
    plan: EnginePlan
    cosine: float | None
    first_call_s: float


def open_engine(backbone: Backbone, plan: EnginePlan, sample: Tensor, *, cache: Path | None = None) -> OpenedEngine:
    """Build the engine of a plan, and hold its features of `sample` against those of torch in float32.

    An engine that cannot be built is replaced by plain torch; bfloat16 whose cosine is below LEAST_COSINE is replaced
    by float32. int8 is taken as it is: it was asked for. So is plain torch in float32 on a GPU: nothing is left to try.

    Parameters
    ----------
    sample: images (n, 3, S, S) of the data to come; int8 scales come from all of them, the first 16 are compared.
    cache: folder for converted networks; None keeps nothing.
    """
    compared = sample[:_COMPARED_IMAGES]
    started_s = time.monotonic()
    try:
        engine, features = _first_features(_build(backbone, plan, sample, cache), compared)
    except Exception as error:
        # Compilers and converters fail in their own ways, and plain torch always works.
        if (plan.device, plan.engine) == ("cpu", "torch") or plan.precision == "int8":
            raise
        plan = plan.instead(f"{plan.engine} failed here ({type(error).__name__})", engine="torch")
        engine, features = _first_features(_build(backbone, plan, sample, cache), compared)
    first_call_s = time.monotonic() - started_s
    if (plan.device, plan.engine, plan.precision) == ("cpu", "torch", "fp32"):
        return OpenedEngine(engine, plan, None, first_call_s)
    _, expected = _first_features(TorchEngine(backbone), compared)
    cosine = smallest_cosine(features, expected)
    is_plain = (plan.engine, plan.precision) == ("torch", "fp32")
    if plan.precision != "int8" and not is_plain and not cosine >= LEAST_COSINE:
        if plan.precision == "fp32":
            better = plan.instead(f"{plan.engine} gave a cosine of {cosine:.4f} to torch", engine="torch")
        else:
            better = plan.instead(f"{plan.precision} gave a cosine of {cosine:.4f} to float32", precision="fp32")
        return open_engine(backbone, better, sample, cache=cache)
    return OpenedEngine(engine, plan, cosine, first_call_s)


def smallest_cosine(features: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Smallest cosine between rows (n, F) of two arrays; NaN where a number is not finite."""
    one, other = np.asarray(features, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
        cosines[(one == other).all(axis=1)] = 1.0  # also where both are zero
    return float(cosines.min()) if np.isfinite(cosines).all() else float("nan")


def _build(backbone: Backbone, plan: EnginePlan, sample: Tensor, cache: Path | None) -> Engine:
    size_px = int(sample.shape[-1])
    compiled = plan.engine == "compile"
    if plan.device == "cuda":
        from models.engines.cuda_engine import CudaEngine

        return CudaEngine(backbone, size_px, plan.precision, compiled=compiled)
    if plan.engine == "openvino":
        from models.engines.openvino_engine import OpenVinoEngine

        key = digest_of(state_digest(backbone))
        return OpenVinoEngine(backbone, size_px, plan.precision, cache=cache, key=key, calibration=sample)
    return TorchEngine(backbone, plan.precision, compiled=compiled)


def _first_features(engine: Engine, images: Tensor) -> tuple[Engine, NDArray[np.float32]]:
    batches = torch.split(images, engine.images_a_pass)
    return engine, np.concatenate(list(engine.stream(batches)))
