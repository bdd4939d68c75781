"""Slices whose values stand on another scale than their neighbours': a rescale that is wrong in a part of a series.

Two kinds of evidence. Where the headers of two neighbours rescale differently, one rescale for both must not make
them far more alike than their own do. Where they rescale alike, all voxels at once moved by what a forgotten intercept
is, the picture staying the same, or by any other large amount with next to no doubt about the picture. An edge of the
body moves a part of the voxels, and leaving the body leaves no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.intake.headers import SliceHeader
from pipeline.intake.padding import UNREAL_HU

#: in samples: a voxel that the header calls padding
PADDED = np.iinfo(np.int16).min

#: what a forgotten or doubled intercept moves a slice by, with the anatomy that changes between two slices
_INTERCEPT_HU = (925.0, 1100.0)
#: smaller moves are contrast, beam hardening or a change of table
_LEAST_HU = 300.0
#: a voxel that moved by less than this did not
_SAME_HU = 150.0
_LEAST_SAMPLES = 16


@dataclass(frozen=True)
class OffScale:
    """indices: slices that stand off the others. detail: which, and by how much."""

    indices: tuple[int, ...]
    detail: str


def off_scale_slices(samples: NDArray[np.int16], slices: Sequence[SliceHeader]) -> OffScale | None:
    """The slices that stand on another scale than most; None where all agree.

    samples: HU of every slice on a coarse grid, (k, j, i); values up to UNREAL_HU are padding.
    """
    measured = samples > UNREAL_HU
    jumps = np.zeros(len(samples))
    same = _rescaled_alike(slices)
    difference = np.subtract(samples[1:], samples[:-1], dtype=np.int32)
    both = measured[1:] & measured[:-1]
    # most pairs end here: half of their voxels are where they were
    still = np.count_nonzero((np.abs(difference) < _SAME_HU) & both, axis=(1, 2))
    counts = np.count_nonzero(both, axis=(1, 2))
    for index in np.flatnonzero((counts >= _LEAST_SAMPLES) & ((still < 0.5 * counts) | ~same)).tolist():
        one, other = samples[index][both[index]], samples[index + 1][both[index]]
        if same[index]:
            jumps[index + 1] = _moved(one.astype(np.float64), other.astype(np.float64))
        else:
            jumps[index + 1] = _misfit(one.astype(np.float64), other.astype(np.float64), *slices[index : index + 2])
    if not jumps.any():
        return None
    # slices between the same two jumps stand on one scale; the scale of most is taken for the right one
    levels = np.round(np.cumsum(jumps) / _LEAST_HU)
    values, sizes = np.unique(levels, return_counts=True)
    right = values[sizes.argmax()]
    odd = np.flatnonzero(levels != right)
    first = int(np.flatnonzero(jumps)[0])
    shown = ", ".join(str(index + 1) for index in odd[:8].tolist()) + (", ..." if len(odd) > 8 else "")
    detail = (
        f"slice {shown} of {len(samples)} on another scale than the others: "
        f"{jumps[first]:+.0f} HU from slice {first} to slice {first + 1}"
    )
    return OffScale(tuple(odd.tolist()), detail)


def _rescaled_alike(slices: Sequence[SliceHeader]) -> NDArray[np.bool_]:
    """For each pair of neighbours, whether their headers rescale by the same numbers."""
    rescales = np.array([(header.rescale_slope or 1.0, header.rescale_intercept or 0.0) for header in slices])
    return np.asarray((rescales[1:] == rescales[:-1]).all(axis=1))


def _misfit(one: NDArray[np.float64], other: NDArray[np.float64], first: SliceHeader, second: SliceHeader) -> float:
    """HU between two neighbours that are alike before they are rescaled and unlike after; 0 where it is not so."""
    slope, intercept = first.rescale_slope or 1.0, first.rescale_intercept or 0.0
    stored = (other - (second.rescale_intercept or 0.0)) / (second.rescale_slope or 1.0)
    as_first = stored * slope + intercept
    own, shared = float(np.mean(np.abs(other - one))), float(np.mean(np.abs(as_first - one)))
    if own < _SAME_HU or shared > 0.6 * own:
        return 0.0
    move = float(np.median(other - as_first))
    return move if abs(move) >= _LEAST_HU else float(np.copysign(_LEAST_HU, move))


def _moved(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """HU by which all voxels of a slice moved against the one before; 0 where they did not."""
    difference = other - one
    move = float(np.median(difference))
    if abs(move) < _LEAST_HU:
        return 0.0
    still = float(np.mean(np.abs(difference) < _SAME_HU))
    spread = float(np.mean(np.abs(difference - move)))
    ends = np.percentile(other, (2, 98)) - np.percentile(one, (2, 98))
    deviation = one.std(), other.std()
    correlation = float(np.corrcoef(one, other)[0, 1]) if min(deviation) > 1 else 0.0
    if _INTERCEPT_HU[0] <= abs(move) <= _INTERCEPT_HU[1]:
        is_move = correlation >= 0.5 and still <= 0.1 and np.abs(ends - move).max() < 0.25 * abs(move)
    else:
        is_move = correlation >= 0.9 and still <= 0.02 and np.abs(ends - move).max() < 0.2 * abs(move)
        is_move = is_move and spread < 0.2 * abs(move)
    return move if is_move else 0.0
