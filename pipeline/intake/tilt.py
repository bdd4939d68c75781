"""A volume from a tilted gantry on an orthogonal grid: each slice moved in its own plane by what the tilt moved it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import GeometryError
from pipeline.imaging.padding_mask import PaddingMask, mask_of_planes, pack_plane

#: half width of the Lanczos kernel, in pixels
_LOBES = 3
#: shifts below this are none, in pixels
_NO_SHIFT = 1e-6
#: a field that grows by more than this factor is a stack of slices side by side, no tilt
_MOST_GROWTH = 3.0


def upright(
    hu: NDArray[np.int16],
    affine: NDArray[np.float64],
    padding_hu: int,
    padding: Sequence[NDArray[np.bool_] | None] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.float64], PaddingMask | None]:
    """A sheared volume resampled to an orthogonal grid, the affine of that grid, and its mask of padding.

    The step between slices becomes its part along the normal; slice k is moved in its plane by k times the rest, with
    a separable Lanczos kernel (Duchon 1979), so that every voxel keeps its patient position and nothing is resampled
    along the normal. The field grows so that no voxel is lost; the rest of it is `padding_hu`.

    hu: int16 (k, j, i). affine: (k, j, i, 1) -> LPS mm, its j and i axes at right angles. padding: for each slice the
    mask (j, i) of voxels that hold no tissue, None where all do; near them the nearest voxel is taken and nothing is
    mixed.

    Raises
    ------
    GeometryError: the shear is so strong that the field would be three times the slice.
    """
    step, column, row = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    shear = np.array([step @ column / (column @ column), step @ row / (row @ row)])
    whole = shear * (len(hu) - 1)
    lowest = np.floor(np.minimum(whole, 0) + _NO_SHIFT)
    field = np.array(hu.shape[1:]) + np.ceil(np.maximum(whole, 0) - _NO_SHIFT).astype(int) - lowest.astype(int)
    if field.prod() > _MOST_GROWTH * math.prod(hu.shape[1:]):
        raise GeometryError(f"the shear would make a field of {field[0]} x {field[1]} pixels")

    straight = affine.copy()
    straight[:3, 0] = step - shear[0] * column - shear[1] * row
    straight[:3, 3] = affine[:3, 3] + lowest[0] * column + lowest[1] * row
    out = np.full((len(hu), *field), padding_hu, dtype=np.int16)
    packed = []
    outside = np.empty(field, dtype=np.bool_)
    for k, plane in enumerate(hu):
        place = k * shear - lowest
        base = np.floor(place + _NO_SHIFT).astype(int)
        moved, empty = _moved(plane, np.maximum(place - base, 0.0), None if padding is None else padding[k])
        rows, columns = slice(base[0], base[0] + moved.shape[0]), slice(base[1], base[1] + moved.shape[1])
        out[k, rows, columns] = moved
        outside[...] = True
        outside[rows, columns] = empty
        out[k][outside] = padding_hu
        packed.append(pack_plane(outside) if outside.any() else None)
    return out, straight, mask_of_planes(packed, (len(hu), int(field[0]), int(field[1])))


def _moved(
    plane: NDArray[np.int16], shift: NDArray[np.float64], padding: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int16], NDArray[np.bool_] | bool]:
    """A plane moved by a fraction of a pixel, and its padding; one row or column longer where it moves at all."""
    grows = [int(part > _NO_SHIFT) for part in shift]
    if not any(grows):
        return plane, False if padding is None else padding
    wide = cv2.copyMakeBorder(plane, 0, grows[0], 0, grows[1], cv2.BORDER_REPLICATE)
    kernels = [
        _kernel(float(part)) if grow else np.ones(1, dtype=np.float32) for part, grow in zip(shift, grows, strict=True)
    ]
    anchor = (_LOBES * grows[1], _LOBES * grows[0])
    smooth = cv2.sepFilter2D(
        wide.astype(np.float32), -1, kernels[1], kernels[0], anchor=anchor, borderType=cv2.BORDER_REPLICATE
    )
    # a sharp kernel overshoots at steps: stay within what the slice holds
    moved = np.rint(np.clip(smooth, int(plane.min()), int(plane.max()), out=smooth)).astype(np.int16)
    if padding is None or not padding.any():
        return moved, False
    marked = cv2.copyMakeBorder(padding.view(np.uint8), 0, grows[0], 0, grows[1], cv2.BORDER_REPLICATE)
    reach = np.ones([2 * _LOBES * grow + 1 for grow in grows], dtype=np.uint8)
    touched = cv2.dilate(marked, reach, borderType=cv2.BORDER_REPLICATE).astype(bool)
    nearest = np.ix_(
        *(np.maximum(np.arange(size) - int(part > 0.5), 0) for size, part in zip(wide.shape, shift, strict=True))
    )
    moved[touched] = wide[nearest][touched]
    return moved, marked[nearest].astype(bool)


def _kernel(shift: float) -> NDArray[np.float32]:
    """Weights of the pixels -3 to +2 of one that takes the value `shift` pixels before it; their sum is 1."""
    distance = np.arange(-_LOBES, _LOBES) + shift
    weights = np.sinc(distance) * np.sinc(distance / _LOBES)
    return np.asarray(weights / weights.sum(), dtype=np.float32)
