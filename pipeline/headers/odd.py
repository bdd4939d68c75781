"""Headers that do not follow the standard to the letter, read by pydicom, which forgives much, within bounds."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import BinaryIO, Literal, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from data_contracts.errors import DecodeError
from pipeline.headers.elements import (
    PIXEL_DATA,
    Element,
    Encoding,
    OddHeaderError,
    ShortBufferError,
    walk,
    walk_damaged,
)
from pipeline.headers.file_front import Front, encoding_of, read_front
from pipeline.headers.open_file import OpenFile
from pipeline.headers.slice_header import KEYWORDS, SliceHeader, slice_header
from pipeline.headers.values import RawValues

#: what a header may make pydicom read; functional groups of 5000 frames have a tenth of it
MAX_HEADER_BYTES = 64 << 20
#: and what it may inflate to
MAX_INFLATED_BYTES = 16 << 20
#: reads of an element or two that it may need; a run of zeros is an endless row of empty elements
_MOST_READS = 1_000_000
_MOST_ELEMENTS = 100_000
_FRONT_BYTES = 64 << 10
_PREFIX_BYTES = 134
_DAMAGED_BYTES = 4 << 20
_SERIES_UID = 0x0020000E
_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in KEYWORDS]
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)


class _BoundedStream(io.RawIOBase):
    """A file that gives no more than it has, and no more than a header may have, whatever length is asked for."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._position = 0
        self._left = MAX_HEADER_BYTES
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        there = max(self._file.n_bytes - self._position, 0)
        wanted = there if size is None or size < 0 else min(size, there)
        self._left -= wanted
        self._reads += 1
        if self._left < 0 or self._reads > _MOST_READS:
            raise DecodeError("the header is larger than any")
        data = os.pread(self._file.descriptor, wanted, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = max((0, self._position, self._file.n_bytes)[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position


class _AtPixels:
    """Tells pydicom to stop before the pixels, and raises where a dataset has more elements than any header."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        self._seen += 1
        if self._seen > _MOST_ELEMENTS:
            raise DecodeError("the header has more elements than any")
        return int(tag) in _PIXEL_TAGS


def read_odd_header(file: OpenFile) -> SliceHeader | None:
    """The facts of a file whose header the exact walk gave up; None where it is no instance.

    Where not even pydicom comes to the pixel data, what stands before the damage tells at least whose file it is.

    Raises
    ------
    Whatever pydicom raises on a broken file, where nothing tells the series.
    """
    front = _front(file)
    if front is None:
        return _by_guess(file)
    try:
        header = _forgiven(file, front)
    except Exception:  # pydicom raises almost anything
        if (damaged := _damaged(file, front)) is not None:
            return damaged
        raise
    if header is not None and header.pixel_offset is not None:
        return header
    return _damaged(file, front) or header


def _damaged(file: OpenFile, front: Front) -> SliceHeader | None:
    """The facts before the damage, without pixels; None where nothing is damaged.

    Raises
    ------
    OddHeaderError: they do not tell the series.
    """
    encoding = front.encoding
    if encoding is None:
        return None
    data = file.beginning(_DAMAGED_BYTES)
    try:
        walk(data, front.start, encoding, file.n_bytes)
    except OddHeaderError:
        pass
    except ShortBufferError:
        return None
    else:
        return None
    found = {element.tag: element for element in walk_damaged(data, front.start, encoding) if element.tag in _TAGS}
    if _SERIES_UID not in found:
        raise OddHeaderError
    facts = file.facts(data, front, encoding, None, deflated=False)
    return slice_header(RawValues(data, found, encoding, {}), replace(facts, broken=True))


def _forgiven(file: OpenFile, front: Front) -> SliceHeader | None:
    if front.encoding is not None:
        stream = _BoundedStream(file)
        stream.seek(front.start)
        return _facts(file, front, front.encoding, stream)
    data, _ = file.inflated(front.start, MAX_INFLATED_BYTES)
    encoding = encoding_of(data[:8])
    if encoding is None:
        raise OddHeaderError
    return _facts(file, front, encoding, io.BytesIO(data), deflated=True)


def _front(file: OpenFile) -> Front | None:
    """The front of the file; None where it is odd itself, or its dataset neither begins as one nor is deflated."""
    try:
        front = read_front(file.beginning(_FRONT_BYTES))
    except (ShortBufferError, OddHeaderError):
        return None
    if front.encoding is None:
        try:
            data, _ = file.inflated(front.start, _FRONT_BYTES)
        except DecodeError:
            return None
        return front if encoding_of(data[:8]) is not None else None
    return front


def _facts(
    file: OpenFile, front: Front, encoding: Encoding, stream: io.RawIOBase | io.BytesIO, *, deflated: bool = False
) -> SliceHeader | None:
    """Facts of the dataset at which the stream stands."""
    dataset = read_dataset(
        cast(BinaryIO, stream),
        encoding.implicit,
        encoding.little,
        stop_when=_AtPixels(),
        specific_tags=_TAGS,
    )
    implicit, little = dataset.original_encoding
    encoding = Encoding(bool(implicit), bool(little))
    pixels = _pixels(stream, encoding)
    data = stream.getvalue() if isinstance(stream, io.BytesIO) else b""
    return slice_header(dataset, file.facts(data, front, encoding, pixels, deflated))


def _by_guess(file: OpenFile) -> SliceHeader | None:
    """All the guesses that pydicom has for files without a sound front."""
    stream = _BoundedStream(file)
    dataset = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    implicit, little = dataset.original_encoding
    encoding = Encoding(bool(implicit), bool(little))
    meta = getattr(dataset, "file_meta", Dataset())
    front = Front((), 0, str(meta.get("TransferSyntaxUID", "")), encoding)
    header = slice_header(dataset, file.facts(b"", front, encoding, _pixels(stream, encoding), deflated=False))
    if header is None and file.beginning(_PREFIX_BYTES).endswith(b"DICM\2\0"):
        raise OddHeaderError  # it began as DICOM should
    return header


def _pixels(stream: io.RawIOBase | io.BytesIO, encoding: Encoding) -> Element | None:
    """The element of the pixel data, the stream standing at its head; None where it stands at none."""
    order: Literal["little", "big"] = "little" if encoding.little else "big"
    position = stream.tell()
    head = stream.read(12) or b""
    if len(head) < 8:
        return None
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag != PIXEL_DATA:
        return None
    if encoding.implicit:
        return Element(tag, b"", position, position + 8, int.from_bytes(head[4:8], order))
    return Element(tag, head[4:6], position, position + 12, int.from_bytes(head[8:12], order))
