"""From the positions of slices to an affine, or to the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal

#: slices closer than this along the normal claim the same place, in mm
SAME_PLACE_MM = 0.01
#: a grid through the first and last slice is as good as a fitted one while no slice is further off it, in mm
_EXACT_MM = 0.01
#: most places that a refusal names
MOST_NAMED = 8


@dataclass(frozen=True)
class Grid:
    """A regular, possibly sheared grid through all slices of a volume.

    affine: (k, j, i, 1) -> LPS mm, float64 (4, 4). n_slices: of the grid, missing ones counted. distance_mm: of
    neighbouring planes along their normal.
    tilt_deg, drift_mm: angle between slice step and normal, and how far it carries the last slice sideways.
    worst_mm, worst: largest distance of a slice from its place on the grid, and which slice.
    missing: k of places that no slice takes; empty unless asked for.
    """

    affine: NDArray[np.float64]
    n_slices: int
    distance_mm: float
    tilt_deg: float
    drift_mm: float
    worst_mm: float
    worst: int
    missing: tuple[int, ...] = ()


def lacking_geometry(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Those whose position, orientation or pixel spacing is not there or makes no sense."""
    stated = [
        header
        for header in headers
        if header.position is not None and header.orientation is not None and header.pixel_spacing is not None
    ]
    if not stated:
        return list(headers)
    orientations = np.array([header.orientation for header in stated])
    rows, columns = orientations[:, :3], orientations[:, 3:]
    spacings = np.array([header.pixel_spacing for header in stated])
    sound = (
        (np.abs(np.linalg.norm(rows, axis=1) - 1) < 0.01)
        & (np.abs(np.linalg.norm(columns, axis=1) - 1) < 0.01)
        & (np.abs(np.einsum("na,na->n", rows, columns)) < 0.01)
        & ((spacings > 0) & (spacings < 100)).all(axis=1)
        & (np.abs(positions_of(stated)) < 1e5).all(axis=1)
    )
    if len(stated) == len(headers) and sound.all():
        return []
    good = {id(header) for header, is_sound in zip(stated, sound, strict=True) if is_sound}
    return [header for header in headers if id(header) not in good]


def positions_of(slices: Iterable[SliceHeader]) -> NDArray[np.float64]:
    """ImagePositionPatient of each slice, LPS mm, (n, 3); every slice must have one."""
    return np.array([header.position for header in slices], dtype=np.float64)


