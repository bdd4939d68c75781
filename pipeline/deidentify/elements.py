"""One element at a time: the plan's action on its bytes, or, where it is silent, what its representation allows."""

from __future__ import annotations

import re
from typing import NamedTuple

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.profile import Action, Rule, is_required, plan
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.text import TextCleaner, decode, encodings_of
from pipeline.deidentify.values import (
    DATE_VRS,
    NUMBER_BYTES,
    TEXT_VRS,
    cap_age,
    dictionary_entry,
    dummy,
    each,
    is_plausible,
    is_registered_uid,
    keep_code,
    keep_number,
    pad,
    shift_temporal,
)

#: bulk values of an image: float pixels, offset tables, palettes and look-up tables
_BULK = frozenset(
    (
        *(0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009),
        *(0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223, 0x00283006),
    )
)
_SOFTWARE_VERSIONS, _ETHNIC_GROUP = 0x00181020, 0x00102160
#: UIDs of code tables, which name no one: (0008,010C), (0008,0117), (0008,010D), (0008,0118)
_TABLE_UIDS = frozenset((0x0008010C, 0x00080117, 0x0008010D, 0x00080118))
_OID = re.compile(rb"[0-2](\.\d{1,12}){2,12}")
_CODE_VALUES = (0x00080100, 0x00080119, 0x00080120)
_CODE_MEANING, _SCHEME, _SCHEME_VERSION = 0x00080104, 0x00080102, 0x00080103
#: code values of schemes that everybody shares; what a scheme of the house holds may name a patient
_SCHEMES = {
    "SCT": r"\d{6,18}",
    "SRT": r"[A-Z]\d?-[0-9A-Z]{4,7}",
    "SNM3": r"[A-Z]\d?-[0-9A-Z]{4,7}",
    "99SDM": r"[A-Z]\d?-[0-9A-Z]{4,7}",
    "DCM": r"\d{6}|[A-Z]{2,12}",
    "UCUM": r"[A-Za-z0-9%/.*\[\]{}^'-]{1,16}",
    "LN": r"\d{1,6}-\d",
    "FMA": r"\d{1,6}",
    "RADLEX": r"RID\d{1,6}",
    "NCIt": r"C\d{2,7}",
    "UMLS": r"C\d{7}",
    "I10": r"[A-Z]\d\d(\.\w{1,4})?",
}
_LONGEST_CACHED_BYTES = 128
_MOST_CACHED = 20_000


class Cleaned(NamedTuple):
    """What became of an element. value: None where it is gone; action: the word it is counted under."""

    action: str
    representation: str
    value: bytes | None


_GONE = Cleaned(Action.REMOVE.value, "", None)


