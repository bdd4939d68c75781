"""From the positions of slices to an affine, or to the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.reasons import ReasonCode
from pipeline.intake.headers import SliceHeader

#: direction cosines differ by less than this on slices of one volume (0.03 degrees)
ORIENTATION_TOLERANCE = 5e-4
#: and pixel spacings by less than this fraction
SPACING_TOLERANCE = 1e-4
#: slices closer than this along the normal claim the same place, in mm
SAME_PLACE_MM = 0.01


@dataclass(frozen=True)
class Refusal:
    """Why slices do not make a volume; slices: those concerned, where they can be named."""

    reason: ReasonCode
    detail: str
    slices: tuple[SliceHeader, ...] = ()


@dataclass(frozen=True)
class Grid:
    """affine: (k, j, i, 1) -> LPS mm, float64 (4, 4). tilt_deg: angle between slice step and normal."""

    affine: NDArray[np.float64]
    tilt_deg: float
    drift_mm: float


def has_geometry(header: SliceHeader) -> bool:
    """Whether position, orientation and spacing are there and make sense."""
    if header.position is None or header.orientation is None or header.pixel_spacing is None:
        return False
    row, column = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return (
        all(abs(length - 1) < 0.01 for length in lengths)
        and abs(float(row @ column)) < 0.01
        and all(0 < spacing < 100 for spacing in header.pixel_spacing)
        and all(abs(value) < 1e5 for value in header.position)
    )


def normal_of(header: SliceHeader) -> NDArray[np.float64]:
    """Unit normal of the plane: row direction x column direction."""
    row, column = np.array(header.orientation[:3]), np.array(header.orientation[3:])  # type: ignore[index]
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def sort_along_normal(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices in order of their position projected on the normal of the first; numbers in headers are not asked."""
    normal = normal_of(slices[0])
    return sorted(slices, key=lambda header: (float(np.dot(header.position, normal)), header.sop_instance_uid))  # type: ignore[arg-type]


def same_plane_grid(first: SliceHeader, other: SliceHeader) -> ReasonCode | None:
    """Why two slices cannot lie in one volume, whatever their positions."""
    if (first.rows, first.columns) != (other.rows, other.columns):
        return ReasonCode.MIXED_MATRIX
    if not np.allclose(first.orientation or (), other.orientation or (), atol=ORIENTATION_TOLERANCE):
        return ReasonCode.MIXED_ORIENTATION
    if not np.allclose(first.pixel_spacing or (), other.pixel_spacing or (), rtol=SPACING_TOLERANCE, atol=0):
        return ReasonCode.MIXED_SPACING
    if first.frame_of_reference_uid != other.frame_of_reference_uid:
        return ReasonCode.MIXED_FRAME_OF_REFERENCE
    return None


def fit_grid(slices: Sequence[SliceHeader], tolerance_mm: float) -> Grid | Refusal:
    """The affine of slices in order, all at different places and of one plane grid.

    Slices must lie on a line at equal steps: the step is (last - first) / (n - 1), and every position must be
    within the tolerance of its place, so that a jitter of micrometres does not add up and a missing slice
    is never stretched over. A step that is not along the normal is kept: it is the shear of a tilted gantry.
    """
    positions = np.array([header.position for header in slices], dtype=np.float64)
    normal = normal_of(slices[0])
    heights = positions @ normal
    gaps = np.diff(heights)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    spacing = float(step @ normal)
    tolerance = min(tolerance_mm, 0.2 * float(np.median(gaps)))

    off = positions - (positions[0] + np.arange(len(slices))[:, None] * step)
    along = np.abs(off @ normal)
    if along.max() > tolerance:
        return _spacing_refusal(slices, gaps, tolerance)
    across = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    worst = int(across.argmax())
    if across[worst] > max(tolerance, 0.1 * min(slices[0].pixel_spacing or (1.0,))):
        return Refusal(
            ReasonCode.IRREGULAR_SPACING,
            f"slice {worst + 1} lies {across[worst]:.2f} mm beside the line of the others",
            (slices[worst],),
        )
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.orientation[3:]) * first.pixel_spacing[0]  # type: ignore[index]
    affine[:3, 2] = np.array(first.orientation[:3]) * first.pixel_spacing[1]  # type: ignore[index]
    affine[:3, 3] = positions[0]
    lateral = float(np.linalg.norm(step - spacing * normal))
    return Grid(affine, math.degrees(math.atan2(lateral, spacing)), lateral * (len(slices) - 1))


def _spacing_refusal(slices: Sequence[SliceHeader], gaps: NDArray[np.float64], tolerance: float) -> Refusal:
    """Tell a hole (a gap of a whole number of steps) from steps that change."""
    usual = float(np.median(gaps))
    ratio = gaps / usual
    holes = np.flatnonzero(ratio > 1.5)
    whole = np.abs(ratio - np.rint(ratio)) * usual <= max(2 * tolerance, 0.05 * usual)
    if len(holes) and whole.all() and 4 * len(holes) <= len(gaps):
        missing = int(np.rint(ratio[holes] - 1).sum())
        largest = int(holes[gaps[holes].argmax()])
        return Refusal(
            ReasonCode.MISSING_SLICES,
            f"{missing} missing at {len(holes)} place(s): {gaps[largest]:.2f} mm after slice {largest + 1} "
            f"where {usual:.2f} mm is usual",
            tuple(slices[index] for hole in holes[:8] for index in (hole, hole + 1)),
        )
    return Refusal(
        ReasonCode.IRREGULAR_SPACING, f"steps from {gaps.min():.2f} to {gaps.max():.2f} mm, usually {usual:.2f} mm"
    )