def normal_of(header: SliceHeader) -> NDArray[np.float64]:
    """Unit normal of the plane: row direction x column direction."""
    orientation = np.array(header.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def sort_along_normal(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices in order of their position projected on the normal of one; numbers in headers are not asked.

    The order does not depend on that of the input.
    """
    normal = normal_of(min(slices, key=lambda header: (header.sop_instance_uid, header.frame)))
    heights = np.round(positions_of(slices) @ normal, 6).tolist()
    order = sorted(range(len(slices)), key=lambda n: (heights[n], slices[n].sop_instance_uid, slices[n].frame))
    return [slices[index] for index in order]


def heights_of(slices: Sequence[SliceHeader]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, mm, (n,)."""
    return np.asarray(positions_of(slices) @ normal_of(slices[0]))


def fit_grid(slices: Sequence[SliceHeader], tolerance_mm: float, max_missing: int = 0) -> Grid | Refusal:
    """The grid of slices in order, all at different places and of one plane grid.

    Slices must lie on a line at equal steps, every one within the tolerance of its place: the line runs through
    the first and the last slice or, where headers are rounded, nearest to all (least squares), so that a jitter of
    micrometres does not add up and a missing slice is never stretched over. A step that is not along the normal is
    kept: it is the shear of a tilted gantry. max_missing: how many neighbouring places may be empty.
    """
    positions, normal = positions_of(slices), normal_of(slices[0])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    places = np.concatenate(([0], np.cumsum(np.maximum(np.rint(gaps / usual), 1)))).astype(np.int64)
    empty = int(places[-1]) + 1 - len(slices)
    if 4 * np.count_nonzero(np.diff(places) > 1) > len(gaps):
        return _irregular(slices, gaps, usual, tolerance_mm)

    start, step, off = _line(positions, places)
    tolerance = min(tolerance_mm, 0.2 * usual)
    along = np.abs(off @ normal)
    if along.max() > (tolerance if not empty else 2 * tolerance):
        return _irregular(slices, gaps, usual, tolerance)
    if empty and (np.diff(places).max() - 1 > max_missing or along.max() > tolerance):
        return _missing(slices, gaps, places, usual)
    across = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    first = slices[0]
    row_mm, column_mm = first.pixel_spacing or (1.0, 1.0)
    if across.max() > max(tolerance, 0.1 * min(row_mm, column_mm)):
        worst = int(across.argmax())
        detail = f"slice {worst + 1} of {len(slices)} lies {across[worst]:.2f} mm beside the line of the others"
        return Refusal(ReasonCode.IRREGULAR_SPACING, detail, (slices[worst],))

    orientation = np.median([header.orientation for header in slices], axis=0)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[3:] * row_mm
    affine[:3, 2] = orientation[:3] * column_mm
    affine[:3, 3] = start
    lateral = float(np.linalg.norm(step - (step @ normal) * normal))
    turned = np.array([header.orientation for header in slices]) - orientation
    off_mm = np.linalg.norm(off, axis=1) + (
        np.linalg.norm(turned[:, 3:], axis=1) * row_mm * first.rows
        + np.linalg.norm(turned[:, :3], axis=1) * column_mm * first.columns
    )
    return Grid(
        affine,
        n_slices=int(places[-1]) + 1,
        distance_mm=float(step @ normal),
        tilt_deg=math.degrees(math.atan2(lateral, float(step @ normal))),
        drift_mm=lateral * int(places[-1]),
        worst_mm=float(off_mm.max()),
        worst=int(off_mm.argmax()),
        missing=tuple(np.setdiff1d(np.arange(places[-1] + 1), places).tolist()),
    )


def _line(
    positions: NDArray[np.float64], places: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Start and step (3,) of the line on which `places` are nearest to the positions, and what is left over (n, 3)."""
    start, step = positions[0], (positions[-1] - positions[0]) / places[-1]
    off = positions - (start + places[:, None] * step)
    if np.abs(off).max() > _EXACT_MM:
        centred = places - places.mean()
        step = centred @ positions / (centred @ centred)
        start = positions.mean(axis=0) - places.mean() * step
        off = positions - (start + places[:, None] * step)
    return start, step, off


def _missing(
    slices: Sequence[SliceHeader], gaps: NDArray[np.float64], places: NDArray[np.int64], usual: float
) -> Refusal:
    holes = np.flatnonzero(np.diff(places) > 1)
    where = "; ".join(
        f"{places[hole + 1] - places[hole] - 1} after slice {hole + 1} ({gaps[hole]:.2f} mm)"
        for hole in holes[:MOST_NAMED]
    )
    more = f" and {len(holes) - MOST_NAMED} more places" if len(holes) > MOST_NAMED else ""
    total = int(places[-1]) + 1 - len(slices)
    detail = f"{total} missing at {len(holes)} place(s) where {usual:.2f} mm is usual: {where}{more}"
    return Refusal(ReasonCode.MISSING_SLICES, detail, _beside(slices, holes))


def _irregular(slices: Sequence[SliceHeader], gaps: NDArray[np.float64], usual: float, tolerance_mm: float) -> Refusal:
    odd = np.flatnonzero(np.abs(gaps - usual) > tolerance_mm)
    if not len(odd):
        # each step is nearly right, and together they leave the line
        odd = np.array([int(np.abs(gaps - usual).argmax())])
    where = "; ".join(f"{gaps[gap]:.2f} mm after slice {gap + 1}" for gap in odd[:MOST_NAMED])
    more = f" and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
    detail = f"steps from {gaps.min():.2f} to {gaps.max():.2f} mm, usually {usual:.2f} mm: {where}{more}"
    return Refusal(ReasonCode.IRREGULAR_SPACING, detail, _beside(slices, odd))


def _beside(slices: Sequence[SliceHeader], gaps: NDArray[np.int64]) -> tuple[SliceHeader, ...]:
    """The slices on both sides of some gaps, each once."""
    return tuple(slices[index] for index in sorted({int(gap) + side for gap in gaps[:MOST_NAMED] for side in (0, 1)}))
