"""Voxels outside the scanner's field of view: found in each plane, set to one value, and kept as a mask.

A scanner reconstructs a circle and fills the rest of the square: with a value that PixelPaddingValue names (PS3.3
section C.7.5.1.1.2), with one that is no HU of anything (-2000, -2048, -3024), or with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: below this nothing is real: scanners write -1024 for air
UNREAL_HU = -1500
#: a padding value above this may also stand for air or tissue, so only a field that touches the rim is padding
_MAYBE_REAL_HU = -1100


@dataclass(frozen=True, eq=False)
class PaddingMask:
    """Which voxels of a volume hold no measured value.

    shape_kji: of the volume. planes: packed bits of each different plane, uint8 (m, rows, ceil(columns / 8)), the first
    column in the highest bit. plane_of: for each slice its row of `planes`, int32 (k,), -1 where it has no padding.
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


def find_padding(hu: NDArray[np.int16], lowest: int, named: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Mask (rows, columns) of padding in a plane of HU whose least value is `lowest`; None where there is none.

    named: where the header's padding value stands.
    """
    if named is not None and _may_be_real(hu, named):
        named = _touching_rim(named)
    if lowest > UNREAL_HU:
        return named
    unreal = hu <= UNREAL_HU
    return unreal if named is None else unreal | named


def _may_be_real(hu: NDArray[np.int16], named: NDArray[np.bool_]) -> bool:
    return bool(np.max(hu, where=named, initial=-32768) > _MAYBE_REAL_HU)


def _touching_rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The part of a mask that is connected to the rim of the plane; None where there is none."""
    if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
        return None
    import cv2  # loaded for the few series that need it

    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    rim = np.unique(np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1])))
    outside = np.zeros(int(labels.max()) + 1, dtype=bool)
    outside[rim[rim > 0]] = True
    return np.asarray(outside[labels])


def replace_padding(hu: NDArray[np.int16], mask: NDArray[np.bool_], padding_hu: int) -> int:
    """Set the voxels of `mask` to `padding_hu` in place; how many had another value."""
    changed = int(np.count_nonzero(mask & (hu != np.int16(padding_hu))))
    if changed:
        np.copyto(hu, np.int16(padding_hu), where=mask)
    return changed


def pack_plane(mask: NDArray[np.bool_]) -> bytes:
    """Bits of a plane's mask, rows one after the other, as PaddingMask holds them."""
    return np.packbits(mask, axis=1).tobytes()


def padding_mask(packed: Sequence[bytes | None], shape_kji: tuple[int, int, int]) -> PaddingMask | None:
    """The mask of a volume from the packed planes of its slices; planes that are the same are kept once."""
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
    return padding_mask([pack_plane(plane) if plane.any() else None for plane in mask], (k, j, i))
