"""Derive pipeline/deidentify/profile.csv from its two sources, or check it against them.

usage: python tests/derive_profile.py ANNEX_E.json        prints the table

The first source is the profile of PS3.15 Annex E as extracted by innolitics/dicom-standard (MIT): the actions of the
profile and of every option. The second, dicom-anonymizer (BSD-3-Clause), knows newer tags and the action of the
profile alone; an attribute that only it knows has no option, so nothing of it is ever retained. Facts are taken from
both, text from neither.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_keyword

#: column of our table -> field of the first source
OPTIONS = {
    "safe_private": "rtnSafePrivOpt",
    "uids": "rtnUIDsOpt",
    "device": "rtnDevIdOpt",
    "institution": "rtnInstIdOpt",
    "patient": "rtnPatCharsOpt",
    "full_dates": "rtnLongFullDatesOpt",
    "modified_dates": "rtnLongModifDatesOpt",
    "descriptors": "cleanDescOpt",
    "structured": "cleanStructContOpt",
    "graphics": "cleanGraphOpt",
}
_PATTERNS = {
    "50xxxxxx": ("50xxxxxx", "CurveData"),
    "60xx4000": ("60xx4000", "OverlayComments"),
    "60xx3000": ("60xx3000", "OverlayData"),
    "ggggeeee-where-gggg-is-odd": ("odd", "PrivateAttributes"),
}
_ACTIONS = ("D", "Z", "X", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*")
_HEADER = """\
# Basic Application Level Confidentiality Profile and its options, DICOM PS3.15 Annex E, Table E.1-1
# edition: 2026c (actions of the profile); the options are those of the edition before it
# sources: annex-e = innolitics/dicom-standard 7f4749d (MIT), 621 rows;
#          2026c = dicom-anonymizer 2.1.0 dicomfields_2026c (BSD-3-Clause), tags that the former lacks
# made by: tests/derive_profile.py
"""


def annex_e(path: Path) -> dict[str, dict[str, str]]:
    """Rows of the first source by tag or tag pattern."""
    rows = {}
    for entry in json.loads(path.read_text()):
        tag, keyword = _PATTERNS.get(entry["id"], (entry["id"], ""))
        options = {column: entry.get(field, "") for column, field in OPTIONS.items()}
        rows[tag] = {"tag": tag, "keyword": keyword or keyword_of(tag), "profile": entry["basicProfile"], **options}
    return rows


def newer_actions() -> dict[str, str]:
    """Action of the profile by tag or tag pattern in the second source."""
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as newer

    actions = {}
    for action in _ACTIONS:
        name = action.replace("/", "_").replace("*", "_STAR") + "_TAGS"
        for tag in getattr(newer, name):
            # a tag of four numbers is a repeating group: 50xx, or an element of 60xx
            repeating = "50xxxxxx" if tag[0] == 0x5000 else f"60xx{tag[1]:04x}"
            key = repeating if len(tag) == 4 else f"{tag[0]:04x}{tag[1]:04x}"
            actions[key] = action
    return actions


def keyword_of(tag: str) -> str:
    """Keyword in pydicom's dictionary; "" for a tag that it does not have."""
    number = int(tag, 16)
    return dictionary_keyword(number) if dictionary_has_tag(number) else ""


def derive(path: Path) -> str:
    """Our table as text."""
    rows = {tag: {**row, "source": "annex-e"} for tag, row in annex_e(path).items()}
    for tag, action in newer_actions().items():
        if tag in rows:
            rows[tag]["profile"] = action
        else:
            rows[tag] = {"tag": tag, "keyword": keyword_of(tag), "profile": action, "source": "2026c"}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["tag", "keyword", "profile", *OPTIONS, "source"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[tag] for tag in sorted(rows))
    return _HEADER + text.getvalue()


if __name__ == "__main__":
    sys.stdout.write(derive(Path(sys.argv[1])))
