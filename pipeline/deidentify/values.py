"""Single values as bytes: shifted, replaced by a valid dummy, or shown to be what their representation says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import get_entry

TEXT_VRS = frozenset(("LO", "SH", "ST", "LT", "UT", "UC"))
DATE_VRS = frozenset(("DA", "DT", "TM"))
#: bytes of one number
NUMBER_BYTES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "SV": 8, "UV": 8, "AT": 4}
#: representations whose length takes four bytes in an explicit header
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))

REMOVED = "REMOVED"
_DUMMIES = dict.fromkeys(("LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "AE"), REMOVED.encode())
_DUMMIES |= {"AS": b"000D", "DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "DS": b"0", "IS": b"0"}
_DUMMIES |= {name: b"\0" * size for name, size in NUMBER_BYTES.items()}
_DUMMIES |= {"UR": b"urn:removed", "UI": b"2.25.0", "OD": b"\0" * 8, "OV": b"\0" * 8}
_DATE = re.compile(rb"(\d{4})\.?(\d\d)\.?(\d\d)")
_DATETIME = re.compile(rb"(\d{4})(\d\d)?(\d\d)?((?:\d\d){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_TIME = re.compile(rb"\d\d(?::?\d\d(?::?\d\d(?:\.\d{1,6})?)?)?")
_AGE = re.compile(rb"(\d{3})([DWMY])")
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(rb"[+-]?\d{1,10}")
_CODE = re.compile(rb"[A-Za-z0-9 _.+-]{0,16}")
_HIGHEST_AGE_YEARS = 90
#: values that an attribute has where it stays: time zone, sex, size in m, weight in kg, smoking, pregnancy, neutered
_PLAUSIBLE = {
    0x00080201: re.compile(rb"[+-](?:0\d|1[0-4])[0-5]\d"),
    0x00100040: re.compile(rb"[MFO]"),
    0x00101020: re.compile(rb"[0-2]?(?:\.\d{1,3}0{0,8})?"),
    0x00101030: re.compile(rb"\d{1,3}(?:\.\d{1,3}0{0,8})?"),
    0x001021A0: re.compile(rb"YES|NO|UNKNOWN"),
    0x001021C0: re.compile(rb"[\x00-\x04]{2}", re.DOTALL),
    0x00102203: re.compile(rb"ALTERED|UNALTERED"),
}
_CLASSES = frozenset(UID_dictionary)


@lru_cache(maxsize=8192)
def dictionary_entry(tag: int) -> tuple[str, str, str, bool] | None:
    """(representation, multiplicity, keyword, retired) of a standard tag; None for any other."""
    try:
        representation, multiplicity, _, retired, keyword = get_entry(tag)
    except KeyError:
        return None
    return representation, multiplicity, keyword, bool(retired)


def pad(value: bytes, representation: str) -> bytes:
    """The value with an even length."""
    if len(value) % 2 == 0:
        return value
    binary = representation in ("UI", "OB", "UN")
    return value + (b"\0" if binary else b" ")


def dummy(representation: str) -> bytes:
    """A value of this representation that says nothing."""
    return _DUMMIES.get(representation, b"\0\0\0\0")


def each(value: bytes, function: Callable[[bytes], bytes]) -> bytes:
    """The function on every one of the values that a backslash divides; one that becomes empty leaves its place."""
    if b"\\" not in value:
        return function(value.strip(b"\0 "))
    return b"\\".join(function(part.strip(b"\0 ")) for part in value.split(b"\\"))


def is_registered_uid(uid: str) -> bool:
    """Whether the UID is one of the standard's own (a SOP class, a transfer syntax, a well-known instance)."""
    return uid in _CLASSES


def shift_temporal(value: bytes, representation: str, days: int) -> bytes:
    """Dates and date-times moved back by `days`, times as they are; "" for what is none of them.

    Intervals between full dates stay exact; a date-time without a day keeps its precision and moves as its first day.
    """
    if representation == "DA":
        return each(value, lambda part: _shift_date(part, days))
    if representation == "DT":
        return each(value, lambda part: _shift_datetime(part, days))
    return each(value, lambda part: part if _TIME.fullmatch(part) else b"")


def _moved(year: bytes, month: bytes, day: bytes, days: int) -> bytes:
    try:
        moved = date(int(year), int(month), int(day)) - timedelta(days=days)
    except (ValueError, OverflowError):
        return b""
    return b"%04d%02d%02d" % (moved.year, moved.month, moved.day)


def _shift_date(text: bytes, days: int) -> bytes:
    found = _DATE.fullmatch(text)
    return _moved(found[1], found[2], found[3], days) if found else b""


def _shift_datetime(text: bytes, days: int) -> bytes:
    found = _DATETIME.fullmatch(text)
    if found is None or (found[4] and not found[3]):
        return b""
    precision = 8 if found[3] else 6 if found[2] else 4
    moved = _moved(found[1], found[2] or b"01", found[3] or b"01", days)
    return moved and moved[:precision] + (found[4] or b"") + (found[5] or b"")


def cap_age(value: bytes) -> bytes:
    """An age string with more than 89 years as 90 (45 CFR 164.514(b)(2)(i)(C)); "" for what is none."""
    found = _AGE.fullmatch(value.strip(b"\0 "))
    if found is None:
        return b""
    years = int(found[1]) / {b"D": 365.25, b"W": 52.18, b"M": 12, b"Y": 1}[found[2]]
    return b"%03dY" % _HIGHEST_AGE_YEARS if years >= _HIGHEST_AGE_YEARS else found[0]


def is_plausible(tag: int, value: bytes) -> bool:
    """Whether the value is one that the attribute can have, for the few whose every value is known."""
    pattern = _PLAUSIBLE.get(tag)
    return pattern is None or pattern.fullmatch(value if tag == 0x001021C0 else value.strip(b"\0 ")) is not None


def keep_number(value: bytes, representation: str, multiplicity: str) -> bytes:
    """Decimal, integer and binary numbers as they are; "" where the bytes are none, or too many."""
    if representation in ("DS", "IS"):
        pattern = _NUMBER if representation == "DS" else _INTEGER
        stripped = value.strip(b"\0 ")
        parts = stripped.split(b"\\")
        good = all(not part.strip() or (len(part) <= 32 and pattern.fullmatch(part.strip())) for part in parts)
        return value.rstrip(b"\0") if good else b""
    size = NUMBER_BYTES[representation]
    count, rest = divmod(len(value), size)
    if rest or not count:
        return b""
    low, _, high = multiplicity.partition("-")
    most = high or low
    return value if not most.isdigit() or count <= int(most) else b""


def keep_code(value: bytes, names_someone: Callable[[str], bool]) -> bytes:
    """Code strings as they are, those that are none or hold a name dropped."""

    def kept(part: bytes) -> bytes:
        return part if _CODE.fullmatch(part) and not names_someone(part.decode("ascii")) else b""

    return each(value, kept)
