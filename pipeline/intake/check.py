"""Which slices of a series make one volume: parts split, duplicates dropped, the rest refused with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_contracts.errors import DecodeError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.headers.multiframe import frame_numbers
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note, Refusal
from pipeline.intake.duplicates import PixelDigests, copies_note, same_place, same_uid, without_copies
from pipeline.intake.geometry import Grid, fit_grid, lacking_geometry, sort_along_normal
from pipeline.intake.parting import (
    Groups,
    Parting,
    by_attribute,
    by_time,
    partings,
    picture_goes_on,
    takes_turns,
    tells_reconstructions,
)
from pipeline.intake.plane_grids import by_direction, by_plane_grid, is_one_stack, mixed

#: a tilt below this many mm over the whole volume is rounding
_LEAST_DRIFT_MM = 0.1
#: a slice further than this from its place on the grid is worth a finding
_UNEVEN_MM = 0.05
#: slices further apart than so many times their thickness leave tissue out
_SPARSE = 1.8


@dataclass(frozen=True)
class Part:
    """Slices of one volume in order of k, their grid, and what was found on the way.

    Where `grid.missing` names places, the slices are those of the other places.
    """

    slices: tuple[SliceHeader, ...]
    grid: Grid
    notes: tuple[Note, ...] = ()


def make_parts(planes: Sequence[SliceHeader], params: IngestParams) -> list[Part | Refusal]:
    """Volumes that the CT planes of one series make.

    A series is never stretched, mixed or interleaved: what does not fit is split where every part is whole,
    and refused where not.
    """
    # what comes of a series does not depend on the order in which its files were found
    planes = sorted(planes, key=lambda plane: (plane.sop_instance_uid, plane.frame))
    if without := lacking_geometry(planes):
        detail = f"{len(without)} of {len(planes)} slices without a sound position, orientation or pixel spacing"
        detail += f": {frames}" if (frames := frame_numbers(without)) else ""
        return [Refusal(ReasonCode.MISSING_GEOMETRY, detail, tuple(without))]
    pixels = PixelDigests()
    try:
        if shared := same_uid(planes, pixels):
            return [shared]
    except DecodeError as error:
        return [Refusal(ReasonCode.PIXEL_DECODE_FAILED, error.what, tuple(planes))]
    main, *others = by_direction(by_plane_grid(planes))
    outcome = _of_one_direction(main, params, pixels)
    for family in others:
        images = [header for group in family for header in group]
        if len(images) <= 2 < len(main[0]):
            detail = f"{len(images)} image(s) across the others, without saying what they are"
            outcome.append(Refusal(ReasonCode.LOCALIZER, detail, tuple(images)))
        else:
            outcome += _of_one_direction(family, params, pixels)
    parts = [index for index, part in enumerate(outcome) if isinstance(part, Part)]
    for number, index in enumerate(parts, start=1):
        if len(parts) > 1:
            outcome[index] = _numbered(outcome[index], number, len(parts))
    return outcome


def _numbered(part: Part | Refusal, number: int, count: int) -> Part | Refusal:
    """The part with a finding that it is one of several."""
    if isinstance(part, Refusal):
        return part
    told = next((note.detail for note in part.notes if note.reason is ReasonCode.MULTIPLE_ACQUISITIONS), "")
    detail = f"part {number} of {count} of one series" + (f", {told}" if told else ", told apart by their plane grids")
    kept = [note for note in part.notes if note.reason is not ReasonCode.MULTIPLE_ACQUISITIONS]
    return replace(part, notes=(*kept, Note(ReasonCode.MULTIPLE_ACQUISITIONS, detail)))


def _of_one_direction(groups: Groups, params: IngestParams, pixels: PixelDigests) -> list[Part | Refusal]:
    """Volumes of slices that look the same way; groups differ in matrix, spacing, angle or frame of reference."""
    if len(groups) == 1:
        return _volumes(groups[0], params, pixels)
    slices = sum(map(len, groups))
    if len(groups[-1]) < params.min_slices or (is_one_stack(groups) and 4 * len(groups[-1]) < slices):
        return [mixed(groups)]
    volumes = [_volumes(group, params, pixels) for group in groups]
    for group, made in zip(groups, volumes, strict=True):
        failed = next((part for part in made if isinstance(part, Refusal)), None)
        if failed is not None:
            if is_one_stack(groups):
                return [mixed(groups)]
            first = group[0]
            which = f"of {len(groups)} plane grids, the {len(group)} slices of {first.rows} x {first.columns} pixels"
            return [replace(failed, detail=f"{which}: {failed.detail}")]
    return [part for made in volumes for part in made]


def _volumes(cluster: list[SliceHeader], params: IngestParams, pixels: PixelDigests) -> list[Part | Refusal]:
    """One volume of slices of one plane grid, or several where all of them are whole, or one refusal."""
    slices = sort_along_normal(cluster)
    whole = _volume(slices, params, pixels)
    if isinstance(whole, Part):
        return _parted_or_kept(whole, params, pixels)
    if len(slices) < 2 * params.min_slices or whole.reason is ReasonCode.PIXEL_DECODE_FAILED:
        return [whole]
    best: tuple[int, Refusal] | None = None
    for parting in (parting for parting in partings(slices) if parting.is_reason):
        parts = _parts(parting, params, pixels)
        failed = [part for part in parts if isinstance(part, Refusal)]
        if not failed:
            return parts
        n_whole = len(parts) - len(failed)
        if n_whole and (best is None or n_whole > best[0]):
            number = parts.index(failed[0]) + 1
            told = f"part {number} of {len(parts)}, {_told(parting)}"
            detail = f"{told} ({len(parting.groups[number - 1])} slices): {failed[0].detail}"
            best = n_whole, replace(failed[0], detail=f"{detail}; together: {whole.detail}")
    if best is not None and whole.reason is not ReasonCode.MISSING_SLICES:
        named = best[1].slices or whole.slices
        return [replace(whole, detail=best[1].detail, slices=(*whole.slices, *named)[: 2 * len(named)])]
    return [whole]


def _parted_or_kept(whole: Part, params: IngestParams, pixels: PixelDigests) -> list[Part | Refusal]:
    """A whole volume as it is, or in parts where its headers say that two stacks were pushed together."""
    slices = whole.slices
    notes = list(whole.notes)
    candidates = [*by_attribute(slices), *by_time(slices, (2, 3))]
    for parting in candidates:
        turns = takes_turns(slices, parting.groups)
        is_reconstruction = tells_reconstructions(parting.told_by)
        if turns or is_reconstruction or parting.told_by in ("acquisition number", "temporal position"):
            parts = _parts(parting, params, pixels)
            can_part = not any(isinstance(part, Refusal) for part in parts)
            if can_part and (turns or (len(parts) <= 4 and not picture_goes_on(parting.groups))):
                return parts
            if is_reconstruction or (can_part and len(parts) <= 4):
                notes.append(_kept_together(slices, parting))
    return [replace(whole, notes=tuple(notes))]


def _kept_together(slices: Sequence[SliceHeader], parting: Parting) -> Note:
    usual = max(parting.groups, key=len)
    inside = {id(header) for header in usual}
    odd = [header for header in slices if id(header) not in inside]
    first = next(number for number, header in enumerate(slices, start=1) if id(header) not in inside)
    detail = (
        f"{parting.told_by} of {len(odd)} slices differs from the others, first of slice {first}; one even grid, kept"
    )
    return Note(ReasonCode.MULTIPLE_ACQUISITIONS, detail, tuple(odd))


def _parts(parting: Parting, params: IngestParams, pixels: PixelDigests) -> list[Part | Refusal]:
    """Each group as a volume of its own, with a finding of what told it from the others."""
    made = [_volume(group, params, pixels) for group in parting.groups]
    note = Note(ReasonCode.MULTIPLE_ACQUISITIONS, _told(parting))
    return [replace(part, notes=(*part.notes, note)) if isinstance(part, Part) else part for part in made]


def _told(parting: Parting) -> str:
    return f"told apart by {parting.told_by}"


def _volume(slices: list[SliceHeader], params: IngestParams, pixels: PixelDigests) -> Part | Refusal:
    """Slices in order as one volume, copies left out."""
    if len(slices) < params.min_slices:
        detail = f"{len(slices)} slice(s), at least {params.min_slices} are needed"
        return Refusal(ReasonCode.TOO_FEW_SLICES, detail, tuple(slices))
    try:
        kept, dropped = without_copies(slices, pixels)
    except DecodeError as error:
        return Refusal(ReasonCode.PIXEL_DECODE_FAILED, error.what, tuple(slices))
    if len(kept) < params.min_slices:
        detail = f"{len(kept)} different slice(s), at least {params.min_slices} are needed"
        return Refusal(ReasonCode.TOO_FEW_SLICES, detail, tuple(slices))
    if conflict := same_place(kept):
        return conflict
    grid = fit_grid(kept, params.spacing_tolerance_mm, params.max_missing if params.missing == "interpolate" else 0)
    if isinstance(grid, Refusal):
        return grid
    if is_tilted(grid) and params.tilt == "refuse":
        return Refusal(ReasonCode.GANTRY_TILT, f"{_tilt(grid)}; refused by policy", tuple(kept))
    return Part(tuple(kept), grid, tuple(_notes(kept, dropped, grid, params)))


def is_tilted(grid: Grid) -> bool:
    """Whether the step between slices leaves the normal by more than rounding."""
    return grid.drift_mm > _LEAST_DRIFT_MM


def _tilt(grid: Grid) -> str:
    return f"{grid.tilt_deg:.2f} degrees, {grid.drift_mm:.1f} mm over the volume"


def _notes(kept: list[SliceHeader], dropped: list[SliceHeader], grid: Grid, params: IngestParams) -> list[Note]:
    notes = []
    if is_tilted(grid):
        done = "resampled to an orthogonal grid" if params.tilt == "resample" else "the affine is sheared"
        notes.append(Note(ReasonCode.GANTRY_TILT, f"{_tilt(grid)}; {done}"))
    if grid.worst_mm > _UNEVEN_MM:
        detail = f"up to {grid.worst_mm:.3f} mm off an even grid, most at slice {grid.worst + 1} of {len(kept)}"
        notes.append(Note(ReasonCode.UNEVEN_POSITIONS, detail, (kept[grid.worst],)))
    thicknesses = [header.slice_thickness_mm for header in kept if header.slice_thickness_mm]
    if thicknesses and grid.distance_mm > _SPARSE * float(np.median(thicknesses)):
        detail = f"slices of {np.median(thicknesses):.4g} mm every {grid.distance_mm:.4g} mm"
        notes.append(Note(ReasonCode.SPARSE_SLICES, detail))
    if dropped:
        notes.append(copies_note(dropped, kept))
    return notes
