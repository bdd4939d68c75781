"""Voxels outside the scanner's field of view, found in one plane and set to one value.

A scanner reconstructs a circle and fills the rest of the square: with a value that PixelPaddingValue names (PS3.3
section C.7.5.1.1.2), with one that is no HU of anything (-2000, -2048, -3024), or with both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: below this nothing is real: scanners write -1024 for air
UNREAL_HU = -1500
#: a padding value above this may also stand for air or tissue, so only a field that touches the rim is padding
_MAYBE_REAL_HU = -1100


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


def replace_padding(hu: NDArray[np.int16], mask: NDArray[np.bool_], padding_hu: int) -> int:
    """Set the voxels of `mask` to `padding_hu` in place; how many had another value."""
    changed = int(np.count_nonzero(mask & (hu != np.int16(padding_hu))))
    if changed:
        np.copyto(hu, np.int16(padding_hu), where=mask)
    return changed


def _may_be_real(hu: NDArray[np.int16], named: NDArray[np.bool_]) -> bool:
    return bool(np.max(hu, where=named, initial=-32768) > _MAYBE_REAL_HU)


def _touching_rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The part of a mask that is connected to the rim of the plane; None where there is none."""
    if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
        return None
    import cv2  # loaded for the few series that need it

    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=4)
    rim = np.unique(np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1])))
    outside = np.zeros(int(labels.max()) + 1, dtype=bool)
    outside[rim[rim > 0]] = True
    return np.asarray(outside[labels])
