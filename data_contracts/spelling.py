"""Names of people as they are compared, and text of others as a listing may show it."""

from __future__ import annotations

import unicodedata

#: Cc: control; Cf: invisible, or turns the direction of reading; Cs, Co, Cn: shown as anything; Zl, Zp: end a line
_NOT_SHOWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_plain(text: str) -> bool:
    """Whether every character is seen as what it is."""
    return not any(unicodedata.category(letter) in _NOT_SHOWN for letter in text)


def shown(text: str) -> str:
    """The text with a replacement character for whatever could forge a line of a listing."""
    return "".join("\N{REPLACEMENT CHARACTER}" if not is_plain(letter) else letter for letter in text)


def one_spacing(text: str) -> str:
    """The text without spaces at its ends, and with one between two words."""
    return " ".join(text.split())


def same_name(name: str) -> str:
    """The same for every way to write one name: composed or not, wide, in capitals, spaced, with what is not seen."""
    # Twice: folding may leave letters apart that compose.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    # Spaces that are controls part words; the others are nothing.
    seen = (" " if letter.isspace() else letter for letter in folded)
    return one_spacing("".join(letter for letter in seen if unicodedata.category(letter) not in ("Cc", "Cf")))
