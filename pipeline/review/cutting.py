"""What is cut of the texts of a report: what comes from headers, and never a sentence of the program's own."""

from __future__ import annotations

#: DICOM's longest short text is 64 characters; what is longer is an attack or an accident.
_LONGEST_HEADER_TEXT = 100
#: of a note that may quote a header
_LONGEST_NOTE = 1500
#: no text of a report needs more; this keeps out only what nobody foresaw
_LONGEST_TEXT = 6000
#: signs that are not printed and do no harm; the last is a space that keeps a line together
_SPACES = "\n\t\u00a0"


def short_text(text: str) -> str:
    """Header text as a cell can hold it."""
    return _cut(text, _LONGEST_HEADER_TEXT)


def short_note(text: str) -> str:
    """A note that may quote a header."""
    return _cut(text, _LONGEST_NOTE)


def not_endless(text: str) -> str:
    """A text of a report, which is said to its end."""
    return _cut(text, _LONGEST_TEXT)


def without_hidden_signs(text: str) -> str:
    """Spaces for signs that hide or turn what stands beside them (controls, overrides of the direction)."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in _SPACES else " " for sign in text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + " ..."
