"""The same slice twice, and two slices that claim one place or one SOP Instance UID."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_contracts.errors import DecodeError
from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note, Refusal
from pipeline.intake.geometry import MOST_NAMED, SAME_PLACE_MM, heights_of, normal_of, positions_of
from pipeline.pixels.pixel_file import read_stored


class PixelDigests:
    """Digests of stored pixel values, each plane read once and only when asked for."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[SliceHeader, bytes]] = {}

    def same(self, one: SliceHeader, other: SliceHeader) -> bool:
        """Whether two slices lie at one place and have the same values and the same rescale.

        Raises
        ------
        DecodeError: the pixels of one cannot be read.
        """
        if (one.rescale_slope, one.rescale_intercept) != (other.rescale_slope, other.rescale_intercept):
            return False
        if np.abs(np.subtract(one.position or (), other.position or ())).max() >= SAME_PLACE_MM:
            return False
        return self._of(one) == self._of(other)

    def _of(self, header: SliceHeader) -> bytes:
        # the header is kept beside its digest: an id is used again after its object is gone
        if id(header) not in self._known:
            try:
                stored = np.ascontiguousarray(read_stored(header))
            except OSError:
                raise DecodeError("the file of a slice that has to be compared cannot be read") from None
            self._known[id(header)] = (header, hashlib.blake2b(stored.data.cast("B"), digest_size=16).digest())
        return self._known[id(header)][1]


def without_copies(slices: Sequence[SliceHeader], pixels: PixelDigests) -> tuple[list[SliceHeader], list[SliceHeader]]:
    """Slices in order without those that repeat another at the same place value for value, and those left out.

    Where many places hold different slices, what follows them is not compared: no volume comes of it.

    Raises
    ------
    DecodeError: pixels that had to be compared cannot be read.
    """
    heights = heights_of(slices)
    if (np.diff(heights) >= SAME_PLACE_MM).all():
        return list(slices), []
    kept: list[SliceHeader] = []
    kept_heights: list[float] = []
    dropped: list[SliceHeader] = []
    conflicts = 0
    for header, height in zip(slices, heights.tolist(), strict=True):
        is_copy = False
        for rival, place in zip(reversed(kept), reversed(kept_heights), strict=True):
            if height - place >= SAME_PLACE_MM or conflicts >= MOST_NAMED:
                break
            if is_copy := pixels.same(header, rival):
                break
            conflicts += 1
        if is_copy:
            dropped.append(header)
        else:
            kept.append(header)
            kept_heights.append(height)
    return kept, dropped


def same_place(slices: Sequence[SliceHeader]) -> Refusal | None:
    """Refusal where different slices, in order and without copies, claim the same place."""
    place = np.concatenate(([0], np.cumsum(np.diff(heights_of(slices)) >= SAME_PLACE_MM)))
    taken = np.bincount(place)
    if taken.max() == 1:
        return None
    odd = np.flatnonzero(taken[place] > 1)
    numbers = ", ".join(str(index + 1) for index in odd[:MOST_NAMED]) + (", ..." if len(odd) > MOST_NAMED else "")
    detail = f"{np.count_nonzero(taken > 1)} of {len(taken)} places hold different slices: slice {numbers} in order"
    return Refusal(ReasonCode.CONFLICTING_DUPLICATES, detail, tuple(slices[index] for index in odd[: 2 * MOST_NAMED]))


def same_uid(slices: Sequence[SliceHeader], pixels: PixelDigests) -> Refusal | None:
    """Refusal where different slices share one SOP Instance UID, so that neither can be named.

    Raises
    ------
    DecodeError: pixels that had to be compared cannot be read.
    """
    sharing: dict[tuple[str, int], list[SliceHeader]] = defaultdict(list)
    for header in slices:
        if header.sop_instance_uid:
            sharing[header.sop_instance_uid, header.frame].append(header)
    if len(sharing) == len(slices):
        return None
    odd = [
        header
        for group in sharing.values()
        if len(group) > 1 and not all(pixels.same(group[0], other) for other in group[1:])
        for header in group
    ]
    if not odd:
        return None
    heights = ", ".join(f"{height:.2f}" for height in np.sort(positions_of(odd) @ normal_of(odd[0]))[:MOST_NAMED])
    detail = f"{len(odd)} different slices share SOP Instance UIDs with another (at {heights} mm along the normal)"
    return Refusal(ReasonCode.CONFLICTING_DUPLICATES, detail, tuple(odd))


def copies_note(dropped: Sequence[SliceHeader], kept: Sequence[SliceHeader]) -> Note:
    """Finding that says which slices were there more than once."""
    heights = heights_of([kept[0], *dropped])[1:]
    numbers = np.unique(np.abs(heights_of(kept)[None, :] - heights[:, None]).argmin(axis=1)) + 1
    named = ", ".join(map(str, numbers[:MOST_NAMED])) + (", ..." if len(numbers) > MOST_NAMED else "")
    detail = f"{len(dropped)} identical slice(s) dropped: slice {named} was there more than once"
    return Note(ReasonCode.DUPLICATE_SLICES, detail, tuple(dropped))
