"""Which bytes of a file are the code stream of which frame: the items of encapsulated pixel data.

PS3.5 section A.4. The items are walked by their heads, once a file; the pixels themselves are not read for that. Basic
and extended offset tables only tell which item begins a frame, and only the former is needed where a frame has several.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import pairwise

from data_contracts.errors import DecodeError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
#: begin a code stream: JPEG and JPEG-LS, JPEG 2000, JP2
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
#: no object has more items than this; a file of empty ones would be walked for minutes
_MOST_ITEMS = 1 << 20

#: (offset in the file, length) in bytes
Place = tuple[int, int]


def frame_places(descriptor: int, start: int, n_frames: int) -> list[list[Place]]:
    """The fragments of each frame, for the pixel data whose value begins at `start` of an open file.

    Raises
    ------
    DecodeError: an item is cut short, or the items cannot be told apart by frame.
    """
    places = _items(descriptor, start)
    if len(places) < 2:
        raise DecodeError("no pixel data")
    table, fragments = places[0], [place for place in places[1:] if place[1]]
    if n_frames == 1:
        return [fragments]
    if groups := _by_offset_table(os.pread(descriptor, table[1], table[0]), fragments, n_frames):
        return groups
    if len(fragments) == n_frames:
        return [[place] for place in fragments]
    groups = _by_first_bytes(descriptor, fragments)
    if len(groups) != n_frames:
        raise DecodeError(f"{len(fragments)} fragments of pixels for {n_frames} frames")
    return groups


def _items(descriptor: int, position: int) -> list[Place]:
    size = os.fstat(descriptor).st_size
    places: list[Place] = []
    while True:
        head = os.pread(descriptor, 8, position)
        length = int.from_bytes(head[4:], "little")
        if len(head) == 8 and head[:4] == _END:
            return places
        if len(head) < 8 or head[:4] != _ITEM or position + 8 + length > size or len(places) >= _MOST_ITEMS:
            raise DecodeError("the compressed pixels are cut short")
        places.append((position + 8, length))
        position += 8 + length


def _by_offset_table(table: bytes, fragments: list[Place], n_frames: int) -> list[list[Place]]:
    """Fragments by frame as the basic offset table says; [] where there is none or it does not fit the items."""
    if len(table) < 4 * n_frames or not fragments:
        return []
    offsets = [int.from_bytes(table[4 * index : 4 * index + 4], "little") for index in range(n_frames)]
    first = fragments[0][0]
    starts = {place[0] - first for place in fragments}
    if offsets[0] != 0 or any(one >= other for one, other in pairwise(offsets)):
        return []
    if not starts.issuperset(offsets):
        return []
    groups: list[list[Place]] = [[] for _ in offsets]
    for place in fragments:
        groups[bisect_right(offsets, place[0] - first) - 1].append(place)
    return groups


def _by_first_bytes(descriptor: int, fragments: list[Place]) -> list[list[Place]]:
    """Fragments by frame, where each that begins like a code stream begins a frame."""
    groups: list[list[Place]] = []
    for place in fragments:
        if os.pread(descriptor, 8, place[0]).startswith(_STARTS):
            groups.append([place])
        elif groups:
            groups[-1].append(place)
        else:
            return []
    return groups
