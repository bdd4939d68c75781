"""De-identification of DICOM objects by the confidentiality profile (PS3.15 Annex E), at every depth of nesting.

Elements are handled as the bytes that the file holds, so a value that breaks its representation breaks nothing here.
What the profile does not name passes only if its representation shows what it is: numbers, codes, registered UIDs,
technical texts without names or long numbers. Private elements pass by a list of safe ones, everything else is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.elements import ElementCleaner
from pipeline.deidentify.identity import HeaderIdentity, header_identity
from pipeline.deidentify.profile import METHODS, Action, edition, kind_of_object, safe_private
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.text import TextCleaner
from pipeline.deidentify.values import dictionary_entry, keep_number
from pipeline.deidentify.writer import bytes_of, file_meta, raw_element

_CHARACTER_SET, _SCHEME, _METHOD_CODES = 0x00080005, 0x00080102, 0x00120064
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
#: written anew
_OWN = frozenset((_CHARACTER_SET, 0x00120062, 0x00120063, _METHOD_CODES, 0x00280303))
_CODE_PARTS = frozenset((0x00080100, 0x00080119, 0x00080120, 0x00080104, _SCHEME, 0x00080103))
_PIXEL_DATA, _NUMBER_OF_FRAMES = 0x7FE00010, 0x00280008
#: command, file meta, directory, length to end
_FOREIGN_GROUPS = frozenset((0x0000, 0x0002, 0x0004, 0x0006))
_DEEPEST = 24
_MOST_CLEANERS = 8
_UTF8 = b"ISO_IR 192"
_KNOWN_METHODS = frozenset(str(code) for code in range(113100, 113113))


class Deidentifier:
    """De-identifies objects; one may serve many files, and remembers what equal elements became.

    pseudonymizer: its secret makes the keys, UIDs and date offsets, equal to those of an ingest with that secret.
    params: the options of the profile.
    """

    def __init__(self, pseudonymizer: Pseudonymizer, params: DeidentifyParams | None = None) -> None:
        self.pseudonymizer = pseudonymizer
        self.params = params or DeidentifyParams()
        self._cleaners: dict[tuple[str, HeaderIdentity], ElementCleaner] = {}
        self._signatures: dict[object, DataElement] = {}

    def apply(self, dataset: Dataset, *, pixels_cleaned: bool = False) -> tuple[Dataset, Counter[str]]:
        """The object without identity, with its file meta information; and how many elements met which action.

        dataset: as read or built; it is not changed. Its pixel data are taken over as they are.
        pixels_cleaned: text in the pixels was blanked before, which the object then says of itself.
        """
        identity = header_identity(dataset)
        implicit, little = _encoding(dataset)
        walk = _Walk(self._cleaner(identity), self.params, implicit, little)
        elements = walk.dataset(dataset, identity.charset, 0)
        self._sign(elements, walk, dataset, pixels_cleaned)
        clean = walk.as_dataset(elements)
        clean.file_meta = file_meta(dataset, *(_text(elements, tag) for tag in (_SOP_CLASS, _SOP_INSTANCE)))
        return clean, walk.counts

    def _cleaner(self, identity: HeaderIdentity) -> ElementCleaner:
        kind = kind_of_object(identity.sop_class_uid)
        key = (kind, identity.shared())
        if key not in self._cleaners:
            while len(self._cleaners) >= _MOST_CLEANERS:
                del self._cleaners[next(iter(self._cleaners))]
            patient = identity.patient_key(self.pseudonymizer)
            text = TextCleaner(identity.names, identity.others)
            self._cleaners[key] = ElementCleaner(self.pseudonymizer, self.params, patient, text, kind)
        return self._cleaners[key]

    def methods(self, pixels_cleaned: bool = False) -> list[tuple[str, str]]:
        """Codes and meanings (CID 7050) of what is done."""
        names = ["profile", *(name for name in METHODS if getattr(self.params, name, False))]
        return [METHODS[name] for name in (*names, *(["clean_pixels"] if pixels_cleaned else []))]

    def _sign(self, elements: dict[BaseTag, Any], walk: _Walk, original: Dataset, pixels_cleaned: bool) -> None:
        """Say in the object that and how it was de-identified (PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1)."""
        methods = self.methods(pixels_cleaned)
        known = {code for code, _ in methods}
        methods += [method for method in _earlier_methods(original) if method[0] not in known]
        walk.put(elements, _CHARACTER_SET, "CS", _UTF8)
        walk.put(elements, 0x00120062, "CS", b"YES")
        walk.put(elements, 0x00120063, "LO", f"noduleflow, PS3.15 {edition()}".encode())
        walk.put(elements, 0x00280303, "CS", b"MODIFIED" if self.params.retain_dates else b"REMOVED")
        if pixels_cleaned:
            walk.put(elements, 0x00280301, "CS", b"NO")
        key = (walk.implicit, walk.little, tuple(methods))
        if key not in self._signatures:
            items = [walk.code(code, b"DCM", meaning) for code, meaning in methods]
            self._signatures[key] = DataElement(_METHOD_CODES, "SQ", Sequence(items))
        elements[BaseTag(_METHOD_CODES)] = self._signatures[key]


class _Walk:
    """One pass over an object and all that is nested in it."""

    def __init__(self, cleaner: ElementCleaner, params: DeidentifyParams, implicit: bool, little: bool) -> None:
        self.cleaner = cleaner
        self.params = params
        self.implicit = implicit
        self.little = little
        self.counts: Counter[str] = Counter()

    def dataset(self, dataset: Dataset, charset: bytes, depth: int) -> dict[BaseTag, DataElement | RawDataElement]:
        """The elements of one level that stay. charset: raw, inherited from the level above."""
        top = depth == 0
        elements: dict[int, Any] = {int(tag): element for tag, element in dataset.items()}
        if not top and _CHARACTER_SET in elements:
            charset = bytes_of(elements[_CHARACTER_SET], self.little)
        scheme = None
        if not top and not _CODE_PARTS.isdisjoint(elements):
            scheme = self._text(elements, _SCHEME)
        kept: dict[BaseTag, DataElement | RawDataElement] = {}
        private: dict[int, Any] = {}
        for tag, element in elements.items():
            group = tag >> 16
            if group & 1:
                private[tag] = element
            elif tag in _OWN or tag & 0xFFFF == 0 or group in _FOREIGN_GROUPS or group & 0xFF00 in (0x5000, 0x6000):
                self.counts[Action.REMOVE.value] += tag not in _OWN
            elif top and tag == _PIXEL_DATA:
                kept[BaseTag(tag)] = _pixel_element(elements, self.little)
            else:
                found = self._element(tag, element, charset, depth, scheme)
                if found is not None:
                    kept[found.tag] = found
        if private:
            self._private(private, kept)
        return kept

    def _element(
        self, tag: int, element: Any, charset: bytes, depth: int, scheme: str | None
    ) -> DataElement | RawDataElement | None:
        entry = dictionary_entry(tag)
        if entry is not None and entry[0] == "SQ":
            return self._sequence(tag, element, charset, depth)
        value = bytes_of(element, self.little, charset)
        file_vr = element.VR
        if scheme is not None and tag in _CODE_PARTS:
            coded = self.cleaner.clean_code(tag, scheme, value, charset)
            if coded is not None and entry is not None:
                self.counts[Action.KEEP.value] += 1
                return self.raw(tag, entry[0], coded) if coded else None
        if file_vr in ("UN", None) and not self.little and entry is not None and entry[0] in ("US", "SS", "UL", "FL"):
            value = value if file_vr is None else b""  # the byte order of an unknown value is unknown
        cleaned = self.cleaner.clean(tag, file_vr, value, charset, depth == 0)
        self.counts[cleaned.action] += 1
        return None if cleaned.value is None else self.raw(tag, cleaned.representation, cleaned.value)

    def _sequence(self, tag: int, element: Any, charset: bytes, depth: int) -> DataElement | None:
        rule = self.cleaner.rule(tag, depth == 0)
        action = Action.RECURSE if rule is None else rule.action
        entry = dictionary_entry(tag)
        if action is Action.REMOVE or depth >= _DEEPEST or (rule is None and entry is not None and entry[3]):
            self.counts[Action.REMOVE.value] += 1
            return None
        self.counts[action.value] += 1
        items: list[Dataset] = []
        if action is Action.DUMMY:
            coded = entry is not None and entry[2].endswith("CodeSequence")
            items = [self.code("REMOVED", b"99LOCAL", "removed")] if coded else [self.as_dataset({})]
        elif action is not Action.EMPTY:
            for item in self._items(element, charset):
                items.append(self.as_dataset(self.dataset(item, charset, depth + 1)))
        return DataElement(tag, "SQ", Sequence(items))

    def _items(self, element: Any, charset: bytes) -> Iterable[Dataset]:
        """The items of a sequence; none where its bytes are no sequence."""
        if not element.is_raw:
            return element.value if isinstance(element.value, Sequence) else ()
        if element.VR not in (None, "SQ", "UN") or not element.value:
            return ()
        # what stands in an UN is implicit little endian (PS3.5 section 6.2.2 note 2)
        implicit, little = (True, True) if element.VR == "UN" else (element.is_implicit_VR, element.is_little_endian)
        if little != self.little:
            return ()
        try:
            return list(convert_SQ(element.value, implicit, little, ["iso8859"], 0))
        except Exception:  # a broken sequence raises whatever its bytes lead to
            self.counts["broken"] += 1
            return ()

    def _private(self, elements: dict[int, Any], kept: dict[BaseTag, Any]) -> None:
        """Keep the private elements of the safe list, with their creators."""
        safe = safe_private() if self.params.retain_safe_private else {}
        creators: dict[int, tuple[int, str]] = {}
        for tag in sorted(elements):
            group, element = tag >> 16, tag & 0xFFFF
            if 0x10 <= element <= 0xFF:
                creators[(group << 8) | element] = (tag, self._text(elements, tag))
                continue
            creator = creators.get((group << 8) | (element >> 8))
            known = safe.get((creator[1], group, element & 0xFF)) if creator else None
            value = b""
            if known is not None and creator is not None:
                raw = elements[tag]
                if raw.VR in (None, "UN", known[0]) and (self.little or raw.VR != "UN"):
                    value = keep_number(bytes_of(raw, self.little), *known)
            if value and known is not None and creator is not None:
                kept[BaseTag(creator[0])] = self.raw(creator[0], "LO", creator[1].encode("latin-1"))
                kept[BaseTag(tag)] = self.raw(tag, known[0], value)
                self.counts[Action.KEEP.value] += 1
            else:
                self.counts[Action.REMOVE.value] += 1

    def _text(self, elements: dict[int, Any], tag: int) -> str:
        if tag not in elements:
            return ""
        return bytes_of(elements[tag], self.little).decode("latin-1").strip("\0 ")

    def raw(self, tag: int, representation: str, value: bytes) -> RawDataElement:
        """An element that is written as these bytes."""
        return raw_element(tag, representation, value, self.little)

    def put(self, elements: dict[BaseTag, Any], tag: int, representation: str, value: bytes) -> None:
        """Set an element of a finished level."""
        elements[BaseTag(tag)] = self.raw(tag, representation, value)

    def code(self, code: str, scheme: bytes, meaning: str) -> Dataset:
        """A code item."""
        parts = ((0x00080100, "SH", code.encode()), (_SCHEME, "SH", scheme), (0x00080104, "LO", meaning.encode()))
        return self.as_dataset({BaseTag(tag): self.raw(tag, vr, value) for tag, vr, value in parts})

    def as_dataset(self, elements: dict[BaseTag, Any]) -> Dataset:
        """A dataset whose raw elements are written as they are."""
        dataset = Dataset(elements)
        dataset.set_original_encoding(self.implicit, self.little)
        return dataset


def _text(elements: dict[BaseTag, Any], tag: int) -> str:
    element = elements.get(BaseTag(tag))
    return "" if element is None else element.value.decode("latin-1").strip("\0 ")


def _encoding(dataset: Dataset) -> tuple[bool, bool]:
    """(implicit, little endian) of a dataset's raw elements; explicit little endian for one built in memory."""
    implicit, little = dataset.original_encoding
    return bool(implicit), little is None or bool(little)


