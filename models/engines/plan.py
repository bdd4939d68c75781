"""Which device, engine and precision extract features, and why: the same answer for the same machine and wishes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from data_contracts.errors import UsageError
from models.engines.processor import has_bf16_units, has_compiler, has_openvino, processor_name

Device = Literal["cpu", "cuda"]
Engine = Literal["openvino", "compile", "torch"]
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class EnginePlan:
    """What computes the features. Every field but `why` changes the numbers a little, so it is part of a table's name.

    why: one line for a person.
    """

    device: Device
    engine: Engine
    precision: Precision
    why: str

    @property
    def name(self) -> str:
        """For file names and records, e.g. "openvino-bf16", "cuda-torch-bf16"."""
        return f"{'' if self.device == 'cpu' else f'{self.device}-'}{self.engine}-{self.precision}"

    def line(self) -> str:
        """One line for a person: what was taken and why."""
        return f"{self.engine} in {self.precision} on {self.device}: {self.why}"

    def instead(self, why: str, *, engine: Engine | None = None, precision: Precision | None = None) -> EnginePlan:
        """The plan that replaces one that cannot be kept."""
        return replace(
            self, engine=engine or self.engine, precision=precision or self.precision, why=f"{why}; {self.why}"
        )


def plan_engine(device: str = "auto", engine: str = "auto", precision: str = "auto") -> EnginePlan:
    """The plan for wishes of a user.

    Parameters
    ----------
    device: auto, cpu or cuda.
    engine: auto, openvino, compile, torch, or int8 (OpenVINO on quantised convolutions; never taken by itself).
    precision: auto, fp32 or bf16; auto takes bf16 where the device computes it in hardware.

    Raises
    ------
    UsageError: a wish that is unknown, that contradicts another, or that this machine cannot fulfil.
    """
    _known("device", device, ("auto", "cpu", "cuda"))
    _known("engine", engine, ("auto", "openvino", "compile", "torch", "int8"))
    _known("precision", precision, ("auto", "fp32", "bf16"))
    if device != "cpu" and torch.cuda.is_available():
        return _on_cuda(engine, precision)
    if device == "cuda":
        raise UsageError("there is no CUDA device here", todo="Use --device cpu, or check the driver.")
    return _on_cpu(engine, precision)


def _on_cpu(engine: str, precision: str) -> EnginePlan:
    if engine in ("openvino", "int8") and not has_openvino():
        raise UsageError(
            f"--engine {engine} needs the package openvino",
            todo="In the checkout: pip install '.[openvino]'; or use --engine auto.",
        )
    if engine == "int8":
        if precision != "auto":
            raise UsageError("int8 is a precision of its own", todo="Leave out precision, or choose another engine.")
        return EnginePlan("cpu", "openvino", "int8", "int8 was asked for")
    chosen, reason = _precision_on_cpu(precision)
    if engine == "auto" and has_openvino():
        return EnginePlan("cpu", "openvino", chosen, f"openvino is installed, {reason}")
    if engine == "auto" and has_compiler():
        return EnginePlan("cpu", "compile", chosen, f"no openvino, but a C++ compiler; {reason}")
    if engine == "auto":
        return EnginePlan("cpu", "torch", chosen, f"neither openvino nor a C++ compiler; {reason}")
    if engine == "compile" and not has_compiler():
        return EnginePlan("cpu", "torch", chosen, f"there is no C++ compiler for --engine compile; {reason}")
    named: dict[str, Engine] = {"openvino": "openvino", "compile": "compile", "torch": "torch"}
    return EnginePlan("cpu", named[engine], chosen, f"{engine} was asked for, {reason}")


def _precision_on_cpu(wish: str) -> tuple[Precision, str]:
    if wish == "bf16":
        return "bf16", "bf16 was asked for" if has_bf16_units() else "bf16 was asked for, though it is emulated here"
    if wish == "fp32":
        return "fp32", "fp32 was asked for"
    if has_bf16_units():
        return "bf16", f"{processor_name()} multiplies bf16 in hardware"
    return "fp32", f"{processor_name()} has no bf16 units"


def _on_cuda(engine: str, precision: str) -> EnginePlan:
    if engine in ("openvino", "int8"):
        raise UsageError(f"--engine {engine} runs on processors only", todo="Add --device cpu, or use --engine auto.")
    in_hardware = torch.cuda.is_bf16_supported(including_emulation=False)
    chosen: Precision = "bf16" if precision == "bf16" or (precision == "auto" and in_hardware) else "fp32"
    taken: Engine = "compile" if engine == "compile" else "torch"
    graph = "compiled kernels in a CUDA graph" if taken == "compile" else "a CUDA graph"
    return EnginePlan("cuda", taken, chosen, f"{torch.cuda.get_device_name()}, {graph}")


def _known(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}", todo=f"Known: {', '.join(choices)}.")
