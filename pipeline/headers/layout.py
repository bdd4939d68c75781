"""The headers of one series are alike: compare a header with the one before in long runs where both are the same.

A layout is made of one header that was walked element by element: runs of bytes that do not change in the series, and
between them elements whose value or length was seen to change, which are read. What fits has been walked as exactly
as if every head had been read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.headers.elements import LONG_VRS, Element, Encoding, OddHeaderError, ShortBufferError, sequence_end


class _Segment(NamedTuple):
    """Bytes that must be the same, up to the length of the element that comes last, and that element's value.

    n_length_bytes: of that length; 0 where a delimiter ends the value, which is `sequence` most often.
    """

    fixed: bytes
    tag: int
    vr: bytes
    n_length_bytes: int
    sequence: bytes
    encoding: Encoding


@dataclass(frozen=True)
class Layout:
    """What the headers of one series have in common, from the byte `start` of a file on.

    picked: tags whose values are read. pixels: the pixel data's element in the header that the layout was made of.
    heads, values: (tag, VR, whether it is closed) and the value of every element before the pixel data in that header.
    """

    start: int
    segments: tuple[_Segment, ...]
    picked: frozenset[int]
    pixels: Element
    heads: tuple[tuple[int, bytes, bool], ...]
    values: tuple[bytes, ...]

    def match(self, data: bytes) -> tuple[dict[int, bytes], Element] | None:
        """The picked values and the pixel data's element of a header that fits, None where it does not."""
        values: dict[int, bytes] = {}
        position, end, length = self.start, self.start, 0
        for fixed, tag, vr, n_length_bytes, sequence, encoding in self.segments:
            if not data.startswith(fixed, position):
                return None
            end = position + len(fixed) + n_length_bytes
            if n_length_bytes:
                length = int.from_bytes(data[end - n_length_bytes : end], "little" if encoding.little else "big")
                position = end + length
                if tag in self.picked:
                    values[tag] = data[end:position]
            elif data.startswith(sequence, end):
                position = end + len(sequence)
            else:
                try:
                    position = sequence_end(data, end, encoding, vr)
                except (OddHeaderError, ShortBufferError):
                    return None
        if end > len(data):
            return None
        head = end - self.pixels.value + self.pixels.head
        return values, Element(self.pixels.tag, self.pixels.vr, head, end, length)

    def changes(self, heads: Sequence[tuple[int, bytes, bool]], values: Sequence[bytes]) -> set[int] | None:
        """Tags of the closed elements whose values another header of the series has differently.

        None where it has other elements.
        """
        if self.heads != tuple(heads):
            return None
        pairs = zip(self.heads, self.values, values, strict=True)
        return {tag for (tag, _, closed), mine, other in pairs if closed and mine != other}


def make_layout(
    data: bytes,
    start: int,
    elements: Sequence[tuple[Element, Encoding]],
    *,
    picked: frozenset[int],
    varying: Collection[int],
) -> Layout:
    """The layout of a header: its elements in order without a gap, the last being the pixel data.

    picked: tags whose values are read; they, too, are varying. varying: tags whose values may differ.
    """
    segments: list[_Segment] = []
    begin = start
    pixels = elements[-1][0]
    for element, encoding in elements:
        tag, vr, _, value, length, closed = element
        if closed and tag not in varying and element is not pixels:
            continue
        n_length_bytes = 0 if not closed else 2 if vr and vr not in LONG_VRS else 4
        sequence = b"" if closed else data[value : value + length]
        segments.append(_Segment(data[begin : value - n_length_bytes], tag, vr, n_length_bytes, sequence, encoding))
        begin = value + length
    return Layout(start, tuple(segments), picked, pixels, *described(data, [element for element, _ in elements]))


def described(
    data: bytes, elements: Sequence[Element]
) -> tuple[tuple[tuple[int, bytes, bool], ...], tuple[bytes, ...]]:
    """Heads and values of the elements before the pixel data, the last one, as a layout keeps them."""
    heads = tuple((element.tag, element.vr, element.closed) for element in elements[:-1])
    return heads, tuple(data[element.value : element.value + element.length] for element in elements[:-1])
