"""The confidentiality profile as a plan: what is done with each tag, under the options and for the kind of object."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.values import DATE_VRS, TEXT_VRS, dictionary_entry


class Action(Enum):
    """What is done with an element."""

    REMOVE = "removed"
    EMPTY = "emptied"
    DUMMY = "replaced"
    UID = "uid"
    SHIFT = "shifted"
    CLEAN = "cleaned"
    KEEP = "kept"
    AGE = "age"
    RECURSE = "recursed"
    PATIENT_KEY = "patient_key"


class Rule(NamedTuple):
    """What is done with an element, and what with a value of which nothing is left."""

    action: Action
    otherwise: Action


@dataclass(frozen=True)
class ProfileRow:
    """A row of the table; options are "K" (kept), "C" (cleaned) or ""."""

    tag: str
    keyword: str
    profile: str
    device: str
    patient: str
    modified_dates: str
    descriptors: str
    source: str


#: kinds of objects by SOP class; any other is treated so that every object stays valid
_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.2": "ct",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced_ct",
    "1.2.840.10008.5.1.4.1.1.2.2": "enhanced_ct",
    "1.2.840.10008.5.1.4.1.1.7": "secondary_capture",
    "1.2.840.10008.5.1.4.1.1.7.1": "secondary_capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "secondary_capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "secondary_capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "secondary_capture",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
}
#: a tag by which the profile says "patient": its value becomes the patient's key
_PATIENT_TAGS = (0x00100010, 0x00100020)
_TIMEZONE = 0x00080201
_PLAIN = {"X": Action.REMOVE, "Z": Action.EMPTY, "D": Action.DUMMY, "U": Action.UID}
#: CID 7050 De-identification Method (DICOM PS3.16)
METHODS = {
    "profile": ("113100", "Basic Application Confidentiality Profile"),
    "clean_pixels": ("113101", "Clean Pixel Data Option"),
    "clean_descriptors": ("113105", "Clean Descriptors Option"),
    "retain_dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain_patient": ("113108", "Retain Patient Characteristics Option"),
    "retain_device": ("113109", "Retain Device Identity Option"),
    "retain_safe_private": ("113111", "Retain Safe Private Option"),
}


def _table(name: str) -> list[dict[str, str]]:
    text = (files("pipeline.deidentify") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def profile_rows() -> tuple[ProfileRow, ...]:
    """Every row of the profile, in the order of tags; patterns (50xxxxxx, 60xx3000, 60xx4000, odd) among them."""
    fields = ProfileRow.__dataclass_fields__
    return tuple(ProfileRow(**{name: row[name] for name in fields}) for row in _table("profile.csv"))


@cache
def edition() -> str:
    """Edition of the profile, as the table states it."""
    text = (files("pipeline.deidentify") / "profile.csv").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if line.startswith("# edition:")).split()[2]


@cache
def safe_private() -> dict[tuple[str, int, int], tuple[str, str]]:
    """(representation, multiplicity) of known private elements by creator, group and last two digits."""
    return {
        (row["creator"], int(row["group"], 16), int(row["element"], 16)): (row["vr"], row["vm"])
        for row in _table("safe_private.csv")
    }


@cache
def _types() -> dict[tuple[str, int], str]:
    return {(row["object"], int(row["tag"], 16)): row["type"] for row in _table("attribute_types.csv")}


def kind_of_object(sop_class_uid: str) -> str:
    """Kind of object whose attribute types are known; "" for any other."""
    return _OBJECTS.get(sop_class_uid, "")


def is_required(kind: str, tag: int) -> bool:
    """Whether the object must hold a value of this attribute (type 1)."""
    return _types().get((kind, tag)) == "1"


def _basic(profile: str, kind: str, tag: int) -> Action:
    """The action of the profile, a choice decided by the attribute's type (PS3.15 E.1.1, codes X/Z, X/D, ...)."""
    if profile in _PLAIN:
        return _PLAIN[profile]
    if profile.endswith("U*"):
        return Action.RECURSE
    if not kind:  # of an unknown object, and inside of sequences, what is valid for any type
        return Action.DUMMY if profile.endswith("D") else Action.EMPTY
    required = _types().get((kind, tag), "3")
    if required == "1" and "D" in profile:
        return Action.DUMMY
    if required == "3" and "X" in profile:
        return Action.REMOVE
    return Action.EMPTY


def _rule(row: ProfileRow, tag: int, params: DeidentifyParams, kind: str) -> Rule:
    basic = _basic(row.profile, kind, tag)
    entry = dictionary_entry(tag)
    representation = entry[0] if entry else "UN"
    if tag in _PATIENT_TAGS:
        return Rule(Action.PATIENT_KEY, basic)
    if params.retain_dates and row.modified_dates and representation in DATE_VRS:
        return Rule(Action.SHIFT, basic)
    if params.retain_dates and tag == _TIMEZONE:
        return Rule(Action.KEEP, basic)
    if params.retain_device and row.device == "K" and representation not in DATE_VRS:
        return Rule(Action.RECURSE if representation == "SQ" else Action.KEEP, basic)
    if params.retain_patient and row.patient == "K":
        return Rule(Action.AGE if representation == "AS" else Action.KEEP, basic)
    to_clean = (params.retain_patient and row.patient == "C") or (params.clean_descriptors and row.descriptors)
    if to_clean and representation in TEXT_VRS:
        return Rule(Action.CLEAN, basic)
    return Rule(basic, basic)


@cache
def plan(params: DeidentifyParams, kind: str) -> dict[int, Rule]:
    """What is done with each listed tag; overlays, curves and private elements are not in it: their groups go whole.

    kind: as `kind_of_object` says; "" inside of sequences.
    """
    rules = {}
    for row in profile_rows():
        if "x" not in row.tag and row.tag != "odd":
            tag = int(row.tag, 16)
            rules[tag] = _rule(row, tag, params, kind)
    return rules
