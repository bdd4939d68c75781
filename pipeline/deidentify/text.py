"""Free text: decoded as its header says, then kept, reduced to words that name nobody, or dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files

from pydicom import charset

_NON_ASCII = re.compile(rb"[\x1b\x80-\xff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_WORDS = re.compile(r"[^\W\d_]+")
_PARTS = re.compile(r"[\W_]+")
#: what a technical label does not hold: long numbers, dates, UIDs, name carets, addresses
_SUSPECT = re.compile(
    r"\d{6,}|\d+\.\d+\.\d+\.\d+|\b\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b|\^|@|://|\b(?:dr|prof|mrs?|herr|frau)\b\.?\s",
    re.IGNORECASE,
)
_LONGEST_TEXT = 1024


@cache
def vocabulary() -> frozenset[str]:
    """Words that may pass in a description, lower case."""
    text = (files("pipeline.deidentify") / "vocabulary.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


@lru_cache(maxsize=64)
def encodings_of(specific_character_set: bytes) -> tuple[str, ...]:
    """Python's encodings for a raw SpecificCharacterSet; Latin-1 where it names none that exists."""
    cleaned = [name.strip("\0 ") for name in specific_character_set.decode("ascii", "replace").split("\\")]
    try:
        return tuple(charset.convert_encodings(cleaned)) if any(cleaned) else ("iso8859",)
    except Exception:  # a hostile name breaks the look-up in several ways
        return ("iso8859",)


def decode(value: bytes, encodings: tuple[str, ...]) -> str:
    """The text of a value, without padding; nothing in it stops the decoding."""
    if not _NON_ASCII.search(value):
        return value.decode("ascii").rstrip("\0 ")
    try:
        text = charset.decode_bytes(value, list(encodings), set())
    except Exception:  # as above; a wrong letter is better than a text that is not looked at
        text = value.decode("latin-1")
    return text.rstrip("\0 ")


def identifier_parts(texts: Iterable[str]) -> frozenset[str]:
    """Pieces of names and numbers, three characters or more, case folded, by which a text is recognised."""
    return frozenset(part for text in texts for part in _PARTS.split(text.casefold()) if len(part) >= 3)


class TextCleaner:
    """Judges texts of one patient's headers.

    names: parts of the patient's own names and numbers. others: parts of all other names in the header; those that
    are words of the vocabulary do not count, for institutions are called Chest Hospital.
    """

    def __init__(self, names: frozenset[str], others: frozenset[str] = frozenset()) -> None:
        self.names = names
        self.parts = names | (others - vocabulary())

    def names_someone(self, text: str) -> bool:
        """Whether the text holds a part of a known name or number."""
        folded = text.casefold()
        return any(part in folded for part in self.parts)

    def code_names_someone(self, text: str) -> bool:
        """The same of a code string, word by word: ORIGINAL does not hold a patient called Ori."""
        return any(part in self.parts for part in _PARTS.split(text.casefold()) if part not in vocabulary())

    def keep(self, text: str) -> str:
        """A technical text as it is, or "" where it could name someone."""
        text = _CONTROL.sub(" ", text).strip()[:_LONGEST_TEXT]
        return "" if _SUSPECT.search(text) or self.names_someone(text) else text

    def keep_version(self, text: str) -> str:
        """A version of a program, which may look like a number of someone: `VB42B 1.2.840.1`."""
        text = _CONTROL.sub(" ", text).strip()[:64]
        return "" if re.search(r"\d{8,}|[\^@]", text) or self.names_someone(text) else text

    def vocabulary_only(self, text: str, limit: int = 64) -> str:
        """The words of a description that are words of CT and not parts of the patient's name; no number passes."""
        known = vocabulary()
        words = [word for word in _WORDS.findall(text) if word.casefold() in known]
        kept = [word for word in words if word.casefold() not in self.names and word.isascii()]
        line = " ".join(kept)
        return line if len(line) <= limit else line[:limit].rsplit(" ", 1)[0]
