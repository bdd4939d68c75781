"""What a run was computed with: code, lock, versions, processor, threads. No name of a machine, user or folder."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from data_contracts.records import sha256_file
from flows.learning.ranks import size

ENVIRONMENT_FILE = "environment.json"
#: said of what cannot be known: no git clone, no lock beside the code
UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parents[2]
_LOCK = _ROOT / "requirements.lock"
_OURS = ("data_contracts", "pipeline", "models", "flows")
_PACKAGES = (
    "noduleflow", "torch", "torchvision", "monai", "numpy", "scipy", "scikit-learn", "mlflow", "prefect", "openvino",
)  # fmt: skip
#: what torch, oneDNN and OpenVINO choose their kernels by
_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """A flat record of code, versions and hardware, the same for the same installation.

    git_dirty: "yes" where a tracked file, or any file of the four packages, is not as committed. code_sha256: over the
    sources of the four packages, so that a copy without git can be told from another. lock_differs: packages of the
    lock that are installed in another version, with commas; "" where there is none.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor_capability": torch.backends.cpu.get_cpu_capability(),
        "processor_flags": _processor_flags(),
        "threads": torch.get_num_threads(),
        "ranks": size(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "cuda": torch.version.cuda or "none",
        **_commit(),
        "code_sha256": code_sha256(),
        "lock_sha256": sha256_file(_LOCK) if _LOCK.is_file() else UNKNOWN,
        "lock_differs": ",".join(lock_differences()),
        **{f"version_{name}": installed().get(name, "absent") for name in _PACKAGES},
    }


@cache
def code_sha256() -> str:
    """sha256 over names and bytes of every source and preset of the four packages, as this process found them."""
    digest = hashlib.sha256()
    for package in _OURS:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(f"{path.relative_to(_ROOT).as_posix()}\n{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def lock_differences() -> list[str]:
    """Packages that the lock names and that are installed here in another version; those that are absent count not."""
    if not _LOCK.is_file():
        return []
    # A package may stand there once a platform or Python: any of its versions will do.
    locked: dict[str, set[str]] = {}
    for name, number in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", _LOCK.read_text(), flags=re.MULTILINE):
        locked.setdefault(name, set()).add(number)
    there = installed()
    return sorted(name for name, numbers in locked.items() if there.get(name, min(numbers)) not in numbers)


@cache
def installed() -> dict[str, str]:
    """Version of every installed package by its name as locks write it, without a build's own suffix (`+cpu`)."""
    return {
        re.sub(r"[-_.]+", "-", found.name).lower(): found.version.split("+")[0]
        for found in reversed(list(distributions()))  # of two with one name the first on the path is imported
    }


def _git(*words: str) -> str | None:
    """What git says of the folder of the code; None where there is no git or no clone."""
    # The clone may belong to another user than the one who trains, as in a container.
    command = ["git", "-c", "safe.directory=*", "-C", str(_ROOT), *words]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> dict[str, str]:
    top = _git("rev-parse", "--show-toplevel")
    # A copy without git may lie in a clone of something else.
    if top is None or Path(top).resolve() != _ROOT:
        return {"git_commit": UNKNOWN, "git_dirty": UNKNOWN}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    untracked = _git("status", "--porcelain", "--", *_OURS)
    return {"git_commit": _git("rev-parse", "HEAD") or UNKNOWN, "git_dirty": "yes" if changed or untracked else "no"}


def _processor_flags() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return UNKNOWN
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    has = set(found[1].split()) if found else set()
    return " ".join(flag for flag in _FLAGS if flag in has)
