"""A de-identified object as the bytes of a file: zeroed preamble, meta information of our own, nothing behind it.

Its elements are bytes already, so writing is a matter of headers and lengths (PS3.5 section 7, PS3.10 section 7).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from pipeline.deidentify.text import encodings_of
from pipeline.deidentify.values import LONG_VRS, pad

#: names this program in the objects that it writes (PS3.7 D.3.3.2)
IMPLEMENTATION_CLASS_UID = "2.25.152907417356803206462391437042905437184"
_IMPLEMENTATION_VERSION = "NODULEFLOW_1"
_IMPLICIT, _DEFLATED, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_UNDEFINED = 0xFFFFFFFF
_LONGEST_SHORT_BYTES = 0xFFFE


def bytes_of(element: Any, little: bool, charset: bytes = b"") -> bytes:
    """The value of an element as a file holds it; b"" for a sequence, and for what cannot be encoded.

    charset: raw SpecificCharacterSet of the dataset, by which a decoded text is encoded again.
    """
    if element.is_raw:
        return bytes(element.value or b"")
    if isinstance(element.value, Sequence):
        return b""
    for encodings in (list(encodings_of(charset)), ["utf-8"]):
        stream = DicomBytesIO()
        stream.is_implicit_VR, stream.is_little_endian = True, little
        try:
            write_data_element(stream, element, encodings)
        except Exception:  # a value that its representation or its character set cannot hold
            continue
        return bytes(stream.getvalue()[8:])
    return b""


def file_meta(original: Dataset, sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    """Meta information of this program; of the original's only the transfer syntax stays."""
    implicit, little = original.original_encoding
    plain = _IMPLICIT if implicit else _BIG if little is False else "1.2.840.10008.1.2.1"
    syntax = str(getattr(original, "file_meta", {}).get("TransferSyntaxUID", "") or plain)
    known = syntax.startswith(_IMPLICIT) and (syntax == _IMPLICIT) == bool(implicit)
    values = (
        (0x00020001, "OB", b"\0\1"),
        (0x00020002, "UI", sop_class_uid.encode()),
        (0x00020003, "UI", sop_instance_uid.encode()),
        (0x00020010, "UI", (syntax if known else plain).encode()),
        (0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
        (0x00020013, "SH", _IMPLEMENTATION_VERSION.encode()),
    )
    return FileMetaDataset({BaseTag(tag): raw_element(tag, vr, value, True) for tag, vr, value in values})


def raw_element(tag: int, representation: str, value: bytes, little: bool) -> RawDataElement:
    """An element that is written as these bytes, padded to an even length."""
    value = pad(value, representation)
    return RawDataElement(BaseTag(tag), representation, len(value), value, 0, False, little)


def to_chunks(dataset: Dataset) -> list[bytes]:
    """A de-identified object, with the file meta information it has, as the bytes of a file (PS3.10), in pieces."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    meta: list[bytes] = []
    length = _write(dataset.file_meta, False, True, meta)
    head = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, length) + b"".join(meta)
    body: list[bytes] = []
    _write(dataset, syntax == _IMPLICIT, syntax != _BIG, body)
    if syntax == _DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(b"".join(body)) + packer.flush()
        body = [packed + b"\0" * (len(packed) % 2)]
    return [head, *body]


def to_bytes(dataset: Dataset) -> bytes:
    """A de-identified object as a file."""
    return b"".join(to_chunks(dataset))


def _write(dataset: Dataset, implicit: bool, little: bool, parts: list[bytes]) -> int:
    """Append the elements of a dataset in order; the number of bytes."""
    order = "<" if little else ">"
    total = 0
    pairs: list[tuple[int, Any]] = [(int(tag), element) for tag, element in dataset.items()]
    for tag, element in sorted(pairs, key=_number):
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if element.VR == "SQ":
            content: list[bytes] = []
            length = sum(_write_item(item, implicit, little, content) for item in element.value)
        else:
            value = bytes_of(element, little)
            content, length = [value], len(value)
        undefined = element.is_raw and element.length == _UNDEFINED
        if undefined:  # the items of encapsulated pixel data, which end with a delimiter of their own
            content.append(struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0))
            length += 8
        stated = _UNDEFINED if undefined else length
        if implicit:
            head += struct.pack(order + "L", stated)
        elif element.VR in LONG_VRS:
            head += element.VR.encode() + b"\0\0" + struct.pack(order + "L", stated)
        else:
            if length > _LONGEST_SHORT_BYTES:
                content, length = [b""], 0
            head += element.VR.encode() + struct.pack(order + "H", length)
        parts.append(head)
        parts += content
        total += len(head) + length
    return total


def _number(pair: tuple[int, Any]) -> int:
    return pair[0]


def _write_item(item: Dataset, implicit: bool, little: bool, parts: list[bytes]) -> int:
    place = len(parts)
    parts.append(b"")
    length = _write(item, implicit, little, parts)
    parts[place] = struct.pack(("<" if little else ">") + "HHL", 0xFFFE, 0xE000, length)
    return length + 8
