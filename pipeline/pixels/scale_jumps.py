"""Slices whose values stand on another scale than their neighbours': a rescale that is wrong in a part of a series.

Two kinds of evidence. Where the headers of two neighbours rescale differently, one rescale for both must not make
them far more alike than their own do. Where they rescale alike, all voxels at once moved by what a forgotten intercept
is and the picture stayed the same, or moved back some slices later, or became none of a patient; or they moved by any
other large amount with next to no doubt about the picture. An edge of the body moves a part of the voxels, and leaving
the body leaves no picture and does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.headers.slice_header import SliceHeader
from pipeline.pixels.padding import UNREAL_HU

#: what a forgotten or doubled intercept moves a slice by, with the anatomy that changes between two slices
_INTERCEPT_HU = (900.0, 1130.0)
#: smaller moves are contrast, beam hardening or a change of table
_LEAST_HU = 300.0
#: a voxel that moved by less than this did not
_SAME_HU = 150.0
#: no slice of a patient has its median here
_HIGH_MEDIAN_HU = 700.0
_LEAST_SAMPLES = 16


@dataclass(frozen=True)
class OffScale:
    """indices: slices that stand off the others. detail: which, and by how much."""

    indices: tuple[int, ...]
    detail: str


@dataclass(frozen=True)
class _Move:
    """hu: by how much all voxels of a slice moved against the one before. certain: by this pair alone."""

    hu: float
    certain: bool


def off_scale_slices(
    samples: NDArray[np.int16], measured: NDArray[np.bool_] | None, slices: Sequence[SliceHeader]
) -> OffScale | None:
    """The slices that stand on another scale than the rest; None where all agree.

    samples: HU of every slice on a coarse grid, (k, j, i). measured: which of them are no padding, None for all.
    """
    same = _rescaled_alike(slices)
    moves: dict[int, _Move] = {}
    for index in range(len(samples) - 1):
        both = None if measured is None else measured[index] & measured[index + 1]
        previous, current = samples[index], samples[index + 1]
        count = previous.size if both is None else int(np.count_nonzero(both))
        if count < _LEAST_SAMPLES or (same[index] and _stands_still(previous, current, both, count)):
            continue
        one = (previous.reshape(-1) if both is None else previous[both]).astype(np.float64)
        other = (current.reshape(-1) if both is None else current[both]).astype(np.float64)
        move = _moved(one, other) if same[index] else _misfit(one, other, slices[index], slices[index + 1])
        if move is not None:
            moves[index + 1] = move
    jumps = np.zeros(len(samples))
    for index in _believed(moves):
        jumps[index] = moves[index].hu
    if not jumps.any():
        return None
    odd = _odd_slices(samples, measured, jumps)
    first = int(np.flatnonzero(jumps)[0])
    shown = ", ".join(str(index + 1) for index in odd[:8]) + (", ..." if len(odd) > 8 else "")
    detail = (
        f"slice {shown} of {len(samples)} on another scale than the others: "
        f"{jumps[first]:+.0f} HU from slice {first} to slice {first + 1}"
    )
    return OffScale(tuple(odd), detail)


def _stands_still(one: NDArray[np.int16], other: NDArray[np.int16], both: NDArray[np.bool_] | None, count: int) -> bool:
    """Whether half of the voxels are where they were: there most pairs end."""
    # in 16 bits a difference beyond them comes round; one of 65386 HU or more does not occur
    still = np.abs(other - one) < _SAME_HU
    return int(np.count_nonzero(still if both is None else still & both)) >= 0.5 * count


def _rescaled_alike(slices: Sequence[SliceHeader]) -> NDArray[np.bool_]:
    """For each pair of neighbours, whether their headers rescale by the same numbers."""
    rescales = np.array([(header.rescale_slope or 1.0, header.rescale_intercept or 0.0) for header in slices])
    return np.asarray((rescales[1:] == rescales[:-1]).all(axis=1))


def _misfit(
    one: NDArray[np.float64], other: NDArray[np.float64], first: SliceHeader, second: SliceHeader
) -> _Move | None:
    """The move between two neighbours that are alike before they are rescaled and unlike after."""
    slopes = first.rescale_slope or 1.0, second.rescale_slope or 1.0
    intercepts = first.rescale_intercept or 0.0, second.rescale_intercept or 0.0
    as_first = (other - intercepts[1]) / slopes[1] * slopes[0] + intercepts[0]
    own, shared = float(np.mean(np.abs(other - one))), float(np.mean(np.abs(as_first - one)))
    forgotten = _INTERCEPT_HU[0] <= abs(intercepts[1] - intercepts[0]) <= _INTERCEPT_HU[1]
    if own < _SAME_HU or shared > (0.6 if forgotten else 0.3) * own:
        return None
    hu = float(np.median(other - as_first))
    return _Move(hu, True) if abs(hu) >= _LEAST_HU else None


def _moved(one: NDArray[np.float64], other: NDArray[np.float64]) -> _Move | None:
    """The move of all voxels of a slice at once; None where a part stayed, or each went its own way."""
    difference = other - one
    hu = float(np.median(difference))
    size = abs(hu)
    still = float(np.mean(np.abs(difference) < _SAME_HU))
    if size < _LEAST_HU or still > 0.1:
        return None
    ends = np.abs(np.percentile(other, (2, 98)) - np.percentile(one, (2, 98)) - hu).max()
    correlation = float(np.corrcoef(one, other)[0, 1]) if min(one.std(), other.std()) > 1 else 0.0
    spread = float(np.mean(np.abs(difference - hu)))
    if _INTERCEPT_HU[0] <= size <= _INTERCEPT_HU[1]:
        # something dense may come into view with the slice, then the ends move apart and next to no voxel stays
        if ends > 0.4 * size and not (correlation >= 0.8 and still < 0.02 and spread < 0.15 * size):
            return None
        unreal = max(float(np.median(one)), float(np.median(other))) > _HIGH_MEDIAN_HU
        return _Move(hu, unreal or correlation >= 0.5)
    certain = correlation >= 0.9 and ends < 0.2 * size and spread < 0.2 * size
    return _Move(hu, True) if certain else None


def _believed(moves: dict[int, _Move]) -> list[int]:
    """Moves that are certain, and those that are undone by a later one."""
    believed = {index for index, move in moves.items() if move.certain}
    order = sorted(moves)
    for one, other in pairwise(order):
        if abs(moves[one].hu + moves[other].hu) < _SAME_HU:
            believed |= {one, other}
    return sorted(believed)


def _odd_slices(
    samples: NDArray[np.int16], measured: NDArray[np.bool_] | None, jumps: NDArray[np.float64]
) -> list[int]:
    """The slices on a wrong scale: of the scales between the jumps, the one most like HU of a patient is right."""
    levels = np.round(np.cumsum(jumps) / _LEAST_HU)
    known = np.ones(samples.shape, dtype=bool) if measured is None else measured
    likeness: dict[float, float] = {}
    for level in np.unique(levels).tolist():
        at = levels == level
        values = samples[at][known[at]]
        real = np.mean(np.abs(values) < 150) + np.mean((values > -1100) & (values < -600))
        wrong = np.mean((values > 700) & (values < 1400)) + np.mean(values <= UNREAL_HU)
        likeness[level] = float(real - 2 * wrong) + 0.5 * np.count_nonzero(at) / len(levels)
    right = max(likeness, key=lambda level: likeness[level])
    return [int(index) for index in np.flatnonzero(levels != right)]
