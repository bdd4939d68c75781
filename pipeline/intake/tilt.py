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
#: points of the new grid to a pixel along the greater shear
_FINER = 2


def upright(
    hu: NDArray[np.int16],
    affine: NDArray[np.float64],
    padding_hu: int,
    padding: Sequence[NDArray[np.bool_] | None] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.float64], PaddingMask | None]:
    """A sheared volume resampled to an orthogonal grid, the affine of that grid, and its mask of padding.

    The step between slices becomes its part along the normal; slice k is moved in its plane by k times the rest, with
    a separable Lanczos kernel (Duchon 1979), so that every voxel keeps its patient position and nothing is resampled
    along the normal. Along the shear the grid is twice as fine as the slices were: on a grid as coarse as theirs,
    values between its points have lost the finest detail twice. The field grows so that no voxel is lost; what it has
    more is padding.

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
    fine = np.array([_FINER, 1] if abs(shear[0]) >= abs(shear[1]) else [1, _FINER])

    straight = affine.copy()
    straight[:3, 0] = step - shear[0] * column - shear[1] * row
    straight[:3, 3] = affine[:3, 3] + lowest[0] * column + lowest[1] * row
    straight[:3, 1:3] /= fine
    out = np.full((len(hu), *(field * fine)), padding_hu, dtype=np.int16)
    packed = []
    outside = np.empty(out.shape[1:], dtype=np.bool_)
    for k, plane in enumerate(hu):
        outside[...] = True
        for part in np.ndindex(*fine):
            # where pixel (0, 0) of the slice lies among the points of the grid that are `part` of a pixel further
            place = k * shear - lowest - np.array(part) / fine
            base = np.floor(place + _NO_SHIFT).astype(int)
            moved, empty = _moved(plane, np.maximum(place - base, 0.0), None if padding is None else padding[k])
            points = tuple(slice(own, None, finer) for own, finer in zip(part, fine, strict=True))
            low, high = np.maximum(base, 0), np.minimum(base + moved.shape, field)
            there = tuple(slice(*pair) for pair in zip(low, high, strict=True))
            here = tuple(slice(*pair) for pair in zip(low - base, high - base, strict=True))
            out[k][points][there] = moved[here]
            outside[points][there] = empty[here] if isinstance(empty, np.ndarray) else empty
        out[k][outside] = padding_hu
        packed.append(pack_plane(outside) if outside.any() else None)
    return out, straight, mask_of_planes(packed, (len(hu), out.shape[1], out.shape[2]))


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
    before = [int(part > 0.5) for part in shift]
    border = (before[0], grows[0] - before[0], before[1], grows[1] - before[1], cv2.BORDER_REPLICATE)
    nearest, empty = cv2.copyMakeBorder(plane, *border), cv2.copyMakeBorder(padding.view(np.uint8), *border)
    reach = np.ones([2 * _LOBES * grow + 1 for grow in grows], dtype=np.uint8)
    touched = cv2.dilate(empty, reach, borderType=cv2.BORDER_REPLICATE).view(np.bool_)
    np.copyto(moved, nearest, where=touched)
    return moved, empty.view(np.bool_)


def _kernel(shift: float) -> NDArray[np.float32]:
    """Weights of the pixels -3 to +2 of one that takes the value `shift` pixels before it; their sum is 1."""
    distance = np.arange(-_LOBES, _LOBES) + shift
    weights = np.sinc(distance) * np.sinc(distance / _LOBES)
    return np.asarray(weights / weights.sum(), dtype=np.float32)
