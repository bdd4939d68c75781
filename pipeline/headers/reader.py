"""One DICOM header from a file: the first bytes only, values of a series decoded once, pydicom for whatever is odd."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pipeline.headers.elements import (
    EXPLICIT_LITTLE,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Element,
    Encoding,
    OddHeaderError,
    ShortBufferError,
    walk,
)
from pipeline.headers.file_front import (
    DEFLATED_SYNTAX,
    TRANSFER_SYNTAX_TAG,
    encoding_of,
    looks_like_dicom,
    looks_packed,
    read_front,
    true_syntax,
)
from pipeline.headers.layout import Layout, described, make_layout
from pipeline.headers.odd import read_odd_header
from pipeline.headers.open_file import OpenFile
from pipeline.headers.slice_header import KEYWORDS, SliceHeader, slice_header
from pipeline.headers.values import RawValues, Vector

#: a CT header has 2 to 8 kB; private blocks seldom reach a megabyte
_FIRST_READ_BYTES = 8 << 10
_READS_BYTES = (_FIRST_READ_BYTES, 128 << 10, 4 << 20)
#: deflated headers shrink to a half or third
_INFLATION = 4
_MAX_LAYOUTS = 64

_VRS = {
    tag: frozenset(vr.encode() for vr in dictionary_VR(tag).split(" or "))
    for tag in (tag_for_keyword(keyword) for keyword in KEYWORDS)
    if tag is not None
}
_SEQUENCES = frozenset(tag for tag, vrs in _VRS.items() if vrs == {b"SQ"})

_TEXT_BYTES = b"0123456789."
_NUMBER_BYTES = b"0123456789.+-eE "
_INTEGER_BYTES = b"0123456789+- "


class NotDicomError(Exception):
    """The file does not begin as DICOM. packed: it begins as an archive or a compressed file."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed


class NotPlainError(Exception):
    """A value that pydicom must convert."""


def _text(raw: bytes) -> str:
    plain = raw.rstrip(b"\0 ")
    if plain.translate(None, _TEXT_BYTES):
        raise NotPlainError
    return plain.decode("ascii")


def _number(raw: bytes) -> float | None:
    if not raw:
        return None
    if raw.translate(None, _NUMBER_BYTES):
        raise NotPlainError
    return _finite(float(raw))


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise NotPlainError
    return number


def _integer(raw: bytes) -> int | None:
    if not raw:
        return None
    if raw.translate(None, _INTEGER_BYTES) or len(raw) > 12:
        raise NotPlainError
    return int(raw)


def _integral(raw: bytes) -> float | None:
    return None if (number := _integer(raw)) is None else float(number)


def _position(raw: bytes) -> Vector | None:
    if not raw:
        return None
    x, y, z = raw.split(b"\\")
    if raw.translate(None, _NUMBER_BYTES) != b"\\\\":
        raise NotPlainError
    return _finite(float(x)), _finite(float(y)), _finite(float(z))


#: what differs from slice to slice: the field of SliceHeader, its value without an element, and how it is decoded.
#: Of two elements for one field the first that says something counts.
_OF_A_SLICE: dict[int, tuple[str, Any, Callable[[bytes], Any]]] = {
    0x00080018: ("sop_instance_uid", "", _text),
    0x0008002A: ("acquisition_time", "", _text),
    0x00080032: ("acquisition_time", "", _text),
    0x00080033: ("content_time", "", _text),
    0x00181152: ("exposure_mas", None, _integral),
    0x00200013: ("instance_number", None, _integer),
    0x00200032: ("position", None, _position),
    0x00281052: ("rescale_intercept", None, _number),
    0x00281053: ("rescale_slope", None, _number),
}
_PICKED = frozenset(_OF_A_SLICE)
#: differ from slice to slice in most series and are not read: lengths of groups, the UID in the meta information, a
#: time, tube current, slice location, windows and extreme values
_OFTEN_DIFFERENT = frozenset(
    (
        0x00020000,
        0x00020003,
        0x00080000,
        0x00080013,
        0x00181151,
        0x00201041,
        0x00280106,
        0x00280107,
        0x00281050,
        0x00281051,
    )
)
_CONSTANT = frozenset(_VRS) - _PICKED | {TRANSFER_SYNTAX_TAG}


def read_header(path: Path, relative: str) -> SliceHeader | None:
    """The facts of one file; `HeaderReader` is faster for many."""
    return HeaderReader().read(path, relative)


