"""The front of a DICOM file (PS3.10 section 7.1): meta information, and how the dataset behind it is truly written.

The transfer syntax of the meta information is what a writer declares. The bytes decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.headers import code_streams
from pipeline.headers.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    LONG_VRS,
    PIXEL_DATA,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    Element,
    Encoding,
    OddHeaderError,
    ShortBufferError,
)

IMPLICIT_SYNTAX = "1.2.840.10008.1.2"
EXPLICIT_SYNTAX = "1.2.840.10008.1.2.1"
BIG_ENDIAN_SYNTAX = "1.2.840.10008.1.2.2"
DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
#: native pixels in the items of an encapsulated element
ENCAPSULATED_UNCOMPRESSED_SYNTAX = "1.2.840.10008.1.2.1.98"
TRANSFER_SYNTAX_TAG = 0x00020010

_NATIVE = {IMPLICIT_LITTLE: IMPLICIT_SYNTAX, EXPLICIT_LITTLE: EXPLICIT_SYNTAX, EXPLICIT_BIG: BIG_ENDIAN_SYNTAX}
_DECLARED = {IMPLICIT_SYNTAX: IMPLICIT_LITTLE, BIG_ENDIAN_SYNTAX: EXPLICIT_BIG}
_VRS = SHORT_VRS | LONG_VRS
_ITEM = b"\xfe\xff\x00\xe0"
#: zip, gzip, xz, bzip2, zstandard, 7z, rar
_PACKED = (
    b"PK\3\4",
    b"PK\5\6",
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"BZh",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
)


@dataclass(frozen=True)
class Front:
    """meta: elements of group 0002. start: offset of the dataset. declared: transfer syntax, "" where none is named.

    encoding: how the dataset is written; None where its first bytes are compressed.
    """

    meta: tuple[Element, ...]
    start: int
    declared: str
    encoding: Encoding | None


def looks_like_dicom(data: bytes) -> bool:
    """Whether a file that begins so has the prefix, or begins with an element of group 0002 or 0008 without one."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 12:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element = int.from_bytes(data[:2], order), int.from_bytes(data[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x0100:
            continue
        if int.from_bytes(data[4:8], order) <= 1024 or (data[4:6].isalpha() and data[4:6].isupper()):
            return True
    return False


def read_front(data: bytes) -> Front:
    """The front of a file from its beginning, with or without a preamble.

    Raises
    ------
    ShortBufferError, OddHeaderError: as `pipeline.headers.elements.walk` does.
    """
    position = 132 if data[128:132] == b"DICM" else 0
    meta: list[Element] = []
    declared = ""
    while data[position : position + 2] == b"\2\0":
        if position + 12 > len(data):
            raise ShortBufferError
        tag = 0x00020000 | int.from_bytes(data[position + 2 : position + 4], "little")
        vr = data[position + 4 : position + 6]
        if vr in LONG_VRS:
            value, length = position + 12, int.from_bytes(data[position + 8 : position + 12], "little")
        elif vr in SHORT_VRS:
            value, length = position + 8, int.from_bytes(data[position + 6 : position + 8], "little")
        else:
            raise OddHeaderError
        if value + length > len(data):
            raise ShortBufferError
        if tag == TRANSFER_SYNTAX_TAG:
            declared = data[value : value + length].rstrip(b"\0 ").decode("latin-1")
            if "\\" in declared:
                raise OddHeaderError
        meta.append(Element(tag, vr, position, value, length))
        position = value + length
    return Front(tuple(meta), position, declared, encoding_of(data[position : position + 8]))


def encoding_of(head: bytes) -> Encoding | None:
    """How a dataset is written, by the head of its first element; None where that is no head of groups 0004 to 00FF.

    A first element of more than 16 kB would be needed for the length of implicit VR to read as a VR.
    """
    if len(head) < 8:
        return None
    explicit = head[4:6] in _VRS
    if head[1] == 0 and head[0] >= 4:
        return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    if head[0] == 0 and head[1] >= 4 and explicit:
        return EXPLICIT_BIG
    return None


def declared_encoding(declared: str) -> Encoding:
    """The encoding that a transfer syntax stands for (PS3.5 annex A); compressed ones are explicit little endian."""
    return _DECLARED.get(declared, EXPLICIT_LITTLE)


def is_native(syntax: str) -> bool:
    """Whether pixels under the transfer syntax are neither compressed nor in items."""
    return syntax in (IMPLICIT_SYNTAX, EXPLICIT_SYNTAX, BIG_ENDIAN_SYNTAX)


def true_syntax(declared: str, encoding: Encoding, pixels: Element | None, fragment: bytes, value: bytes) -> str:
    """The transfer syntax that the bytes of a file have; "" where the pixels are in items of no known code stream.

    pixels: the element of the pixel data. fragment: beginning of the first fragment of encapsulated pixel data, the
    code stream; value: beginning of the pixel data's value.
    """
    native = _NATIVE[encoding]
    native_declared = not declared or is_native(declared)
    if pixels is None or pixels.tag != PIXEL_DATA:
        return native if native_declared else declared
    if pixels.length != UNDEFINED_LENGTH and not (value[:4] == _ITEM and not native_declared):
        return native
    if declared == ENCAPSULATED_UNCOMPRESSED_SYNTAX:
        return declared
    found = code_streams.syntax_of(fragment)
    if native_declared:
        return found
    return declared if code_streams.agrees(declared, found) else found


def looks_packed(head: bytes) -> bool:
    """Whether a file of an unknown kind that begins so (512 bytes) is an archive or a compressed file."""
    return head.startswith(_PACKED) or head[257:262] == b"ustar"
