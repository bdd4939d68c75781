"""Coded terms of a reader's answers: (code value, coding scheme, meaning), and the way back from each.

Roles are those of PS3.16 CID 7453, malignant and benign those of CID 6063; the types are the textures of the LIDC
conversion. What no standard has is in the private scheme.
"""

from __future__ import annotations

from typing import get_args

from data_contracts.feedback import ANSWER_REASONS
from data_contracts.guidelines import LungRads
from pipeline.review.dicom.codes import CONCEPTS, PRIVATE_SCHEME, VALUES, Code


def _private(value: str, meaning: str) -> Code:
    return value, PRIVATE_SCHEME, meaning


READING_TITLE = "reading"
MISSED_TITLE = "missed nodule"

ROLES: dict[str, Code] = {
    "reader": ("C28747", "NCIt", "Reader"),
    "adjudicator": ("C96561", "NCIt", "Adjudicator"),
}
ROLE = _private("ROLE", "Role of the reader")
COMMENT: Code = ("121106", "DCM", "Comment")
READER_AS_WRITTEN = _private("READER", "Reader as written")
SEEN_FIRST = _private("SEEN_FIRST", "Model seen before answering")
SECOND_READ = _private("SECOND_READ", "Blind second reading")
YES_NO: dict[bool, Code] = {True: ("373066001", "SCT", "Yes"), False: ("373067005", "SCT", "No")}

ANSWER = _private("ANSWER", "Answer to the finding")
ANSWERS: dict[str, Code] = {
    "accept": _private("ACCEPT", "Accepted"),
    "reject": _private("REJECT", "Rejected"),
    "correct": _private("CORRECT", "Corrected"),
    "missed": _private("MISSED", "Added by the reader"),
}
REASON = _private("REASON", "Reason of the answer")
REASONS: dict[str, Code] = {
    code: _private(f"WHY_{code.upper()}"[:16], meaning)
    for group in ANSWER_REASONS.values()
    for code, meaning in group.items()
}
MALIGNANT = CONCEPTS["malignancy"]
MALIGNANCIES: dict[bool, Code] = {
    True: ("21594007", "SCT", "Malignant"),
    False: ("30807003", "SCT", "Benign"),
}
TYPE = CONCEPTS["texture"]
TYPES: dict[str, Code] = {
    "ground_glass": VALUES["texture"][1],
    "part_solid": VALUES["texture"][3],
    "solid": VALUES["texture"][5],
}
CATEGORY = _private("LUNGRADS", "Lung-RADS v2022 category")
CATEGORIES: dict[str, Code] = {name: _private(f"LR_{name}", f"Lung-RADS {name}") for name in get_args(LungRads)}
