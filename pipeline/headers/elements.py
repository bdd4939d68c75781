"""Where the elements of a DICOM dataset lie: a walk over their heads that decodes nothing and follows the standard.

PS3.5 sections 7.1 (elements) and 7.5 (sequences). What is not exactly as the standard says ends the walk; a reader
that forgives more then has its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
#: Float, Double Float and integer Pixel Data: nothing behind them is looked at
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

SHORT_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)

#: sequences in sequences; no object of the standard comes near
_MAX_DEPTH = 24


class OddHeaderError(Exception):
    """The bytes are not what the standard says they are."""


class ShortBufferError(Exception):
    """The walk left the bytes that were given."""


@dataclass(frozen=True)
class Encoding:
    """How the elements of a dataset are written: with or without their VR, and in which byte order."""

    implicit: bool
    little: bool


IMPLICIT_LITTLE = Encoding(True, True)
EXPLICIT_LITTLE = Encoding(False, True)
EXPLICIT_BIG = Encoding(False, False)


class Element(NamedTuple):
    """One top-level element: where its head and its value begin, and the value's length in bytes.

    vr: b"" where the encoding has none. closed: the length stands in the head; else a delimiter ends the value.
    """

    tag: int
    vr: bytes
    head: int
    value: int
    length: int
    closed: bool = True


class _Heads:
    """Readers of element heads in one byte order."""

    def __init__(self, order: str) -> None:
        self.explicit = Struct(f"{order}HH2sH").unpack_from
        self.implicit = Struct(f"{order}HHI").unpack_from
        self.length = Struct(f"{order}I").unpack_from


_HEADS = {True: _Heads("<"), False: _Heads(">")}


def walk(
    data: bytes, start: int, encoding: Encoding, file_bytes: int, into: list[Element] | None = None
) -> list[Element]:
    """The elements from `start` to the pixel data (the last one then, its value not looked at) or to the file's end.

    data: the beginning of a file of `file_bytes`. into: a list that has the elements before the place where the walk
    ended, if it raises.

    Raises
    ------
    ShortBufferError: `data` ends before the walk does.
    OddHeaderError: an unknown VR, a length beyond the file, a sequence that does not close.
    """
    heads, implicit = _HEADS[encoding.little], encoding.implicit
    explicit_head, implicit_head, long_length = heads.explicit, heads.implicit, heads.length
    found: list[Element] = [] if into is None else into
    position, last = start, len(data) - 8
    while position <= last:
        vr = b""
        value = position + 8
        if implicit:
            group, element, length = implicit_head(data, position)
        else:
            group, element, vr, length = explicit_head(data, position)
            if vr in LONG_VRS:
                value = position + 12
                if value > len(data):
                    break
                (length,) = long_length(data, position + 8)
            elif vr not in SHORT_VRS:
                raise OddHeaderError
        tag = group << 16 | element
        if tag in _PIXEL_TAGS:
            if not implicit and vr not in LONG_VRS:
                raise OddHeaderError
            found.append(Element(tag, vr, position, value, length))
            return found
        if group == 0xFFFE:
            raise OddHeaderError
        closed = length != UNDEFINED_LENGTH
        if not closed:
            length = _sequence_end(data, value, encoding, implicit or vr == b"UN", 0) - value
        found.append(Element(tag, vr, position, value, length, closed))
        position = value + length
    if position > file_bytes:
        raise OddHeaderError
    if len(data) < file_bytes:
        raise ShortBufferError
    if position != file_bytes:
        raise OddHeaderError
    return found


def sequence_end(data: bytes, start: int, encoding: Encoding, vr: bytes) -> int:
    """Offset behind the delimiter of a sequence of undefined length whose first item begins at `start`.

    Raises as `walk` does.
    """
    return _sequence_end(data, start, encoding, encoding.implicit or vr == b"UN", 0)


def _sequence_end(data: bytes, position: int, encoding: Encoding, implicit: bool, depth: int) -> int:
    # an element of unknown VR and undefined length is a sequence in implicit VR (PS3.5 section 6.2.2)
    if depth > _MAX_DEPTH:
        raise OddHeaderError
    head = _HEADS[encoding.little].implicit
    while position + 8 <= len(data):
        group, element, length = head(data, position)
        tag = group << 16 | element
        position += 8
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise OddHeaderError
        if length == UNDEFINED_LENGTH:
            position = _item_end(data, position, encoding, implicit, depth)
        else:
            position += length
    raise ShortBufferError


def _item_end(data: bytes, position: int, encoding: Encoding, implicit: bool, depth: int) -> int:
    heads = _HEADS[encoding.little]
    while position + 8 <= len(data):
        group, element, length = heads.implicit(data, position)
        if group << 16 | element == _ITEM_END:
            return position + 8
        value, vr = position + 8, b""
        if not implicit:
            _, _, vr, length = heads.explicit(data, position)
            if vr in LONG_VRS:
                value = position + 12
                if value > len(data):
                    break
                (length,) = heads.length(data, position + 8)
            elif vr not in SHORT_VRS:
                raise OddHeaderError
        if length == UNDEFINED_LENGTH:
            position = _sequence_end(data, value, encoding, implicit or vr == b"UN", depth + 1)
        else:
            position = value + length
    raise ShortBufferError


def walk_damaged(data: bytes, start: int, encoding: Encoding) -> list[Element]:
    """What can be told of a dataset up to the place where it is beyond repair.

    A sequence of undefined length whose delimiter is missing ends where an element of a higher tag stands in place of
    an item; nothing else is mended.
    """
    found: list[Element] = []
    while True:
        try:
            walk(data, start, encoding, len(data), found)
        except (OddHeaderError, ShortBufferError):
            pass
        else:
            break
        end = found[-1].value + found[-1].length if found else start
        mended = _without_delimiter(data, end, encoding)
        if mended is None:
            break
        found.append(mended)
        start = mended.value + mended.length
    return [element for element in found if element.value + element.length <= len(data)]


def _without_delimiter(data: bytes, position: int, encoding: Encoding) -> Element | None:
    """The element at `position`, where it is a sequence of undefined length that only an element follows."""
    heads = _HEADS[encoding.little]
    if position + 12 > len(data):
        return None
    group, element, length = heads.implicit(data, position)
    vr, value = b"", position + 8
    if not encoding.implicit:
        vr, value = data[position + 4 : position + 6], position + 12
        (length,) = heads.length(data, position + 8)
    if length != UNDEFINED_LENGTH or (vr and vr not in LONG_VRS):
        return None
    tag, end = group << 16 | element, value
    try:
        while end + 8 <= len(data):
            group, element, length = heads.implicit(data, end)
            if group << 16 | element != _ITEM:
                break
            end = (
                _item_end(data, end + 8, encoding, encoding.implicit or vr == b"UN", 0)
                if length == UNDEFINED_LENGTH
                else end + 8 + length
            )
    except (OddHeaderError, ShortBufferError):
        return None
    follows = group << 16 | element
    return Element(tag, vr, position, value, end - value, False) if tag < follows and group != 0xFFFE else None
