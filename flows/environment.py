"""What a run was computed with: versions, processor, threads, device. No name of a machine, user or folder."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flows.ranks import size

_PACKAGES = ("noduleflow", "torch", "torchvision", "monai", "numpy", "scipy", "scikit-learn", "mlflow", "prefect")


def environment() -> dict[str, Any]:
    """A flat record of versions and hardware, the same for the same installation."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "ranks": size(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "cuda": torch.version.cuda or "none",
        **{f"version_{name}": _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
