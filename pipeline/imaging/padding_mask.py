"""Which voxels of a stored volume hold no measured value: compact in memory, and a small file beside the volume.

Most scanners leave out the same circle in every slice, so each different plane is kept once, one bit a voxel.
`padding.npz` holds `planes`, `plane_of` and `shape_kji` as below; a series without padding has no such file.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import ContractError

PADDING_NAME = "padding.npz"


@dataclass(frozen=True, eq=False)
class PaddingMask:
    """Which voxels of a volume hold no measured value.

    shape_kji: of the volume. planes: packed bits of each different plane, uint8 (m, rows, ceil(columns / 8)), the first
    column in the highest bit. plane_of: for each slice its index in `planes`, int32 (k,), -1 where it has no padding.
    """

    shape_kji: tuple[int, int, int]
    planes: NDArray[np.uint8]
    plane_of: NDArray[np.int32]

    def to_array(self) -> NDArray[np.bool_]:
        """The mask as bool (k, j, i)."""
        whole = np.zeros(self.shape_kji, dtype=bool)
        fields = np.unpackbits(self.planes, axis=2, count=self.shape_kji[2]).view(bool)
        for k, index in enumerate(self.plane_of):
            if index >= 0:
                whole[k] = fields[index]
        return whole


def pack_plane(mask: NDArray[np.bool_]) -> bytes:
    """Bits of the mask of one plane, rows one after the other, as PaddingMask holds them."""
    return np.packbits(mask, axis=1).tobytes()


def mask_of_planes(packed: Sequence[bytes | None], shape_kji: tuple[int, int, int]) -> PaddingMask | None:
    """The mask of a volume from the packed planes of its slices, None for a slice or a volume without padding."""
    known: dict[bytes, int] = {}
    plane_of = np.full(shape_kji[0], -1, dtype=np.int32)
    for k, plane in enumerate(packed):
        if plane is not None:
            plane_of[k] = known.setdefault(plane, len(known))
    if not known:
        return None
    planes = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), shape_kji[1], -1)
    return PaddingMask(shape_kji, planes, plane_of)


def mask_of_array(mask: NDArray[np.bool_]) -> PaddingMask | None:
    """A bool mask (k, j, i) in compact form; None where it is empty."""
    k, j, i = mask.shape
    return mask_of_planes([pack_plane(plane) if plane.any() else None for plane in mask], (k, j, i))


def write_padding_mask(path: Path, mask: PaddingMask) -> None:
    """Write a mask; the same mask gives the same bytes."""
    np.savez_compressed(path, planes=mask.planes, plane_of=mask.plane_of, shape_kji=np.array(mask.shape_kji))


def read_padding_mask(series_folder: Path) -> NDArray[np.bool_] | None:
    """Which voxels of the stored series hold no measured value, bool (k, j, i); None where all do.

    Raises
    ------
    ContractError: the file is torn or is no mask.
    """
    path = series_folder / PADDING_NAME
    try:
        with np.load(path, allow_pickle=False) as stored:
            k, j, i = (int(size) for size in stored["shape_kji"])
            mask = PaddingMask((k, j, i), stored["planes"], stored["plane_of"])
        if mask.plane_of.shape != (k,) or mask.planes.shape[1:] != (j, -(-i // 8)) or mask.planes.dtype != np.uint8:
            raise ValueError
        return mask.to_array()
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error, zipfile.BadZipFile):
        todo = "Ingest the series again."
        raise ContractError("the mask of padding cannot be read", where=path.name, todo=todo) from None