class HeaderReader:
    """Reads the headers of many files; what those of one series share is decoded once. Not for several threads."""

    def __init__(self) -> None:
        self._memory: dict[tuple[Any, ...], Any] = {}
        self._known: dict[tuple[bytes, ...], tuple[Layout, dict[str, Any]]] = {}
        self._last: tuple[Layout, dict[str, Any]] | None = None
        self._varying = set(_PICKED | _OFTEN_DIFFERENT)

    def read(self, path: Path, relative: str) -> SliceHeader | None:
        """The facts of one file; None where it is DICOM without being an instance (no SOP Class and no Modality).

        Raises
        ------
        NotDicomError: it does not begin as DICOM.
        Whatever pydicom raises on a broken file; the caller answers for all of them.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise OddHeaderError
            file = OpenFile(path, relative, descriptor, state.st_size, state.st_mtime_ns)
            data = os.pread(descriptor, _FIRST_READ_BYTES, 0)
            quick = self._quick(data, file)
            if quick is not None:
                return quick
            if not looks_like_dicom(data):
                raise NotDicomError(looks_packed(data[:512]))
            return self._thorough(data, file)
        finally:
            os.close(descriptor)

    def _quick(self, data: bytes, file: OpenFile) -> SliceHeader | None:
        """The header of a slice of the same series as the one before; None where it is anything else."""
        if self._last is None:
            return None
        layout, shared = self._last
        found = layout.match(data)
        if found is None:
            return None
        values, pixels = found
        if pixels.length != shared["pixel_length"]:
            return None
        if pixels.length == UNDEFINED_LENGTH:
            declared = shared["declared_syntax"] or shared["transfer_syntax"]
            syntax = true_syntax(declared, EXPLICIT_LITTLE, pixels, file.fragment(data, pixels), b"")
            if syntax != shared["transfer_syntax"]:
                return None
        return _of_a_slice(shared, values, file, pixels.value)

    def _thorough(self, data: bytes, file: OpenFile) -> SliceHeader | None:
        """The header of any file, walked element by element."""
        for size in _READS_BYTES:
            if size > _FIRST_READ_BYTES:
                data = file.beginning(size)
            try:
                return self._walked(data, file)
            except ShortBufferError:
                if len(data) < size:
                    break
            except OddHeaderError:
                break
        return read_odd_header(file)

    def _walked(self, data: bytes, file: OpenFile) -> SliceHeader | None:
        front = read_front(data)
        deflated = front.encoding is None and front.declared == DEFLATED_SYNTAX
        if deflated:
            data, whole = file.inflated(front.start, len(data) * _INFLATION)
            encoding, start, n_bytes = encoding_of(data[:8]), 0, len(data) if whole else sys.maxsize
        else:
            encoding, start, n_bytes = front.encoding, front.start, file.n_bytes
        if encoding is None:
            raise OddHeaderError
        elements = walk(data, start, encoding, n_bytes)
        found = {element.tag: element for element in elements if element.tag in _VRS}
        for tag, element in found.items():
            if not element.closed or tag in _SEQUENCES or not (encoding.implicit or element.vr in _VRS[tag]):
                raise OddHeaderError
        if list(found) != sorted(found):
            raise OddHeaderError
        pixels = elements[-1] if elements and elements[-1].tag == PIXEL_DATA else None
        facts = file.facts(data, front, encoding, pixels, deflated)
        if pixels is None or deflated:
            return slice_header(RawValues(data, found, encoding, self._memory), facts)
        located = [(element, EXPLICIT_LITTLE) for element in front.meta]
        located += [(element, encoding) for element in elements]
        key = tuple(data[e.head : e.value + e.length] for e, _ in located[:-1] if e.tag in _CONSTANT)
        known = self._known.get(key)
        if known is not None and known[1]["pixel_length"] == facts.pixel_length:
            values = {tag: data[e.value : e.value + e.length] for tag, e in found.items() if tag in _PICKED}
            header = _of_a_slice({**known[1], **facts.__dict__}, values, file, pixels.value)
        else:
            header = None
        if header is None:
            header = slice_header(RawValues(data, found, encoding, self._memory), facts)
        if header is not None:
            self._remember(key, header, data, located)
        return header

    def _remember(
        self, key: tuple[bytes, ...], header: SliceHeader, data: bytes, located: list[tuple[Element, Encoding]]
    ) -> None:
        """Expect the next header to be like this one, but for values that were seen to change in this series."""
        if (known := self._known.get(key)) is not None:
            changed = known[0].changes(*described(data, [element for element, _ in located]))
            if changed is not None and changed <= self._varying:
                self._last = known
                return
            self._varying |= changed or set()
        if len(self._known) >= _MAX_LAYOUTS:
            self._known.clear()
        start = 128 if data[128:132] == b"DICM" else 0
        layout = make_layout(data, start, located, picked=_PICKED, varying=self._varying)
        shared = dict(header.__dict__)
        for name, absent, _ in _OF_A_SLICE.values():
            shared[name] = absent
        self._known[key] = self._last = (layout, shared)


def _of_a_slice(
    shared: dict[str, Any], values: dict[int, bytes], file: OpenFile, pixel_offset: int
) -> SliceHeader | None:
    """What slices share with the values of one of them; None where pydicom must convert a value."""
    facts = dict(shared)
    try:
        for tag, raw in values.items():
            name, _, decode = _OF_A_SLICE[tag]
            facts[name] = facts[name] or decode(raw)
    except (NotPlainError, ValueError):  # not plain, or no number at all
        return None
    facts["path"], facts["relative"], facts["pixel_offset"] = file.path, file.relative, pixel_offset
    facts["file_bytes"], facts["modified_ns"] = file.n_bytes, file.modified_ns
    header: SliceHeader = object.__new__(SliceHeader)
    object.__setattr__(header, "__dict__", facts)
    return header
