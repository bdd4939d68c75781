"""Whether a file that came over the network is one whole DICOM instance, and which."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID

from data_contracts.errors import DecodeError
from pipeline.headers.values import silence_pydicom, text_of

_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
_PIXEL_TAGS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_TAGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows"]
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class InstanceFacts:
    """What a file says it is. The instance, series and study UIDs are identity."""

    sop_class_uid: str
    transfer_syntax: str
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)


def is_uid(text: str) -> bool:
    """Whether the text is a UID (PS3.5 section 9.1; leading zeros are let through, as real ones have them)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def examine(path: Path) -> InstanceFacts:
    """The facts of a DICOM file whose data set and pixels reach their end.

    Pixels are not decoded: native ones must be as long as their element says, compressed ones must end with their
    delimiter (PS3.5 annex A.4).

    Raises
    ------
    DecodeError: not a DICOM file, without its UIDs, or cut short.
    """
    silence_pydicom()
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            raise DecodeError("not a DICOM file")
        stream.seek(0)
        try:
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            implicit, little = dataset.original_encoding
        except Exception:  # pydicom raises almost anything on a torn or hostile file
            raise DecodeError("the header cannot be read to its end") from None
        facts = InstanceFacts(
            sop_class_uid=text_of(dataset, "SOPClassUID"),
            transfer_syntax=syntax,
            sop_instance_uid=text_of(dataset, "SOPInstanceUID"),
            series_instance_uid=text_of(dataset, "SeriesInstanceUID"),
            study_instance_uid=text_of(dataset, "StudyInstanceUID"),
        )
        if not (is_uid(facts.sop_class_uid) and is_uid(facts.sop_instance_uid)):
            raise DecodeError("no SOP Class or SOP Instance UID")
        if syntax == _DEFLATED:
            return facts  # a cut stream fails to inflate, so its header was not read either
        is_whole = _pixels_end(stream, size, bool(implicit), bool(little))
    if is_whole is None:
        has_pixels = "Rows" in dataset or "Image Storage" in UID(facts.sop_class_uid).name
        is_whole = not has_pixels and _elements_end(path, size)
    if not is_whole:
        raise DecodeError("the file is cut short")
    return facts


def _pixels_end(stream: BinaryIO, size: int, implicit: bool, little: bool) -> bool | None:
    """Whether the pixel element at which the stream stands is all there; None where there is no pixel element."""
    order: Literal["little", "big"] = "little" if little else "big"
    head = stream.read(12)
    if len(head) < 12:
        return None
    if (int.from_bytes(head[:2], order) << 16) | int.from_bytes(head[2:4], order) not in _PIXEL_TAGS:
        return None
    length = int.from_bytes(head[4:8] if implicit else head[8:12], order)
    start = stream.tell() - (4 if implicit else 0)
    if length != _UNDEFINED:
        return start + length <= size
    stream.seek(start)
    while len(item := stream.read(8)) == 8:
        if item[:4] == b"\xfe\xff\xdd\xe0":
            return True
        length = int.from_bytes(item[4:], "little")
        if item[:4] != b"\xfe\xff\x00\xe0" or stream.tell() + length > size:
            return False
        stream.seek(length, os.SEEK_CUR)
    return False


def _elements_end(path: Path, size: int) -> bool:
    """Whether the last element at the top of an object without pixels ends where the file ends.

    A file that is cut exactly between two elements cannot be told from a whole one.
    """
    try:
        dataset = pydicom.dcmread(path)
    except Exception:  # as above
        return False
    last = max(dataset._dict.items(), default=(None, None))[1]
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED:
        return last is not None  # pydicom has read a sequence to its delimiter
    return last.value_tell + last.length == size
