"""Strings of anyone's making as values that DICOM allows: PS3.5 table 6.2-1 and section 6.2.1 for names."""

from __future__ import annotations

import unicodedata

#: characters that a value of each representation may have
_LENGTHS = {"LO": 64, "SH": 16}


def valid_text(text: str, representation: str = "LO") -> str:
    """`text` as one value of LO or SH: no control or format characters, no backslash, cut to its length.

    The length counts bytes of UTF-8, not characters as the standard does: some receivers, and dciodvfy, count so.
    Line ends become spaces; what gives a text its direction (RLO and the like) goes, letters of every script stay.
    """
    kept = "".join(_kept(character) for character in text[: 8 * _LENGTHS[representation]])
    line = " ".join(kept.split())
    return _cut(line, _LENGTHS[representation]).strip()


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")


def valid_name(text: str) -> str:
    """`text` as a person's name: at most 3 groups of 64 characters with 5 components each."""
    groups = [
        _cut("^".join(valid_text(part) for part in group.split("^")[:5]), _LENGTHS["LO"]).rstrip("^ ")
        for group in text[:4096].split("=")[:3]
    ]
    return "=".join(groups).rstrip("=")


def _kept(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "" if kind in ("Cf", "Cs", "Co", "Cn") else character.replace("\\", "/")
