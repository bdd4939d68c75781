"""Coded terms of nodule evaluations as data: which rating a concept is, which value a code.

The codes of the LIDC evaluations in DICOM (Fedorov 2020, Med Phys 47:5953, dataset doi 10.7937/tcia.2018.h7umfurq),
in its final and its first edition; measurements with their SNOMED CT and their older SRT codes.
"""

from __future__ import annotations

import re

from data_contracts.nodules import RATINGS

#: (code value, coding scheme in capitals) of a concept -> rating
CONCEPTS: dict[tuple[str, str], str] = {
    ("C45992", "NCIT"): "subtlety",
    ("200", "99LIDCQIICR"): "internal_structure",
    ("C3672", "NCIT"): "calcification",
    ("400", "99LIDCQIICR"): "sphericity",
    ("C25563", "NCIT"): "margin",
    ("C62175", "NCIT"): "lobulation",
    ("600", "99LIDCQIICR"): "lobulation",
    ("C28749", "NCIT"): "spiculation",
    ("700", "99LIDCQIICR"): "spiculation",
    ("C41144", "NCIT"): "texture",
    ("RID36042", "RADLEX"): "malignancy",
    ("900", "99LIDCQIICR"): "malignancy",
}

#: values that do not begin with their numeral: rating -> code value -> value
_VALUES: dict[str, dict[str, int]] = {
    "internal_structure": {"C12471": 1, "C25278": 2, "C12472": 3, "C73434": 4},
    "calcification": {
        "RID35453": 1,
        "302": 2,
        "RID5741": 3,
        "303": 3,
        "304": 4,
        "RID5827": 5,
        "305": 5,
        "RID28473": 6,
    },
    "sphericity": {"RID5811": 1, "RID5800": 3, "RID5799": 5},
    "margin": {"RID5709": 1, "RID5707": 5},
    "texture": {"RID50153": 1, "RID50152": 3, "RID50151": 5},
}
#: of the private scheme: 901 is 1 of malignancy, 003 is 3 of any
_HUNDREDS = {
    "subtlety": "1",
    "internal_structure": "2",
    "calcification": "3",
    "sphericity": "4",
    "margin": "5",
    "lobulation": "6",
    "spiculation": "7",
    "texture": "8",
    "malignancy": "9",
}
_SCHEMES = ("NCIT", "RADLEX", "99LIDCQIICR")
_OUT_OF = re.compile(r"\s*([1-6])\s*(?:out of|of|/)\s*([1-6])\b")
_PLAIN = re.compile(r"\s*([1-6])\s*(?:[-:(].*)?")

#: measurements: (code value, scheme in capitals) -> what is measured; of several diameters the first in this order
DIAMETERS: tuple[tuple[str, str], ...] = (
    ("81827009", "SCT"),
    ("M-02550", "SRT"),
    ("103339001", "SCT"),
    ("G-A185", "SRT"),
    ("131187009", "SCT"),
    ("G-A193", "SRT"),
    ("410668003", "SCT"),
    ("G-D7FE", "SRT"),
)
VOLUMES: tuple[tuple[str, str], ...] = (("118565006", "SCT"), ("G-D705", "SRT"))
#: UCUM units to mm and mm3
LENGTH_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
VOLUME_MM3 = {"mm3": 1.0, "cm3": 1000.0, "ml": 1000.0, "mL": 1000.0, "mm^3": 1.0}


def rating_of(code: tuple[str, str], meaning: str) -> str | None:
    """The rating that a concept names by its code, or where the scheme is another, by its plain name; else None.

    code: (code value, coding scheme designator).
    """
    known = CONCEPTS.get((code[0], code[1].upper()))
    if known is not None:
        return known
    word = re.sub(r"_(score|rating|assessment)$", "", "_".join(meaning.lower().split()))
    word = "lobulation" if word == "lobular_pattern" else word
    return word if word in RATINGS else None


def rating_value(rating: str, code: tuple[str, str], meaning: str) -> int | None:
    """The value of a rating that a coded value means; None where neither code nor meaning say it, never a guess.

    "4 out of 5 (...)" is 4 only where the scale ends at 5.
    """
    value, scheme = code[0], code[1].upper()
    top = RATINGS[rating]
    listed = _VALUES.get(rating, {}).get(value) if scheme in _SCHEMES else None
    if listed is not None:
        return listed
    if scheme == "99LIDCQIICR" and re.fullmatch(rf"[0{_HUNDREDS[rating]}]0[1-6]", value):
        number = int(value[2])
        return number if number <= top else None
    said = _OUT_OF.match(meaning)
    if said is not None:
        return int(said[1]) if int(said[2]) == top and int(said[1]) <= top else None
    plain = _PLAIN.fullmatch(meaning)
    return int(plain[1]) if plain is not None and int(plain[1]) <= top else None
