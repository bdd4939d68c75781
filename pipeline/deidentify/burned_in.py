"""Text in the pixels: where it stands, and what the policy makes of it.

The places are a table (burned_in.csv); a header that says YES without a place known cannot be blanked.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

Policy = Literal["refuse", "blank", "flag"]

_CLASSES = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2",),
    "SC": ("1.2.840.10008.5.1.4.1.1.7",),
    "US": ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.4.1.1.3.1"),
}
#: classes whose pixels hold text more often than not: a header that is silent is taken for a YES
_SUSPECT = (*_CLASSES["SC"], *_CLASSES["US"])


class Rectangle(NamedTuple):
    """Pixels of a plane: left column, upper row, width and height, all in pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class _Rule:
    """A row of the table; an empty field matches anything."""

    manufacturer: str
    model: str
    sop_class: str
    image_type: str
    rows: int | None
    columns: int | None
    regions: tuple[Rectangle, ...] | None


@dataclass(frozen=True)
class BurnedInAction:
    """What is to be done with one object. what: `none`, `flag`, `refuse` or `blank` (then `regions` says where)."""

    what: Literal["none", "flag", "refuse", "blank"]
    regions: tuple[Rectangle, ...] = ()
    why: str = ""


@cache
def _rules() -> tuple[_Rule, ...]:
    text = (files("pipeline.deidentify") / "burned_in.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        _Rule(
            row["manufacturer"],
            row["model"],
            row["sop_class"],
            row["image_type"],
            int(row["rows"]) if row["rows"] else None,
            int(row["columns"]) if row["columns"] else None,
            None if row["regions"] == "all" else tuple(_rectangle(part) for part in row["regions"].split()),
        )
        for row in csv.DictReader(lines)
    )


def _rectangle(text: str) -> Rectangle:
    x, y, width, height = (int(part) for part in text.split(":"))
    return Rectangle(x, y, width, height)


def _words_match(pattern: str, words: Iterable[str]) -> bool:
    if not pattern:
        return True
    if pattern.endswith("*"):
        return any(word.startswith(pattern[:-1]) for word in words)
    return pattern in words


def _is_of_class(uid: str, classes: Sequence[str]) -> bool:
    return any(uid == known or uid.startswith(known + ".") for known in classes)


def _matching(
    manufacturer: str, model: str, sop_class_uid: str, image_type: Sequence[str], rows: int, columns: int
) -> list[_Rule]:
    maker, name = manufacturer.strip().upper(), model.strip().upper()
    words = [word.strip().upper() for word in image_type]
    return [
        rule
        for rule in _rules()
        if _words_match(rule.manufacturer, [maker])
        and _words_match(rule.model, [name])
        and (not rule.sop_class or _is_of_class(sop_class_uid, _CLASSES[rule.sop_class]))
        and _words_match(rule.image_type, words)
        and rule.rows in (None, rows)
        and rule.columns in (None, columns)
    ]


def burned_in_regions(
    manufacturer: str,
    model: str,
    sop_class_uid: str,
    image_type: Sequence[str],
    rows: int,
    columns: int,
    burned_in_annotation: str = "",
) -> tuple[Rectangle, ...]:
    """Where the pixels of such an object hold text; the whole plane where nobody knows the places.

    burned_in_annotation: the value of BurnedInAnnotation (0028,0301); NO is believed unless a rule of the table names
    the screen, as screens of the table are known to carry text. () means that no text is expected.
    """
    whole = (Rectangle(0, 0, columns, rows),)
    says = burned_in_annotation.strip().upper()
    rules = _matching(manufacturer, model, sop_class_uid, image_type, rows, columns)
    if any(rule.regions is None for rule in rules):
        return whole
    found = tuple(dict.fromkeys(region for rule in rules for region in rule.regions or ()))
    if says == "NO":
        return ()
    if found:
        return found
    return whole if says == "YES" or (not says and _is_of_class(sop_class_uid, _SUSPECT)) else ()


def burned_in_action(
    manufacturer: str,
    model: str,
    sop_class_uid: str,
    image_type: Sequence[str],
    rows: int,
    columns: int,
    burned_in_annotation: str,
    policy: Policy,
) -> BurnedInAction:
    """What the policy makes of an object: blanking needs places smaller than the plane, or the object is refused."""
    regions = burned_in_regions(manufacturer, model, sop_class_uid, image_type, rows, columns, burned_in_annotation)
    if not regions:
        return BurnedInAction("none")
    if policy == "flag":
        return BurnedInAction("flag", regions, "text may be burned into the pixels")
    if policy == "refuse":
        return BurnedInAction("refuse", regions, "text is burned into the pixels")
    if any(region.width_px >= columns and region.height_px >= rows for region in regions):
        return BurnedInAction("refuse", regions, "text is burned into the pixels, nobody knows where")
    return BurnedInAction("blank", regions, f"{len(regions)} region(s) blanked")


def blank(plane: NDArray[Any], regions: Iterable[Rectangle], value: float) -> None:
    """Set the rectangles of a plane (..., rows, columns) to `value`, in place; what lies outside it is passed over.

    For planes with the samples of a colour last, hand in a view with the samples moved to the front.
    """
    for region in regions:
        y, x = max(region.y_px, 0), max(region.x_px, 0)
        plane[..., y : region.y_px + region.height_px, x : region.x_px + region.width_px] = value
