"""A lock without torch's packages for NVIDIA: `without_cuda.py requirements.lock > cpu.lock`.

The processor-only torch is in an index of its own, with digests of its own; deploy/torch-cpu.txt holds them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_CUDA = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")


def without_cuda(lock: str) -> str:
    """The entries of a lock, each with its hashes, that do not belong to torch and its libraries for NVIDIA."""
    entries = re.split(r"\n(?=\S)", lock.strip())
    return "\n".join(entry for entry in entries if not _CUDA.match(entry)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(without_cuda(Path(sys.argv[1]).read_text(encoding="utf-8")))
