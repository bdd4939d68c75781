"""What the processors of this machine compute fast, and what is installed to use it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sysconfig
from pathlib import Path

import torch


def has_bf16_units() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AMX, AVX-512 BF16, or ARM's BF16).

    Without such units bfloat16 is emulated: on AVX-512 VNNI a convolution took three times as long as in float32.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return _says("bf16", "sve_bf16")
    return _says("amx_bf16", "amx_tile", "avx512_bf16")


def has_int8_units() -> bool:
    """Whether the processor multiplies int8 faster than float32 (AMX, VNNI, ARM's dot product)."""
    return _says("amx_int8", "avx512_vnni", "avx_vnni", "dot", "i8mm")


def processor_name() -> str:
    """The processor as it calls itself."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def has_openvino() -> bool:
    """Whether the extra `openvino` is installed; nothing is imported."""
    return importlib.util.find_spec("openvino") is not None


def has_compiler() -> bool:
    """Whether torch.compile could build for the processor: a C++ compiler and the headers of this Python."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(shutil.which(name) for name in ("g++", "clang++", "c++")) and headers.is_file()


def _says(*names: str) -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in names)
