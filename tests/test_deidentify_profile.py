"""The table of the profile agrees with both of its sources, with pydicom's dictionary, and reaches the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from derive_profile import annex_e, derive, newer_actions
from pydicom.datadict import dictionary_has_tag, dictionary_keyword

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.burned_in import burned_in_regions
from pipeline.deidentify.profile import Action, edition, kind_of_object, plan, profile_rows, safe_private

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def source(shared_data: Path) -> Path:
    return shared_data / "dicom" / "ps3.15-annex-e.json"


def test_every_row_and_option_of_the_standard_is_in_the_table(source: Path) -> None:
    ours = {row.tag: row for row in profile_rows()}
    theirs = annex_e(source)
    assert len(theirs) == 621
    differing = []
    for tag, row in theirs.items():
        mine = ours.get(tag)
        names = ("profile", "device", "patient", "modified_dates", "descriptors")
        if mine is None or any(getattr(mine, name) != row[name] for name in names):
            differing.append(tag)
    assert differing == []


def test_every_tag_of_the_newer_table_is_in_ours_with_its_action() -> None:
    pytest.importorskip("dicomanonymizer")
    ours = {row.tag: row.profile for row in profile_rows()}
    theirs = newer_actions()
    assert len(theirs) == 655
    assert {tag: action for tag, action in theirs.items() if ours.get(tag) != action} == {}
    assert set(ours) - set(theirs) == {"odd"}, "private attributes are a rule there, not a tag"


def test_the_table_is_what_the_script_derives(source: Path, repository: Path) -> None:
    pytest.importorskip("dicomanonymizer")
    assert derive(source) == (repository / "pipeline" / "deidentify" / "profile.csv").read_text()


def test_keywords_are_those_of_the_dictionary_and_the_edition_is_stated() -> None:
    assert edition() == "2026c"
    wrong = []
    for row in profile_rows():
        if "x" in row.tag or row.tag == "odd":
            continue
        tag = int(row.tag, 16)
        keyword = dictionary_keyword(tag) if dictionary_has_tag(tag) else ""
        wrong += [row] if row.keyword != keyword else []
    assert wrong == []


@pytest.mark.parametrize(
    ("tag", "kind", "action"),
    [
        (0x0008002A, "ct", Action.REMOVE),  # X/Z/D, type 3
        (0x0008002A, "enhanced_ct", Action.DUMMY),  # type 1C
        (0x00400555, "ct", Action.REMOVE),  # X/Z
        (0x00400555, "enhanced_ct", Action.EMPTY),  # type 2
        (0x00181000, "enhanced_ct", Action.DUMMY),  # type 1
        (0x00180010, "ct", Action.EMPTY),  # Z/D, type 2
        (0x00080021, "", Action.DUMMY),  # X/D of an unknown object
        (0x00082112, "ct", Action.RECURSE),  # X/Z/U*
        (0x00080018, "ct", Action.UID),
        (0x00100010, "ct", Action.PATIENT_KEY),
    ],
)
def test_a_choice_of_the_profile_is_made_by_the_type_of_the_attribute(tag: int, kind: str, action: Action) -> None:
    params = DeidentifyParams(retain_dates=False, clean_descriptors=False)
    assert plan(params, kind)[tag].action is action


def test_options_change_the_action_of_their_attributes_and_of_no_other() -> None:
    bare = DeidentifyParams(retain_dates=False, clean_descriptors=False)
    basic = plan(bare, kind_of_object(CT))
    rows = {int(row.tag, 16): row for row in profile_rows() if "x" not in row.tag and row.tag != "odd"}
    for option, column in (
        ("retain_dates", "modified_dates"),
        ("retain_device", "device"),
        ("retain_patient", "patient"),
        ("clean_descriptors", "descriptors"),
    ):
        chosen = plan(bare.model_copy(update={option: True}), kind_of_object(CT))
        changed = {tag for tag in basic if basic[tag] != chosen[tag]}
        assert changed
        assert all(getattr(rows[tag], column) for tag in changed), option


def test_the_safe_private_list_holds_numbers_alone() -> None:
    assert {vr for vr, _ in safe_private().values()} <= {"DS", "IS", "FL", "FD", "SS", "US", "SL", "UL"}


def test_the_tables_are_packed_into_the_wheel(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tables = {"profile.csv", "attribute_types.csv", "safe_private.csv", "burned_in.csv", "vocabulary.txt"}
    assert {f"pipeline/deidentify/{name}" for name in tables} <= set(names)


def test_screens_of_scanners_are_known_by_their_image_type() -> None:
    assert burned_in_regions("GE", "", CT, ["DERIVED", "SECONDARY", "SCREEN SAVE"], 512, 512, "NO") == (
        (0, 0, 512, 512),
    )
    assert burned_in_regions("GE", "", CT, ["ORIGINAL", "PRIMARY", "AXIAL"], 512, 512, "") == ()
