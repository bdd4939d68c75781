"""How large the file of a stored volume is at least: enough to see, without reading it, that it was not cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

#: names that the volume of a series may have
NAMES = ("volume.nii", "volume.nii.gz")
#: of a NIfTI-1 file without extensions
HEADER_BYTES = 352


def least_volume_bytes(path: str, shape_kji: Sequence[int]) -> int:
    """Bytes that so many int16 voxels (slices, rows, columns) take in a file of that name; 1 where it is compressed."""
    return 1 if path.endswith(".gz") else HEADER_BYTES + 2 * math.prod(shape_kji)


def holds_volume(folder: Path) -> bool:
    """Whether a folder has a volume that is not empty; its record is not read."""
    for name in NAMES:
        try:
            if (folder / name).stat().st_size:
                return True
        except OSError:
            continue
    return False
