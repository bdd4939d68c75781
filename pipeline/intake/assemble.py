"""From the decoded slices of a part to its volume: text blanked, gaps filled and tilt taken out as the policy says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.burned_in import BurnedInAction, blank
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note
from pipeline.imaging.padding_mask import PaddingMask, mask_of_planes, pack_plane
from pipeline.intake.check import Part, is_tilted
from pipeline.intake.gaps import PlaneMasks, fill_missing, interpolated_note, present_places
from pipeline.intake.tilt import upright
from pipeline.intake.triage import burned_in_actions
from pipeline.pixels.decode import DecodedVolume


@dataclass(frozen=True)
class AssembledVolume:
    """A volume on its final grid.

    hu: int16 (k, j, i). affine: (k, j, i, 1) -> LPS mm. places: k of each slice of the part.
    padding: which voxels hold no measured value, None where all do. padding_voxels: how many values were replaced.
    notes: what was done on the way.
    """

    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    places: tuple[int, ...]
    padding: PaddingMask | None
    padding_voxels: int
    notes: tuple[Note, ...]


def assemble(part: Part, pixels: DecodedVolume, params: IngestParams) -> AssembledVolume:
    """The volume of a part from its decoded slices, whose memory may be written to.

    Raises
    ------
    GeometryError: a tilt that cannot be resampled.
    """
    hu, affine, notes, grid = pixels.hu, part.grid.affine, [], part.grid
    padding, replaced = pixels.padding, pixels.padding_voxels
    actions = burned_in_actions(part.slices, params)
    has_text = any(action.what != "none" for action in actions)
    is_resampled = params.tilt == "resample" and is_tilted(grid)
    if has_text:
        notes.append(_burned_in_note(part.slices, actions))
    if any(action.what == "blank" for action in actions) or grid.missing or is_resampled:
        masks = _plane_masks(padding, len(hu))
        replaced += _blank(hu, masks, actions, params.padding_hu)
        if grid.missing:
            hu, masks = fill_missing(hu, grid.missing, params.padding_hu, masks)
            notes.append(interpolated_note(part.slices, grid.n_slices, grid.missing))
        if is_resampled:
            hu, affine, padding = upright(hu, affine, params.padding_hu, masks)
            replaced = 0 if padding is None else _count(padding)
        else:
            packed = [pack_plane(mask) if mask is not None and mask.any() else None for mask in masks]
            padding = mask_of_planes(packed, (len(hu), hu.shape[1], hu.shape[2]))
    places = present_places(grid.n_slices, grid.missing)
    return AssembledVolume(hu, affine, tuple(places.tolist()), padding, replaced, tuple(notes))


def _plane_masks(padding: PaddingMask | None, n_slices: int) -> PlaneMasks:
    """Mask of each slice; slices with the same padding share one array."""
    if padding is None:
        return [None] * n_slices
    fields = np.unpackbits(padding.planes, axis=2, count=padding.shape_kji[2]).view(np.bool_)
    return [fields[index] if index >= 0 else None for index in padding.plane_of]


def _count(padding: PaddingMask) -> int:
    """How many voxels a mask marks."""
    in_plane = [int(np.bitwise_count(plane).sum()) for plane in padding.planes]
    return sum(in_plane[index] for index in padding.plane_of if index >= 0)


def _blank(hu: NDArray[np.int16], masks: PlaneMasks, actions: Sequence[BurnedInAction], padding_hu: int) -> int:
    """Blank the regions of each slice and mark them as padding; how many voxels hold padding more than before."""
    changed = 0
    for k, action in enumerate(actions):
        if action.what == "blank":
            before = masks[k]
            mask = np.zeros(hu.shape[1:], dtype=np.bool_) if before is None else before.copy()
            blank(hu[k], action.regions, padding_hu)
            blank(mask, action.regions, True)
            changed += int(np.count_nonzero(mask)) - (0 if before is None else int(np.count_nonzero(before)))
            masks[k] = mask
    return changed


def _burned_in_note(slices: Sequence[SliceHeader], actions: Sequence[BurnedInAction]) -> Note:
    found = [(header, action) for header, action in zip(slices, actions, strict=True) if action.what != "none"]
    reason = (
        ReasonCode.BURNED_IN_BLANKED
        if any(action.what == "blank" for _, action in found)
        else ReasonCode.BURNED_IN_ANNOTATION
    )
    detail = f"{len(found)} of {len(slices)} slices: {found[0][1].why}"
    return Note(reason, detail, tuple(header for header, _ in found))
