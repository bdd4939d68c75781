"""Annotation files to marks: csv, LUNA16 csv, LIDC reader XML and PASCAL VOC boxes.

csv columns (any order, comma or semicolon, positions in LPS millimetres as DICOM has them):

    series_instance_uid or series_key   the series, by its original UID or its key in the workspace
    x_mm, y_mm, z_mm, diameter_mm       centre and diameter
    nodule                              optional: rows of one series with one name are one nodule
    reader                              optional: who marked it; one row a reader a nodule
    label                               optional: 1 malignant, 0 benign, empty unknown
    malignancy, subtlety, ...           optional: the LIDC ratings of data_contracts.nodules.RATINGS

Without `nodule`, marks of different readers are grouped by place.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

from data_contracts.errors import AnnotationError, UsageError
from data_contracts.nodules import RATINGS, NoduleAnnotation
from pipeline.annotations.xml_files import read_lidc_xml, read_voc_xml

_SERIES_COLUMNS = ("series_instance_uid", "series_key")
_PLACE_COLUMNS = ("x_mm", "y_mm", "z_mm", "diameter_mm")
_CSV_COLUMNS = (*_SERIES_COLUMNS, "nodule", "reader", *_PLACE_COLUMNS, "label", *RATINGS)
_LUNA_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz", "diameter_mm")
_MAX_BYTES = 256 * 2**20
_READER = re.compile(r"[\w.-]{1,40}", re.ASCII)


def read_annotations(path: Path, format: str) -> list[NoduleAnnotation]:
    """All marks of an annotation file, or of every XML file of a folder.

    format: "csv", "luna16", "lidc-xml" or "voc-xml". A row whose numbers cannot be read comes back without a
    position, so that matching refuses it with its line.

    Raises
    ------
    UsageError: no such file, or an unknown format.
    AnnotationError: a file that is not of that format; one line that names the column or element.
    """
    reader = _READERS.get(format)
    if reader is None:
        raise UsageError(f"unknown annotation format {format!r}", todo=f"Known: {', '.join(_READERS)}.")
    if not path.exists():
        raise UsageError("the annotation file is not there")
    if path.is_dir():
        files = sorted(item for item in path.rglob("*.xml") if item.is_file()) if format.endswith("xml") else []
        if not files:
            raise AnnotationError(f"the folder holds no {format} file")
        return [mark for file in files for mark in reader(file)]
    return reader(path)


def _rows(path: Path, required: tuple[str, ...], known: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row by lower-case column name) of a csv table."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AnnotationError("the table is larger than 256 MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AnnotationError("the table is not UTF-8 text", todo="Save it as csv, UTF-8.") from None
    except OSError:
        raise AnnotationError("the table cannot be read") from None
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in head and "," not in head else ",")
    try:
        lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise AnnotationError(f"the table is broken after line {reader.line_num}") from error
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    todo = f"Known columns: {', '.join(known)}."
    for name in required:
        if name not in columns:
            raise AnnotationError(f"column {name!r} is missing", todo=todo)
    if len(set(columns)) < len(columns):
        raise AnnotationError("a column stands there twice", todo=todo)
    for name in columns:
        if name not in known:
            raise AnnotationError(f"unknown column {name[:40]!r}", todo=todo)
    return [(number, dict(zip(columns, line, strict=False))) for number, line in lines[1:]]


def _csv(path: Path) -> list[NoduleAnnotation]:
    rows = _rows(path, _PLACE_COLUMNS, _CSV_COLUMNS)
    if rows and not any(name in rows[0][1] for name in _SERIES_COLUMNS):
        raise AnnotationError("column 'series_instance_uid' is missing", todo=f"Known: {', '.join(_CSV_COLUMNS)}.")
    return [_csv_mark(row, f"line {number}") for number, row in rows]


def _csv_mark(row: dict[str, str], place: str) -> NoduleAnnotation:
    x, y, z, diameter = (_number(row.get(name, "")) for name in _PLACE_COLUMNS)
    ratings = {name: _number(row[name]) for name in RATINGS if row.get(name, "").strip()}
    label = row.get("label", "").strip().removesuffix(".0")
    readable = (
        None not in (x, y, z, diameter)
        and label in ("", "0", "1")
        and all(value is not None and 1 <= value <= RATINGS[name] for name, value in ratings.items())
    )
    reader = row.get("reader", "").strip()
    return NoduleAnnotation(
        series_key=row.get("series_key", "").strip(),
        series_instance_uid=row.get("series_instance_uid", "").strip(),
        # a reader's name need not be anyone's name, but may be; only plain words pass
        reader=reader if _READER.fullmatch(reader) else "reader-1",
        lps_mm=(x, y, z) if readable and x is not None and y is not None and z is not None else None,
        diameter_mm=diameter,
        nodule=row.get("nodule", "").strip(),
        label=int(label) if readable and label else None,
        ratings={name: value for name, value in ratings.items() if value is not None},
        source="csv",
        place=place,
    )


def _luna16(path: Path) -> list[NoduleAnnotation]:
    marks = []
    for number, row in _rows(path, _LUNA_COLUMNS, _LUNA_COLUMNS):
        x, y, z, diameter = (_number(row.get(name, "")) for name in _LUNA_COLUMNS[1:])
        readable = x is not None and y is not None and z is not None and diameter is not None
        marks.append(
            NoduleAnnotation(
                series_instance_uid=row["seriesuid"].strip(),
                reader="luna16",
                lps_mm=(x, y, z) if readable and x is not None and y is not None and z is not None else None,
                diameter_mm=diameter,
                source="luna16",
                place=f"line {number}",
            )
        )
    return marks


def _number(text: str) -> float | None:
    try:
        number = float(text.strip())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


_READERS: dict[str, Callable[[Path], list[NoduleAnnotation]]] = {
    "csv": _csv,
    "luna16": _luna16,
    "lidc-xml": lambda path: list(read_lidc_xml(path).marks),
    "voc-xml": read_voc_xml,
}
