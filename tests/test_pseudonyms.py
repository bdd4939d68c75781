"""Keys are stable, keyed and say nothing; what is kept of a header names nobody."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.deidentify.pseudonyms import Pseudonymizer, clean_age_years, clean_label

ONE, OTHER = Pseudonymizer(b"one"), Pseudonymizer(b"other")


def test_keys_are_sixteen_hex_digits_that_depend_on_the_secret_and_on_the_kind() -> None:
    key = ONE.uid_key("1.2.3")
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert key == Pseudonymizer(b"one", keep_identity=True).uid_key("1.2.3 ")
    assert len({key, OTHER.uid_key("1.2.3"), ONE.patient_key("1.2.3"), ONE.patient_key("1.2.3", "clinic")}) == 4


def test_the_secret_is_not_shown() -> None:
    assert "one" not in repr(ONE)


@given(first=st.dates(date(1950, 1, 1)), second=st.dates(date(1950, 1, 1)))
def test_dates_of_a_patient_keep_their_distance_and_never_stay(first: date, second: date) -> None:
    def shifted(day: date) -> date:
        text = ONE.shift_date("patient", day.strftime("%Y%m%d"))
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))

    assert shifted(second) - shifted(first) == second - first
    assert shifted(first) < first


def test_two_patients_shift_by_different_days() -> None:
    assert len({ONE.shift_date(f"patient {n}", "20200101") for n in range(20)}) > 15


@pytest.mark.parametrize("text", ["", "2020", "20201399", "hello", "00010101"])
def test_what_is_no_date_becomes_nothing(text: str) -> None:
    assert ONE.shift_date("patient", text) == ""


def test_paths_are_replaced_folder_by_folder() -> None:
    one, two = ONE.path("MUELLER/CT 1/a.dcm"), ONE.path("MUELLER/CT 2/a.dcm")
    assert one.split("/")[0] == two.split("/")[0]
    assert one.split("/")[1] != two.split("/")[1]
    assert "MUELLER" not in one
    assert Pseudonymizer(b"one", keep_identity=True).path("MUELLER/a") == "MUELLER/a"


def test_a_path_that_is_not_utf8_can_still_be_written_to_a_table() -> None:
    name = b"M\xfcller.dcm".decode("utf-8", "surrogateescape")
    assert ONE.path(name).encode()
    assert Pseudonymizer(b"one", keep_identity=True).path(name).encode()


def test_a_technical_label_is_kept_short_and_printable() -> None:
    assert clean_label("B70f", ["Mueller^Hans"]) == "B70f"
    assert clean_label("GE MEDICAL SYSTEMS", ["MR-17"]) == "GE MEDICAL SYSTEMS"
    assert clean_label("<script>\x1b[31m\n", []) == "script 31m"
    assert len(clean_label("x" * 500, [])) == 32


@pytest.mark.parametrize("text", ["Scanner Mueller", "mueller", "room 19480229", "1.2.840.1", "ID 1234567", "3/4/1970"])
def test_a_label_that_could_name_someone_is_dropped(text: str) -> None:
    assert clean_label(text, ["Mueller^Hans", "1234567"]) == ""


@pytest.mark.parametrize(
    ("text", "years"), [("057Y", 57), ("101Y", 90), ("018M", 1), ("003D", 0), ("", None), ("old", None)]
)
def test_ages_are_whole_years_up_to_ninety(text: str, years: int | None) -> None:
    assert clean_age_years(text) == years
