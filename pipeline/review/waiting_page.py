"""The list of studies that wait for a reader, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.review.html import content_policy, plain_environment, read_template
from pipeline.review.wording import NOT_DIAGNOSTIC


@dataclass(frozen=True)
class WaitingStudy:
    """A line of the list. findings: in words, "2 of 5 answered"; address: of its page, relative to the list."""

    study_key: str
    created: str
    version: str
    findings: str
    readers: str
    address: str
    action: str


@dataclass(frozen=True)
class WaitingPart:
    """One kind of work."""

    title: str
    words: str
    rows: tuple[WaitingStudy, ...]


def render_waiting(parts: Sequence[WaitingPart]) -> str:
    """The page as HTML that loads nothing and runs no script; every string is escaped."""
    style = read_template("waiting.css")
    return (
        plain_environment()
        .get_template("waiting.html.j2")
        .render(parts=parts, style=Markup(style), policy=content_policy(style), notice=f"{NOT_DIAGNOSTIC}.")
    )
