"""Names, numbers and UIDs of patients kept out of every log message, whoever writes it.

What was read in a header is registered and found again word by word; what nobody registered is found by its form:
name carets, UIDs that are not the standard's own, long numbers, dumps of header elements.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any

_ELEMENT = re.compile(r"(\(\s*[0-9A-Fa-f]{4}\s*,\s*[0-9A-Fa-f]{4}\s*\))[^\n]*")
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}(?![\w.]*\d)")
_STANDARD_UID = "1.2.840.10008."
_NUMBER = re.compile(r"(?<![0-9A-Za-z_.-])\d{7,}(?![0-9A-Za-z_-])")
_TOKEN = re.compile(r"[^\s'\"(),;:=\[\]{}<>|/\\]+")
_PART = re.compile(r"[^\W_]+")
_SHORTEST = 3
_MOST_IDENTIFIERS = 500_000
HIDDEN = "[hidden]"

_registered: set[str] = set()
_guard = threading.Lock()
_plain_factory = logging.getLogRecordFactory()


def register_identifiers(texts: Iterable[str]) -> None:
    """Names and numbers of headers, which from now on are hidden whole and in their parts (3 characters or more)."""
    found: set[str] = set()
    for text in texts:
        folded = text.casefold().strip()
        found.update(part for part in (folded, *_PART.findall(folded)) if len(part) >= _SHORTEST)
    with _guard:
        if len(_registered) < _MOST_IDENTIFIERS:
            _registered.update(found)


def scrub(text: str) -> str:
    """The text without what could name a patient."""
    text = _ELEMENT.sub(rf"\1 {HIDDEN}", text)
    text = _UID.sub(lambda found: found[0] if found[0].startswith(_STANDARD_UID) else HIDDEN, text)
    text = _NUMBER.sub(HIDDEN, text)
    text = _TOKEN.sub(lambda found: HIDDEN if "^" in found[0] or found[0].casefold() in _registered else found[0], text)
    if not _registered:
        return text
    return _PART.sub(lambda found: HIDDEN if found[0].casefold() in _registered else found[0], text)


class IdentifierFilter(logging.Filter):
    """Rewrites each record in place: message, arguments, exception and stack; it lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "scrubbed", False):
            return True
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the message
            message = str(record.msg)
        record.msg, record.args, record.scrubbed = scrub(message), (), True
        if record.exc_info:
            kind, error, trace = record.exc_info if isinstance(record.exc_info, tuple) else sys.exc_info()
            record.exc_text = scrubbed_traceback(kind, error, trace)
            record.exc_info = None
        elif record.exc_text:
            record.exc_text = scrub(record.exc_text)
        if record.stack_info:
            record.stack_info = scrub(record.stack_info)
        return True


def scrubbed_traceback(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> str:
    """A traceback as text, without what could name a patient."""
    return scrub("".join(traceback.format_exception(kind, error, trace))).rstrip("\n")


def install() -> None:
    """Scrub the records of every logger from now on, and the warnings; may be called again."""
    if logging.getLogRecordFactory() is not _scrubbing_factory:
        logging.setLogRecordFactory(_scrubbing_factory)
    scrubber = IdentifierFilter()
    for handler in (*logging.getLogger().handlers, *([logging.lastResort] if logging.lastResort else [])):
        if not any(isinstance(known, IdentifierFilter) for known in handler.filters):
            handler.addFilter(scrubber)
    warnings.showwarning = _show_warning
    threading.excepthook = _show_error


def _scrubbing_factory(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = _plain_factory(*arguments, **named)
    IdentifierFilter().filter(record)
    return record


def _show_error(failure: threading.ExceptHookArgs) -> None:
    print(scrubbed_traceback(failure.exc_type, failure.exc_value, failure.exc_traceback), file=sys.stderr)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    text = scrub(warnings.formatwarning(message, category, filename, lineno, ""))
    print(text.rstrip("\n"), file=file or sys.stderr)
