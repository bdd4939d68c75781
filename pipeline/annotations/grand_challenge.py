"""Marks out of the annotation JSON of Grand-Challenge: points, lines, ellipses, polygons and boxes.

The files have `type` ("Multiple points", "Point", "Multiple 2D bounding boxes", ...) and `version` {"major": 1}, and
give positions as [x, y, z] in mm of the image's world, which for an image that ITK reads is DICOM's LPS. They name no
series. It is taken from, in this order: the option `series`; a field of the item or of the file
(`series_instance_uid`, `SeriesInstanceUID`, `seriesuid`, `series_key`, `image`); the name of the file; the name of its
folder, where one of them holds a UID or a series key.

A point has no diameter: it is unknown, unless the item has `diameter_mm`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.errors import AnnotationError
from data_contracts.nodules import NoduleAnnotation
from pipeline.annotations.tables import to_lps

_MAX_BYTES = 64 * 2**20
_MAX_POINTS = 2000
#: what an item of each type holds its points in; a type is written with or without "Multiple"
_SHAPES = {
    "point": ("point",),
    "line": ("start", "end"),
    "distance measurement": ("start", "end"),
    "2d bounding box": ("corners",),
    "3d bounding box": ("corners",),
    "ellipse": ("major_axis",),
    "polygon": ("path_points",),
}
_LISTS = ("points", "lines", "boxes", "ellipses", "polygons")
_SERIES_FIELDS = ("series_instance_uid", "SeriesInstanceUID", "seriesuid", "series_key", "image")
_SERIES_NAME = re.compile(r"(?<![\d.])\d+(?:\.\d+){3,}(?![\d])|(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")


def read_grand_challenge(path: Path, *, coordinates: str = "", series: str = "") -> list[NoduleAnnotation]:
    """Marks of one file, each with the number of its item.

    coordinates: "lps" (the default) or "ras". series: UID or key of the series, where the file does not name it.

    Raises
    ------
    AnnotationError: not JSON, too large, of a type without nodules, or of another major version.
    """
    content = _content(path)
    kind = str(content.get("type", "")).strip().lower()
    fields = _SHAPES.get(_singular(kind))
    if fields is None:
        raise AnnotationError(f"type {kind[:40]!r} is none that marks nodules", todo=f"Known: {', '.join(_SHAPES)}.")
    version = content.get("version", {})
    if not isinstance(version, dict) or version.get("major", 1) != 1:
        raise AnnotationError("the version is not 1", todo="Only version {'major': 1} is known.")
    items = next((content[name] for name in _LISTS if isinstance(content.get(name), list)), None)
    if items is None and kind.startswith("multiple"):
        raise AnnotationError(f"there is no list of {', '.join(_LISTS)}")
    entries = [item if isinstance(item, dict) else {} for item in items] if items is not None else [content]
    names = Counter(str(item.get("name") or "") for item in entries)
    marks = []
    for number, item in enumerate(entries, start=1):
        named = [series] if series else [*_named(item), *_named(content), path.stem, path.parent.name]
        name = str(item.get("name") or "")
        marks.append(
            NoduleAnnotation(
                **_series(named),
                # one word for all, like "nodule", tells nothing apart
                nodule=name if names[name] == 1 and items is not None and len(entries) > 1 else "",
                reader=str(content.get("reader") or "reader-1"),
                source="grand-challenge",
                place=f"item {number}",
                **_place(item, fields, coordinates or "lps"),
            )
        )
    return marks


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AnnotationError("the JSON file is larger than 64 MiB")
        content = json.loads(path.read_bytes())
    except OSError:
        raise AnnotationError("the JSON file cannot be read") from None
    except (ValueError, RecursionError):
        raise AnnotationError("the file is not JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise AnnotationError("the JSON file holds no annotation object")
    return content


def _singular(kind: str) -> str:
    word = kind.removeprefix("multiple ")
    return {"2d bounding boxes": "2d bounding box", "3d bounding boxes": "3d bounding box"}.get(
        word, word.removesuffix("s")
    )


def _named(item: dict[str, Any]) -> list[str]:
    values = [item.get(field) for field in _SERIES_FIELDS]
    return [str(value.get("name", "")) if isinstance(value, dict) else str(value or "") for value in values]


def _series(named: list[str]) -> dict[str, Any]:
    for text in named:
        found = _SERIES_NAME.search(text)
        if found:
            return {"series_instance_uid": found[0]} if "." in found[0] else {"series_key": found[0]}
    return {}


def _place(item: dict[str, Any], fields: tuple[str, ...], coordinates: str) -> dict[str, Any]:
    """Centre, diameter and probability of an item, or its problem."""
    try:
        points = np.array([item[field] for field in fields], dtype=np.float64).reshape(-1, 3)
        probability = None if item.get("probability") is None else float(item["probability"])
        stated = None if item.get("diameter_mm") is None else float(item["diameter_mm"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return {"problem": f"{' and '.join(fields)} must be positions [x, y, z], and figures numbers"}
    if not np.isfinite(points).all() or not 0 < len(points) <= _MAX_POINTS:
        return {"problem": "no position, too many, or one that is not finite"}
    if probability is not None and not 0 <= probability <= 1:
        return {"problem": "probability is not 0 to 1"}
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    diameter = stated
    if stated is None and len(points) > 1:
        diameter = _longest_side(points) if fields == ("corners",) else _largest_distance(points)
    return {
        "lps_mm": to_lps(tuple(center.tolist()), coordinates),
        "diameter_mm": diameter,
        "probability": probability,
    }


def _longest_side(corners: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Of a box with four corners in a plane, or in the axial plane of one with eight."""
    sides = np.ptp(corners, axis=0)
    return float(sides[:2].max() if len(corners) > 4 else sides.max())


def _largest_distance(points: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2).max())
