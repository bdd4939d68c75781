"""Faults as sentences, and sections of an answer that a broken part of the workspace cannot take down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from data_contracts.errors import NoduleflowError

T = TypeVar("T")


@dataclass
class Findings:
    """What is wrong, a sentence each with what to do about it."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, todo: str = "") -> None:
        """One fault; said twice it is kept once."""
        line = f"{what}: {todo}" if todo else what
        if line not in self.lines:
            self.lines.append(line)

    def section(self, name: str, read: Callable[[], T], otherwise: T, todo: str = "") -> T:
        """What `read` gives; where that fails, a fault that names the section, and `otherwise`."""
        try:
            return read()
        except NoduleflowError as error:
            self.add(f"{name}: {error.line()}")
        except Exception as error:  # whatever is broken there, the other sections are still told
            self.add(f"{name} cannot be read ({cause_of(error)})", todo or "`noduleflow doctor` says more")
        return otherwise


def cause_of(error: Exception) -> str:
    """Why, in some words that show no path and no value of a header."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = ("malformed", "not a database", "locked", "no such table", "no such column", "unable to open", "disk I/O")
    text = str(error)
    return next((f"{type(error).__name__}: {words}" for words in known if words in text), type(error).__name__)


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """`3 min ago`, or `in 3 min`, or "at an unknown time"."""
    if when is None:
        return "at an unknown time"
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    return f"{lasting(seconds)} ago" if seconds >= 0 else f"in {lasting(-seconds)}"


def lasting(seconds: float) -> str:
    """A duration in one unit, as people say it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size_text(n_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
