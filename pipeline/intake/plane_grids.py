"""Which slices can lie in one volume at all: same matrix, orientation, pixel spacing and frame of reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.intake.geometry import MOST_NAMED, normal_of, positions_of, sort_along_normal

#: direction cosines differ by less than this on slices of one volume (0.03 degrees)
ORIENTATION_TOLERANCE = 5e-4
#: and pixel spacings by less than this fraction
SPACING_TOLERANCE = 1e-4
#: planes whose normals are further apart than 45 degrees belong to different directions of view
_ACROSS = 0.7


def by_plane_grid(planes: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices in groups that could share one volume, the largest first."""
    facts = np.array(
        [(plane.rows, plane.columns, *(plane.pixel_spacing or ()), *(plane.orientation or ())) for plane in planes]
    )
    frames = np.unique([plane.frame_of_reference_uid for plane in planes], return_inverse=True)[1]
    tolerance = np.array([0.0, 0.0, 0.0, 0.0, *(ORIENTATION_TOLERANCE,) * 6])
    left, groups = np.arange(len(planes)), []
    while len(left):
        first = facts[left[0]]
        near = np.maximum(tolerance, np.array([0, 0, *(SPACING_TOLERANCE * first[2:4]), *(0,) * 6]))
        alike = (np.abs(facts[left] - first) <= near).all(axis=1) & (frames[left] == frames[left[0]])
        groups.append([planes[index] for index in left[alike]])
        left = left[~alike]
    return sorted(groups, key=len, reverse=True)


def by_direction(groups: list[list[SliceHeader]]) -> list[list[list[SliceHeader]]]:
    """Groups of one direction of view together; the first holds the largest group."""
    families: list[list[list[SliceHeader]]] = []
    for group in groups:
        normal = normal_of(group[0])
        for family in families:
            if abs(float(normal @ normal_of(family[0][0]))) >= _ACROSS:
                family.append(group)
                break
        else:
            families.append([group])
    return families


def is_one_stack(groups: list[list[SliceHeader]]) -> bool:
    """Whether groups with different facts fill the places of one even stack, as where a header is wrong here and there.

    Only steps along the normal are asked for: two stacks at the same or at unrelated heights are no single one.
    """
    heights = np.sort(positions_of(header for group in groups for header in group) @ normal_of(groups[0][0]))
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    return bool(usual > 0 and gaps.max() < 1.5 * usual and gaps.min() > 0.5 * usual)


def mixed(groups: list[list[SliceHeader]]) -> Refusal:
    """Refusal that names the slices of the smaller groups, and how they differ from the largest."""
    largest, odd = groups[0], [header for group in groups[1:] for header in group]
    total = len(largest) + len(odd)
    order = {id(header): n for n, header in enumerate(sort_along_normal([*largest, *odd]), start=1)}
    told = []
    for group in groups[1 : 1 + MOST_NAMED]:
        numbers = sorted(order[id(header)] for header in group)
        named = ", ".join(str(number) for number in numbers[:MOST_NAMED]) + (
            ", ..." if len(numbers) > MOST_NAMED else ""
        )
        told.append(f"slice {named} of {total}: {difference(largest[0], group[0])[1]}")
    return Refusal(difference(largest[0], groups[1][0])[0], "; ".join(told), tuple(odd))


def difference(usual: SliceHeader, odd: SliceHeader) -> tuple[ReasonCode, str]:
    """Why two slices cannot lie in one volume, whatever their positions, and with which figures."""
    if (usual.rows, usual.columns) != (odd.rows, odd.columns):
        detail = f"{odd.rows} x {odd.columns} pixels where {usual.rows} x {usual.columns} are usual"
        return ReasonCode.MIXED_MATRIX, detail
    turned = np.array(odd.orientation) - np.array(usual.orientation)
    if np.abs(turned).max() > ORIENTATION_TOLERANCE:
        apart = max(float(np.linalg.norm(turned[:3])), float(np.linalg.norm(turned[3:])))
        detail = f"turned by {math.degrees(2 * math.asin(min(apart / 2, 1.0))):.2f} degrees"
        return ReasonCode.MIXED_ORIENTATION, detail
    if not np.allclose(usual.pixel_spacing or (), odd.pixel_spacing or (), rtol=SPACING_TOLERANCE, atol=0):
        sizes = [" x ".join(f"{value:.6g}" for value in header.pixel_spacing or ()) for header in (odd, usual)]
        return ReasonCode.MIXED_SPACING, f"pixels of {sizes[0]} mm where {sizes[1]} mm are usual"
    return ReasonCode.MIXED_FRAME_OF_REFERENCE, "another frame of reference"
