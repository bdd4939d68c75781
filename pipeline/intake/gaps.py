"""Missing slices interpolated between their neighbours, where the policy of a site allows it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note
from pipeline.intake.geometry import MOST_NAMED

#: for each plane the voxels without tissue (rows, columns), None where all have
PlaneMasks = list[NDArray[np.bool_] | None]


def present_places(n_slices: int, missing: Sequence[int]) -> NDArray[np.int64]:
    """Places k of a volume of `n_slices` that slices take."""
    return np.setdiff1d(np.arange(n_slices), missing)


def fill_missing(
    hu: NDArray[np.int16], missing: Sequence[int], padding_hu: int, padding: PlaneMasks
) -> tuple[NDArray[np.int16], PlaneMasks]:
    """Volume (k, j, i) with the planes of `missing` interpolated linearly between their neighbours, and its padding.

    hu: the planes that are there, in order. missing: places in the volume that comes back; never its first or last.
    padding: for each plane of hu the mask of voxels that hold no tissue, None where all do. Where one neighbour is
    padding the other's value is taken, where both are there is padding.
    """
    n_slices = len(hu) + len(missing)
    present = present_places(n_slices, missing)
    full = np.empty((n_slices, *hu.shape[1:]), dtype=np.int16)
    masks: PlaneMasks = [None] * n_slices
    for index, place in enumerate(present):
        full[place] = hu[index]
        masks[place] = padding[index]
    for below, above in pairwise(present):
        if above - below == 1:
            continue
        low, high = full[below].astype(np.float32), full[above].astype(np.float32)
        lower, upper = masks[below], masks[above]
        low, high = _beside(low, lower, high), _beside(high, upper, low)
        both = None if lower is None or upper is None else lower & upper
        for place in range(below + 1, above):
            full[place] = np.rint(low + np.float32((place - below) / (above - below)) * (high - low))
            if both is not None:
                full[place][both] = padding_hu
                masks[place] = both
    return full, masks


def _beside(
    plane: NDArray[np.float32], padding: NDArray[np.bool_] | None, other: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The plane with the values of the other where it is padding."""
    return plane if padding is None else np.where(padding, other, plane)


def interpolated_note(slices: Sequence[SliceHeader], n_slices: int, missing: Sequence[int]) -> Note:
    """Finding with the places and their count; the slices named are the neighbours."""
    beside = np.flatnonzero(np.diff(present_places(n_slices, missing)) > 1)
    named = sorted({int(gap) + side for gap in beside for side in (0, 1)})
    numbers = ", ".join(str(place + 1) for place in missing[:MOST_NAMED]) + (
        ", ..." if len(missing) > MOST_NAMED else ""
    )
    detail = f"{len(missing)} of {n_slices} slices interpolated at {len(beside)} place(s): slice {numbers}"
    return Note(ReasonCode.SLICES_INTERPOLATED, detail, tuple(slices[index] for index in named))