class ElementCleaner:
    """Cleans the elements of one patient's objects of one kind; equal elements of a series are worked out once.

    text: knows the patient's names. kind: as `kind_of_object` says.
    """

    def __init__(
        self, pseudonymizer: Pseudonymizer, params: DeidentifyParams, patient_key: str, text: TextCleaner, kind: str
    ) -> None:
        self._pseudonymizer = pseudonymizer
        self._params = params
        self._patient = patient_key.encode()
        self._days = pseudonymizer.shift_days(patient_key)
        self._text = text
        self._kind = kind
        self._plans = (plan(params, ""), plan(params, kind))
        self._cache: dict[tuple[int, str | None, bytes, bytes, bool], Cleaned] = {}

    def rule(self, tag: int, top: bool) -> Rule | None:
        """What the plan says of a tag; None where it is not listed."""
        return self._plans[top].get(tag)

    def clean(self, tag: int, file_vr: str | None, value: bytes, charset: bytes, top: bool) -> Cleaned:
        """One element that is no sequence. file_vr: as the file has it, None in implicit files. charset: raw."""
        if len(value) > _LONGEST_CACHED_BYTES:
            return self._clean(tag, file_vr, value, charset, top)
        key = (tag, file_vr, value, charset, top)
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            found = self._cache[key] = self._clean(tag, file_vr, value, charset, top)
        return found

    def _clean(self, tag: int, file_vr: str | None, value: bytes, charset: bytes, top: bool) -> Cleaned:
        entry = dictionary_entry(tag)
        if entry is None:
            return _GONE
        listed, multiplicity, _, retired = entry
        rule = self._plans[top].get(tag)
        representation = _representation(listed, file_vr)
        if rule is None:
            if retired:
                return _GONE
            rule = self._unlisted(tag, representation, top)
        action = rule.action
        if action is Action.KEEP and not _agree(representation, file_vr):
            action = rule.otherwise  # bytes of another representation than the tag's can hold anything
        cleaned = self._do(action, tag, representation, multiplicity, value, charset)
        if cleaned == b"" and value.strip(b"\0 ") and action is not Action.EMPTY:
            # nothing is left of the value: what the profile does without the option
            action = rule.otherwise
            if is_required(self._kind, tag) and top:
                action = Action.DUMMY
            cleaned = self._do(action, tag, representation, multiplicity, value, charset)
        if cleaned is None:
            return _GONE
        return Cleaned(action.value, representation, pad(cleaned, representation))

    def _do(
        self, action: Action, tag: int, representation: str, multiplicity: str, value: bytes, charset: bytes
    ) -> bytes | None:
        if action is Action.REMOVE:
            return None
        if action is Action.EMPTY:
            return b""
        if action is Action.PATIENT_KEY:
            return self._patient
        if action is Action.UID:
            return each(value, lambda part: self._uid(part, tag))
        if action is Action.SHIFT:
            return shift_temporal(value, representation, self._days)
        if action is Action.AGE:
            return cap_age(value)
        if action is Action.CLEAN:
            limit = 16 if representation == "SH" else 64
            return self._text.vocabulary_only(decode(value, encodings_of(charset)), limit).encode()
        if action is Action.KEEP:
            return self._keep(tag, representation, multiplicity, value, charset)
        return dummy(representation)

    def _unlisted(self, tag: int, representation: str, top: bool) -> Rule:
        """What is done with an element that the profile does not name."""
        if representation == "UI":
            return Rule(Action.UID, Action.UID)
        if representation in DATE_VRS:
            return Rule(Action.SHIFT if self._params.retain_dates else Action.EMPTY, Action.EMPTY)
        if representation in TEXT_VRS or representation in NUMBER_BYTES or representation in ("CS", "DS", "IS"):
            return Rule(Action.KEEP, Action.EMPTY)
        if tag in _BULK and top:
            return Rule(Action.KEEP, Action.REMOVE)
        return Rule(Action.REMOVE, Action.REMOVE)

    def _keep(self, tag: int, representation: str, multiplicity: str, value: bytes, charset: bytes) -> bytes:
        """The value where its bytes are what its representation says and name nobody; else b""."""
        if not is_plausible(tag, value):
            return b""
        if tag == _ETHNIC_GROUP:
            return self._text.vocabulary_only(decode(value, encodings_of(charset)), 16).encode()
        if representation in NUMBER_BYTES or representation in ("DS", "IS"):
            return keep_number(value, representation, multiplicity)
        if representation == "CS":
            return keep_code(value, self._text.code_names_someone)
        if representation == "UI":
            return each(value, lambda part: part if _OID.fullmatch(part) else b"")
        if representation in TEXT_VRS:
            keep = self._text.keep_version if tag == _SOFTWARE_VERSIONS else self._text.keep
            text = decode(value, encodings_of(charset))
            if representation in ("LO", "SH", "UC"):
                return "\\".join(keep(part) for part in text.split("\\")).encode()
            return keep(text).encode()
        return value if tag in _BULK else b""

    def _uid(self, part: bytes, tag: int) -> bytes:
        if not part:
            return b""
        uid = part.decode("latin-1")
        if is_registered_uid(uid) or (tag in _TABLE_UIDS and _OID.fullmatch(part)):
            return part
        return self._pseudonymizer.pseudonymous_uid(uid).encode()

    def clean_code(self, tag: int, scheme: str, value: bytes, charset: bytes) -> bytes | None:
        """An element of a code item (PS3.3 section 8); b"" or a pseudonym where the code is nobody's but the house's.

        scheme: CodingSchemeDesignator of the item. None where the tag is no part of a code.
        """
        text = decode(value, encodings_of(charset)).strip()
        shared = _SCHEMES.get(scheme)
        if tag in _CODE_VALUES:
            good = shared is not None and re.fullmatch(shared, text)
            return text.encode() if good else self._pseudonymizer.key("code", f"{scheme}\0{text}").encode()
        if tag == _CODE_MEANING:
            kept = self._text.keep(text) if shared is not None else self._text.vocabulary_only(text)
            return (kept or "local code").encode()
        if tag == _SCHEME:
            return scheme.encode() if shared is not None else b"99LOCAL"
        return b"" if tag == _SCHEME_VERSION else None


def _representation(listed: str, file_vr: str | None) -> str:
    """The representation to write: the dictionary's, of several the file's own or the first."""
    choices = listed.split(" or ")
    return file_vr if file_vr in choices else choices[0]


def _agree(representation: str, file_vr: str | None) -> bool:
    """Whether a file's representation may stand for the dictionary's without another meaning of its bytes."""
    if file_vr in (None, "UN", representation):
        return True
    texts = (*TEXT_VRS, "CS", "DS", "IS", "AS", "UI")
    return representation in texts and file_vr in texts
