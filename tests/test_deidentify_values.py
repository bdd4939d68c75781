"""Dates keep their distance, dummies are valid, and texts that stay name nobody."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.valuerep import VR, validate_value

from pipeline.deidentify.burned_in import Rectangle, blank, burned_in_action, burned_in_regions
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.text import TextCleaner, decode, encodings_of, identifier_parts, vocabulary
from pipeline.deidentify.values import cap_age, dummy, keep_number, shift_temporal

CT, SC = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
DAYS = st.dates(date(1915, 1, 1), date(2090, 1, 1))
SHIFTS = st.integers(1, 3650)


@given(DAYS, DAYS, SHIFTS)
def test_intervals_between_dates_and_between_date_times_are_exact(one: date, other: date, days: int) -> None:
    def moved(day: date, vr: str, tail: str = "") -> date:
        text = shift_temporal(f"{day:%Y%m%d}{tail}".encode(), vr, days).decode()
        assert text[8:] == tail
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))

    tail = "134501.250000+0100"
    assert moved(other, "DA") - moved(one, "DA") == other - one
    assert moved(other, "DT", tail) - moved(one, "DA") == other - one
    assert moved(one, "DA") == one - timedelta(days=days)


@given(DAYS, SHIFTS)
def test_what_moved_back_can_move_forth_again(day: date, days: int) -> None:
    text = f"{day:%Y%m%d}".encode()
    assert shift_temporal(shift_temporal(text, "DA", days), "DA", -days) == text


def test_the_offset_is_that_of_the_tables_of_a_workspace() -> None:
    one = Pseudonymizer(b"key")
    key = one.patient_key("MR-17")
    assert shift_temporal(b"20190731", "DA", one.shift_days(key)).decode() == one.shift_date(key, "20190731")


@pytest.mark.parametrize(
    ("value", "vr", "expected"),
    [
        (b"20200101\\20200103", "DA", b"20191231\\20200102"),
        (b"2020.01.01", "DA", b"20191231"),
        (b"202001", "DT", b"201912"),
        (b"2020", "DT", b"2019"),
        (b"20200101 ", "DT", b"20191231"),
        (b"101500.123", "TM", b"101500.123"),
        (b"10:15:00", "TM", b"10:15:00"),
        (b"MUELLER", "DA", b""),
        (b"20201350", "DA", b""),
        (b"2020\\MUELLER", "DT", b"2019\\"),
        (b"99MUELLER", "TM", b""),
        (b"00010101", "DA", b""),
    ],
)
def test_what_is_no_date_does_not_pass(value: bytes, vr: str, expected: bytes) -> None:
    assert shift_temporal(value, vr, 1) == expected


@pytest.mark.parametrize("vr", [str(vr) for vr in VR if len(vr) == 2 and vr not in ("SQ", "OB", "OW", "UN")])
def test_a_dummy_is_valid_for_its_representation(vr: str) -> None:
    value = dummy(vr)
    if vr in ("US", "SS", "UL", "SL", "FL", "FD", "SV", "UV", "AT", "OD", "OF", "OL", "OV"):
        assert set(value) == {0}
        assert len(value) % 2 == 0
    else:
        validate_value(vr, value.decode(), validation_mode=2)
        assert DataElement(0x00100010, vr, value.decode()).value is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"057Y", b"057Y"), (b"089Y", b"089Y"), (b"090Y", b"090Y"), (b"104Y", b"090Y"), (b"18M", b"")],
)
def test_ages_above_89_are_given_as_90(value: bytes, expected: bytes) -> None:
    assert cap_age(value) == expected


@pytest.mark.parametrize(
    ("value", "vr", "vm", "kept"),
    [
        (b"1.5\\-2e3", "DS", "1-n", True),
        (b"MUELLER", "DS", "1", False),
        (b"12", "IS", "1", True),
        (b"12.5", "IS", "1", False),
        (b"\1\0", "US", "1", True),
        (b"MUELLER ", "US", "1", False),
        (b"MUELLER ", "US", "1-n", True),
        (b"\1\0\0", "US", "1", False),
    ],
)
def test_numbers_pass_only_as_numbers(value: bytes, vr: str, vm: str, kept: bool) -> None:
    assert bool(keep_number(value, vr, vm)) is kept


def test_a_description_keeps_words_of_ct_and_nothing_else() -> None:
    text = TextCleaner(identifier_parts(["Brain^Anna", "4711"]))
    assert (
        text.vocabulary_only("CT Thorax nativ, Fr. Brain (Anna) 4711, 12.3.2019 Dr. Quacksalber") == "CT Thorax nativ"
    )
    assert text.vocabulary_only("x" * 999) == ""
    assert len(text.vocabulary_only("chest " * 99)) <= 64
    assert not any(any(letter.isdigit() for letter in word) for word in vocabulary())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("LightSpeed Plus", True),
        ("B70f", True),
        ("GE MEDICAL SYSTEMS", True),
        ("CT of Zwetschge", False),
        ("id ACC-4711-X", False),
        ("Quacksalber^Egon", False),
        ("19480229", False),
        ("3.12.1970", False),
        ("a@b.example", False),
    ],
)
def test_a_technical_text_stays_only_where_it_names_nobody(value: str, kept: bool) -> None:
    text = TextCleaner(identifier_parts(["Zwetschge^Ottilie", "ACC-4711-X"]), identifier_parts(["GE Medical Centre"]))
    assert text.keep(value) == (value if kept else "")


@pytest.mark.parametrize("charset", [b"", b"NONSENSE", b"ISO_IR 192\\", b"\xff\xfe", b"ISO 2022 IR 87\\ISO_IR 100"])
def test_no_character_set_stops_the_decoding(charset: bytes) -> None:
    assert isinstance(decode(bytes(range(1, 256)), encodings_of(charset)), str)


def test_pseudonymous_uids_are_valid_stable_and_carry_the_key_of_the_tables() -> None:
    one, other = Pseudonymizer(b"one"), Pseudonymizer(b"other")
    uid = one.pseudonymous_uid("1.2.3")
    validate_value("UI", uid, validation_mode=2)
    assert uid == Pseudonymizer(b"one").pseudonymous_uid("1.2.3\0")
    assert one.key_of_pseudonym(uid) == one.uid_key("1.2.3")
    assert one.uid_of_key(one.uid_key("1.2.3")) == uid
    assert other.pseudonymous_uid("1.2.3") != uid


@pytest.mark.parametrize(
    ("image_type", "sop_class", "says", "policy", "what"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], CT, "", "refuse", "none"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], CT, "NO", "refuse", "none"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], CT, "YES", "refuse", "refuse"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], CT, "YES", "blank", "refuse"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], CT, "YES", "flag", "flag"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], CT, "NO", "refuse", "refuse"),
        (["DERIVED", "SECONDARY"], SC, "", "refuse", "refuse"),
        (["DERIVED", "SECONDARY"], SC, "", "blank", "blank"),
        (["DERIVED", "SECONDARY"], SC, "NO", "refuse", "none"),
    ],
)
def test_text_in_the_pixels_is_met_by_the_policy(
    image_type: list[str], sop_class: str, says: str, policy: str, what: str
) -> None:
    maker = "Philips Medical Systems"
    action = burned_in_action(maker, "iCT", sop_class, image_type, 512, 512, says, policy)  # type: ignore[arg-type]
    assert action.what == what


def test_blanking_touches_its_rectangles_alone() -> None:
    plane = np.ones((4, 6), np.int16)
    blank(plane, [Rectangle(4, 2, 9, 1), Rectangle(-1, -1, 2, 2), Rectangle(99, 99, 5, 5)], -1024)
    assert (plane == -1024).sum() == 3
    assert plane[2, 4] == plane[2, 5] == plane[0, 0] == -1024
    assert burned_in_regions("", "", "", [], 0, 0) == ()
