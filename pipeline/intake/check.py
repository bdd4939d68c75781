"""Which slices of a series make one volume: parts split, duplicates dropped, the rest refused with its reason."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from data_contracts.errors import DecodeError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import QualityFinding
from pipeline.intake.codecs import read_stored
from pipeline.intake.geometry import (
    SAME_PLACE_MM,
    Grid,
    Refusal,
    fit_grid,
    has_geometry,
    normal_of,
    same_plane_grid,
    sort_along_normal,
)
from pipeline.intake.headers import SliceHeader

#: a tilt below this many mm over the whole volume is rounding
_LEAST_DRIFT_MM = 0.1


@dataclass(frozen=True)
class Part:
    """Slices of one volume in order of k, their grid, and what was found on the way."""

    slices: tuple[SliceHeader, ...]
    grid: Grid
    findings: tuple[QualityFinding, ...] = ()


#: what tells two acquisitions or reconstructions under one UID apart, in the order it is tried
_TELLING: tuple[Callable[[SliceHeader], Hashable], ...] = (
    lambda header: header.acquisition[0],
    lambda header: header.acquisition[1],
    lambda header: header.kernel,
    lambda header: header.slice_thickness_mm,
    lambda header: header.image_type,
)


def make_parts(planes: Sequence[SliceHeader], params: IngestParams) -> list[Part | Refusal]:
    """Volumes that the CT planes of one series make.

    A series is never stretched, mixed or interleaved: what does not fit is split where every part is whole,
    and refused where not.
    """
    without = [plane for plane in planes if not has_geometry(plane)]
    if without:
        detail = f"{len(without)} of {len(planes)} slices without position, orientation or pixel spacing"
        return [Refusal(ReasonCode.MISSING_GEOMETRY, detail, tuple(without))]

    clusters = _by_plane_grid(planes)
    largest = max(clusters, key=len)
    outcome: list[Part | Refusal] = []
    for cluster in [cluster for cluster in clusters if _is_scout(cluster, largest)]:
        clusters.remove(cluster)
        outcome.append(Refusal(ReasonCode.LOCALIZER, "a single image across the others", tuple(cluster)))
    small = [cluster for cluster in clusters if len(cluster) < params.min_slices]
    if len(clusters) > 1 and small:
        reason = same_plane_grid(largest[0], small[0][0]) or ReasonCode.MIXED_ORIENTATION
        odd = sum(len(cluster) for cluster in clusters if cluster is not largest)
        detail = f"{odd} of {len(planes)} slices differ from the others"
        return [*outcome, Refusal(reason, detail, tuple(small[0]))]
    volumes = [part for cluster in clusters for part in _volumes(cluster, params)]
    if len(volumes) > 1:
        note = QualityFinding(code=ReasonCode.MULTIPLE_ACQUISITIONS, detail=f"one of {len(volumes)} parts of a series")
        volumes = [
            replace(part, findings=(*part.findings, note)) if isinstance(part, Part) else part for part in volumes
        ]
    return [*outcome, *volumes]


def _by_plane_grid(planes: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    clusters: list[list[SliceHeader]] = []
    for plane in planes:
        for cluster in clusters:
            if same_plane_grid(cluster[0], plane) is None:
                cluster.append(plane)
                break
        else:
            clusters.append([plane])
    return clusters


def _is_scout(cluster: list[SliceHeader], largest: list[SliceHeader]) -> bool:
    """A lone image at more than 45 degrees to a whole stack is a localizer that does not say so."""
    if len(cluster) > 2 or len(largest) < 3:
        return False
    return abs(float(normal_of(cluster[0]) @ normal_of(largest[0]))) < 0.7


def _volumes(cluster: list[SliceHeader], params: IngestParams) -> list[Part | Refusal]:
    try:
        slices, dropped = _without_copies(sort_along_normal(cluster))
    except DecodeError as error:
        return [Refusal(ReasonCode.PIXEL_DECODE_FAILED, error.what, tuple(cluster))]
    whole = _volume(slices, params)
    if isinstance(whole, Refusal) or _interleaved(slices):
        for telling in _TELLING:
            parts = [_volume(group, params) for group in _groups(slices, telling)]
            if len(parts) > 1 and all(isinstance(part, Part) for part in parts):
                return [_note_copies(part, dropped) for part in parts]
    return [_note_copies(whole, dropped)]


def _groups(slices: list[SliceHeader], telling: Callable[[SliceHeader], Hashable]) -> list[list[SliceHeader]]:
    groups: dict[Hashable, list[SliceHeader]] = {}
    for header in slices:
        groups.setdefault(telling(header), []).append(header)
    return list(groups.values())


def _interleaved(slices: list[SliceHeader]) -> bool:
    """Whether two acquisitions take turns along the normal, as they do when one was repeated half a step away."""
    numbers = [header.acquisition[0] for header in slices]
    changes = sum(one != other for one, other in pairwise(numbers))
    return len(set(numbers)) == 2 and changes > len(slices) // 2


def _volume(slices: list[SliceHeader], params: IngestParams) -> Part | Refusal:
    if len(slices) < params.min_slices:
        detail = f"{len(slices)} slice(s), at least {params.min_slices} are needed"
        return Refusal(ReasonCode.TOO_FEW_SLICES, detail, tuple(slices))
    heights = np.array([header.position for header in slices]) @ normal_of(slices[0])
    same = np.flatnonzero(np.diff(heights) < SAME_PLACE_MM)
    if len(same):
        named = tuple(slices[index] for hit in same[:8] for index in (hit, hit + 1))
        detail = f"{len(same)} place(s) hold two different slices, the first at slice {int(same[0]) + 1}"
        return Refusal(ReasonCode.CONFLICTING_DUPLICATES, detail, named)
    grid = fit_grid(slices, params.spacing_tolerance_mm)
    if isinstance(grid, Refusal):
        return grid
    findings: tuple[QualityFinding, ...] = ()
    if grid.drift_mm > _LEAST_DRIFT_MM:
        detail = f"{grid.tilt_deg:.2f} degrees, {grid.drift_mm:.1f} mm over the volume; the affine is sheared"
        findings = (QualityFinding(code=ReasonCode.GANTRY_TILT, detail=detail),)
    return Part(tuple(slices), grid, findings)


def _note_copies(part: Part | Refusal, dropped: int) -> Part | Refusal:
    if not dropped or isinstance(part, Refusal):
        return part
    note = QualityFinding(code=ReasonCode.DUPLICATE_SLICES, detail=f"{dropped} identical slice(s) dropped")
    return replace(part, findings=(*part.findings, note))


def _without_copies(slices: list[SliceHeader]) -> tuple[list[SliceHeader], int]:
    """Slices in order without those that repeat another at the same place, value for value."""
    normal = normal_of(slices[0])
    kept: list[SliceHeader] = []
    for header in slices:
        place = float(np.dot(header.position or (), normal))
        rivals = [other for other in kept[-8:] if place - float(np.dot(other.position or (), normal)) < SAME_PLACE_MM]
        if not any(_same_slice(header, other) for other in rivals):
            kept.append(header)
    return kept, len(slices) - len(kept)


def _same_slice(one: SliceHeader, other: SliceHeader) -> bool:
    if (one.rescale_slope, one.rescale_intercept) != (other.rescale_slope, other.rescale_intercept):
        return False
    if not np.allclose(one.position or (), other.position or (), atol=SAME_PLACE_MM):
        return False
    return bool(np.array_equal(read_stored(one), read_stored(other)))
