"""A de-identified object as the bytes of a file: zeroed preamble, meta information of our own, nothing behind it.

Its elements are bytes already, so writing is a matter of headers and lengths (PS3.5 section 7, PS3.10 section 7).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pipeline.deidentify.values import LONG_VRS

#: names this program in the objects that it writes (PS3.7 D.3.3.2)
IMPLEMENTATION_CLASS_UID = "2.25.152907417356803206462391437042905437184"
_IMPLEMENTATION_VERSION = "NODULEFLOW_1"
_IMPLICIT, _DEFLATED, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_UNDEFINED = 0xFFFFFFFF
_LONGEST_SHORT_BYTES = 0xFFFE


def bytes_of(element: Any, little: bool) -> bytes:
    """The value of an element as a file holds it; b"" for a sequence, and for what cannot be encoded."""
    if element.is_raw:
        return bytes(element.value or b"")
    if isinstance(element.value, Sequence):
        return b""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = True, little
    try:
        write_data_element(stream, element, ["utf-8"])
    except Exception:  # a value that its representation cannot hold
        return b""
    return bytes(stream.getvalue()[8:])


def file_meta(original: Dataset, sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    """Meta information of this program; of the original's only the transfer syntax stays."""
    meta = FileMetaDataset()
    implicit, little = original.original_encoding
    plain = _IMPLICIT if implicit else _BIG if little is False else "1.2.840.10008.1.2.1"
    syntax = str(getattr(original, "file_meta", {}).get("TransferSyntaxUID", "") or plain)
    known = syntax.startswith(_IMPLICIT) and (syntax == _IMPLICIT) == bool(implicit)
    meta.FileMetaInformationGroupLength = 0  # counted when it is written
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(syntax if known else plain)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = _IMPLEMENTATION_VERSION
    return meta


def to_bytes(dataset: Dataset) -> bytes:
    """A de-identified object, with the file meta information it has, as a file (PS3.10)."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    head = DicomBytesIO()
    write_file_meta_info(head, dataset.file_meta, enforce_standard=False)
    parts: list[bytes] = []
    _write(dataset, syntax == _IMPLICIT, syntax != _BIG, parts)
    body = b"".join(parts)
    if syntax == _DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
        body += b"\0" * (len(body) % 2)
    return b"".join((b"\0" * 128, b"DICM", head.getvalue(), body))


def _write(dataset: Dataset, implicit: bool, little: bool, parts: list[bytes]) -> int:
    """Append the elements of a dataset in order; the number of bytes."""
    order = "<" if little else ">"
    total = 0
    for tag in sorted(dataset.keys()):
        element: Any = dataset.get_item(tag)
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


def _write_item(item: Dataset, implicit: bool, little: bool, parts: list[bytes]) -> int:
    place = len(parts)
    parts.append(b"")
    length = _write(item, implicit, little, parts)
    parts[place] = struct.pack(("<" if little else ">") + "HHL", 0xFFFE, 0xE000, length)
    return length + 8
