"""Who a header is about: the values that make the keys, and every name and number by which a text gives it away."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset

from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.text import decode, encodings_of, identifier_parts
from pipeline.deidentify.writer import bytes_of

#: the patient's own: name, ids, other ids and names, birth name, mother's birth name, accession number, study id
_OWN = (0x00100010, 0x00100020, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00080050, 0x00200010)
#: of others: physicians, operators, institution, department, station, device serial number, residence, telephone
_OTHERS = (0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00080080, 0x00080081, 0x00081040)
_MORE_OTHERS = (0x00081010, 0x00181000, 0x00101040, 0x00102154, 0x00321032, 0x00104000)
_SOP_CLASS, _SOP, _STUDY, _SERIES, _ISSUER = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00100021
_NAME, _ID, _ACCESSION, _CHARACTER_SET = 0x00100010, 0x00100020, 0x00080050, 0x00080005


@dataclass(frozen=True)
class HeaderIdentity:
    """Direct identifiers of one object. names, others: parts of names as `TextCleaner` takes them; charset: raw."""

    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    issuer: str = field(repr=False)
    accession_number: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    sop_class_uid: str
    charset: bytes
    names: frozenset[str] = field(repr=False)
    others: frozenset[str] = field(repr=False)

    def patient_key(self, pseudonymizer: Pseudonymizer) -> str:
        """The key that an ingest of this object has."""
        return pseudonymizer.header_patient_key(self.patient_id, self.issuer, self.study_instance_uid)

    def shared(self) -> HeaderIdentity:
        """What the objects of a series have in common."""
        study = "" if self.patient_id else self.study_instance_uid
        return replace(self, series_instance_uid="", sop_instance_uid="", study_instance_uid=study)


def header_identity(dataset: Dataset) -> HeaderIdentity:
    """The identifiers at the top of an object, "" where one is missing or broken."""
    elements: dict[int, Any] = {int(tag): element for tag, element in dataset.items()}
    charset = _raw(elements, _CHARACTER_SET)
    encodings = encodings_of(charset)

    def text(tag: int) -> str:
        return decode(_raw(elements, tag, charset), encodings).strip().strip("\0").strip()

    return HeaderIdentity(
        patient_id=text(_ID),
        patient_name=text(_NAME),
        issuer=text(_ISSUER),
        accession_number=text(_ACCESSION),
        study_instance_uid=text(_STUDY),
        series_instance_uid=text(_SERIES),
        sop_instance_uid=text(_SOP),
        sop_class_uid=text(_SOP_CLASS),
        charset=charset,
        names=_parts(charset, tuple(_raw(elements, tag, charset) for tag in _OWN)),
        others=_parts(charset, tuple(_raw(elements, tag, charset) for tag in (*_OTHERS, *_MORE_OTHERS))),
    )


@lru_cache(maxsize=256)
def _parts(charset: bytes, values: tuple[bytes, ...]) -> frozenset[str]:
    """Parts of the names in raw values; the objects of a series share theirs."""
    encodings = encodings_of(charset)
    return identifier_parts(decode(value, encodings) for value in values)


def _raw(elements: dict[int, Any], tag: int, charset: bytes = b"") -> bytes:
    """Value of an element as bytes, b"" where there is none."""
    element = elements.get(tag)
    return b"" if element is None else bytes_of(element, True, charset)
