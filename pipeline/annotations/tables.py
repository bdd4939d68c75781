"""Tables of marks: csv with documented columns, and the csv of LUNA16.

csv columns (any order, comma or semicolon, UTF-8; UTF-16 with a byte order mark is read too):

    series_instance_uid or series_key   the series, by its original or pseudonymous UID, or its key in the workspace
    sop_instance_uid                    optional: a slice of it
    x_mm, y_mm, z_mm                    centre in mm of the patient coordinate system; or instead
    k, j, i                             centre as an index from 0 into the volume: slice, row, column
    diameter_mm                         largest diameter in mm; the cell may be empty where it is unknown
    coordinate_system                   optional: LPS (what DICOM and this program mean, the default), RAS or voxel
    nodule                              optional: rows of one series with one name are one nodule
    reader                              optional: who marked it; one row a reader a nodule
    label                               optional: 1 malignant, 0 benign, empty unknown
    malignancy, subtlety, ...           optional: the LIDC ratings of data_contracts.nodules.RATINGS

Without `nodule`, marks of different readers are grouped by place. LPS: x grows to the patient's left, y to the back,
z to the head (DICOM PS3.3 C.7.6.2.1.1); RAS has x and y the other way round, as NIfTI and 3D Slicer show them.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from pathlib import Path
from typing import Any

from data_contracts.errors import AnnotationError
from data_contracts.nodules import RATINGS, NoduleAnnotation

#: coordinate systems that a table may be in
COORDINATES = ("lps", "ras", "voxel")

_SERIES_COLUMNS = ("series_instance_uid", "series_key", "sop_instance_uid")
_MM_COLUMNS = ("x_mm", "y_mm", "z_mm")
_VOXEL_COLUMNS = ("k", "j", "i")
_CSV_COLUMNS = (
    *_SERIES_COLUMNS,
    "nodule",
    "reader",
    *_MM_COLUMNS,
    *_VOXEL_COLUMNS,
    "coordinate_system",
    "diameter_mm",
    "label",
    *RATINGS,
)
_LUNA_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz", "diameter_mm")
_MAX_BYTES = 256 * 2**20
#: key of a row that has another number of cells than the heading
_SHAPE = "/shape"


def read_csv(path: Path, coordinates: str = "") -> list[NoduleAnnotation]:
    """Marks of a csv table, each with its line.

    coordinates: "lps", "ras" or "voxel"; "" takes the column `coordinate_system`, or LPS.

    Raises
    ------
    AnnotationError: columns that are missing, unknown, repeated or contradict each other.
    """
    lines, columns = _lines(path)
    has_voxels = any(name in columns for name in _VOXEL_COLUMNS)
    if has_voxels and any(name in columns for name in _MM_COLUMNS):
        raise AnnotationError("the table has both x_mm, y_mm, z_mm and k, j, i", todo="Keep the one that is meant.")
    place = _VOXEL_COLUMNS if has_voxels else _MM_COLUMNS
    _check(columns, (*place, "diameter_mm"), _CSV_COLUMNS)
    if not any(name in columns for name in _SERIES_COLUMNS):
        raise AnnotationError("column 'series_instance_uid' is missing", todo=f"Known: {', '.join(_CSV_COLUMNS)}.")
    if coordinates and (coordinates == "voxel") != has_voxels:
        wanted = ", ".join(_VOXEL_COLUMNS if coordinates == "voxel" else _MM_COLUMNS)
        raise AnnotationError(f"coordinates {coordinates!r} need the columns {wanted}")
    return [_csv_mark(row, f"line {number}", place, coordinates) for number, row in lines]


def _csv_mark(row: dict[str, str], place: str, columns: tuple[str, ...], coordinates: str) -> NoduleAnnotation:
    problems = [row[_SHAPE]] if _SHAPE in row else []
    system = row.get("coordinate_system", "").strip().lower()
    known = "voxel" if columns == _VOXEL_COLUMNS else coordinates or system or "lps"
    if system not in ("", *COORDINATES):
        problems.append("coordinate_system is none of LPS, RAS, voxel")
    elif system and (system != known or (system == "voxel") != (columns == _VOXEL_COLUMNS)):
        problems.append(f"coordinate_system {system} contradicts the columns or --coordinates")
    point = tuple(_number(row.get(name, ""), name, problems) for name in columns)
    ratings = {name: _rating(row[name], name, problems) for name in RATINGS if row.get(name, "").strip()}
    label = row.get("label", "").strip().removesuffix(".0")
    if label not in ("", "0", "1"):
        problems.append("label is neither 0 nor 1")
    diameter = _number(row["diameter_mm"], "diameter_mm", problems) if row.get("diameter_mm", "").strip() else None
    return NoduleAnnotation(
        series_key=row.get("series_key", "").strip(),
        series_instance_uid=row.get("series_instance_uid", "").strip(),
        sop_instance_uid=row.get("sop_instance_uid", "").strip(),
        reader=row.get("reader", "").strip() or "reader-1",
        diameter_mm=diameter,
        nodule=row.get("nodule", "").strip(),
        label=int(label) if label in ("0", "1") else None,
        ratings=ratings,
        source="csv",
        place=place,
        problem="; ".join(problems),
        **_position(known, point, problems),
    )


def _position(system: str, point: tuple[float, ...], problems: list[str]) -> dict[str, Any]:
    """The place in the field that holds its coordinate system; nothing where the row cannot be trusted."""
    if problems:
        return {}
    if system == "voxel":
        return {"pixel_kji": point}
    return {"lps_mm": to_lps(point, system)}


def to_lps(point: tuple[float, ...], system: str) -> tuple[float, ...]:
    """A point in mm, (x, y, z), from "lps" or "ras" to LPS."""
    x, y, z = point
    return (-x, -y, z) if system == "ras" else (x, y, z)


def read_luna16(path: Path, coordinates: str = "") -> list[NoduleAnnotation]:
    """Marks of LUNA16's annotations.csv: seriesuid, coordX, coordY, coordZ (LPS mm), diameter_mm.

    Raises
    ------
    AnnotationError: other columns.
    """
    lines, columns = _lines(path)
    _check(columns, _LUNA_COLUMNS, _LUNA_COLUMNS)
    marks = []
    for number, row in lines:
        problems = [row[_SHAPE]] if _SHAPE in row else []
        x, y, z, diameter = (_number(row.get(name, ""), name, problems) for name in _LUNA_COLUMNS[1:])
        marks.append(
            NoduleAnnotation(
                series_instance_uid=row.get("seriesuid", "").strip(),
                reader="luna16",
                diameter_mm=diameter,
                source="luna16",
                place=f"line {number}",
                problem="; ".join(problems),
                **_position(coordinates or "lps", (x, y, z), problems),
            )
        )
    return marks


def _lines(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """(line number, row by lower-case column name) of a csv table, and its columns."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AnnotationError("the table is larger than 256 MiB")
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise AnnotationError("the table is not UTF-8 text", todo="Save it as csv, UTF-8.") from None
    except OSError:
        raise AnnotationError("the table cannot be read") from None
    head = text.partition("\n")[0]
    separator = next((mark for mark in (",", ";", "\t") if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise AnnotationError(f"the table is broken after line {reader.line_num}") from error
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    return [(number, _row(columns, line)) for number, line in lines[1:]], columns


def _row(columns: list[str], line: list[str]) -> dict[str, str]:
    """Cells by column; a line of another length, as decimal commas make it, says so in the cell _SHAPE."""
    row = dict(zip(columns, line, strict=False))
    if len(line) < len(columns) or any(cell.strip() for cell in line[len(columns) :]):
        row[_SHAPE] = f"{len(line)} cells where the heading has {len(columns)}"
    return row


def _check(columns: list[str], required: tuple[str, ...], known: tuple[str, ...]) -> None:
    todo = f"Known columns: {', '.join(known)}."
    for name in required:
        if name not in columns:
            raise AnnotationError(f"column {name!r} is missing", todo=todo)
    if len(set(columns)) < len(columns):
        raise AnnotationError("a column stands there twice", todo=todo)
    for name in columns:
        if name not in known:
            raise AnnotationError(f"unknown column {name[:40]!r}", todo=todo)


def _number(text: str, name: str, problems: list[str]) -> float:
    """A finite number; else 0.0 and a problem that names the column."""
    try:
        number = float(text.strip())
    except ValueError:
        decimal = text.count(",") == 1 and text.strip().replace(",", "").lstrip("+-").isdigit()
        problems.append(f"{name} {'has a decimal comma' if decimal else 'is no number'}")
        return 0.0
    if not math.isfinite(number):
        problems.append(f"{name} is not finite")
        return 0.0
    return number


def _rating(text: str, name: str, problems: list[str]) -> float:
    number = _number(text, name, problems)
    if not problems and not 1 <= number <= RATINGS[name]:
        problems.append(f"{name} is not 1 to {RATINGS[name]}")
    return number