def _pixel_element(elements: dict[int, Any], little: bool) -> RawDataElement:
    """Pixel data as they are; of native ones the bytes behind the last pixel, which nobody sees, are cut off."""
    element = elements[_PIXEL_DATA]
    undefined = element.length == 0xFFFFFFFF if element.is_raw else bool(element.is_undefined_length)
    value = bytes(element.value or b"")
    if not undefined:
        size = _native_bytes(elements, little)
        value = value[: size + size % 2] if size and size < len(value) else value
        value += b"\0" * (len(value) % 2)
    representation = element.VR if element.VR in ("OB", "OW") else "OW"
    return RawDataElement(
        BaseTag(_PIXEL_DATA), representation, 0xFFFFFFFF if undefined else len(value), value, 0, False, little
    )


def _native_bytes(elements: dict[int, Any], little: bool) -> int:
    """Bytes that the pixels take by their sizes; 0 where those are no numbers."""

    def number(tag: int, default: int) -> int:
        element = elements.get(tag)
        if element is None:
            return default
        if element.is_raw and tag != _NUMBER_OF_FRAMES:
            return int.from_bytes((element.value or b"")[:2], "little" if little else "big")
        return int(element.value or default)

    try:
        samples, rows, columns, bits = (number(tag, 1) for tag in (0x00280002, 0x00280010, 0x00280011, 0x00280100))
        return samples * rows * columns * number(_NUMBER_OF_FRAMES, 1) * bits // 8
    except (TypeError, ValueError):
        return 0


def _earlier_methods(dataset: Dataset) -> list[tuple[str, str]]:
    """Methods of CID 7050 that the object already names."""
    found = []
    if _METHOD_CODES not in dataset:
        return []
    try:
        for item in dataset.get("DeidentificationMethodCodeSequence") or ():
            if item.CodingSchemeDesignator == "DCM" and item.CodeValue in _KNOWN_METHODS:
                meaning = next((text for code, text in METHODS.values() if code == item.CodeValue), "")
                found.append((str(item.CodeValue), meaning or "De-identification option"))
    except Exception:  # header values are hostile
        return []
    return found
