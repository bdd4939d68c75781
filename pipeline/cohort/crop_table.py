"""The CSV beside a file of crops: one row a crop, the readers' ratings separated by ';' in one cell."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import ContractError, UsageError
from data_contracts.nodules import RATINGS
from data_contracts.params import LabelParams
from pipeline.cohort.consensus import labels_by_readers, soft_label

_REQUIRED = ("patient_id", "diameter_mm", "malignancy", "n_readers")
#: Further columns of numbers that are kept: name in the file -> name in the index.
_NUMBERS = {"slice_thickness": "slice_thickness_mm", "pixel_spacing": "pixel_spacing_mm"}
#: Further columns of words that are kept: who a label came from, and with what.
_ORIGINS = ("batch", "source", "readers")
_MAX_DIAMETER_MM = 500.0


def read_crop_table(
    path: Path, n_crops: int, label: LabelParams, exclude_patients: frozenset[str]
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Index rows (PATCH_TABLE without split, shard and row) of the kept crops, and which crops are kept (n_crops,).

    Needs the columns patient_id, diameter_mm, malignancy (ratings 1..5 separated by ';', may be empty) and n_readers
    (how many); takes manufacturer (becomes the site), series_instance_uid, slice_thickness, pixel_spacing, further
    ratings (their means), batch, source and readers (whose labels they are) where they are there. Identifiers become
    digests; no table holds them plainly. The digest is not keyed, so it protects public research identifiers from
    being read, not from being guessed.

    Raises
    ------
    UsageError: not a CSV file, a column is missing, or the number of rows is not `n_crops`.
    ContractError: a value is not what its column holds; the message names the first line, never a value.
    """
    cells = read_cells(path)
    missing = [column for column in _REQUIRED if column not in cells]
    if missing:
        raise UsageError(
            f"no column {missing[0]!r}", where=path.name, todo=f"The table needs the columns {', '.join(_REQUIRED)}."
        )
    if len(cells) != n_crops:
        raise UsageError(f"{len(cells)} rows for {n_crops} crops", where=path.name, todo="Row n describes crop n.")
    if "row" in cells:
        need(numbers(cells, "row", path) == np.arange(n_crops), "row", "does not count the crops", path)
    need(cells["patient_id"] != "", "patient_id", "is empty", path)
    diameter = numbers(cells, "diameter_mm", path)
    need(diameter.between(0, _MAX_DIAMETER_MM, inclusive="right"), "diameter_mm", "is no diameter in mm", path)
    n_ratings, malignancy_sum = _ratings(cells, "malignancy", path)
    n_readers = numbers(cells, "n_readers", path)
    need(n_readers == n_ratings, "n_readers", "is not the number of malignancy ratings", path)
    means = {name: total / count for name in RATINGS if name in cells for count, total in [_ratings(cells, name, path)]}
    if "pixel_spacing" in cells:
        spacing = numbers(cells, "pixel_spacing", path)
        need((spacing > 0) | spacing.isna(), "pixel_spacing", "is no distance in mm", path)
    series = cells["series_instance_uid"] if "series_instance_uid" in cells else pd.Series("", index=cells.index)
    patch_id = [f"{row:06d}" for row in range(n_crops)]
    rows = pd.DataFrame(
        {
            "patch_id": patch_id,
            "nodule_id": patch_id,
            "series_key": [_digest("series", uid) if uid else "" for uid in series],
            "patient_key": [_digest("patient", patient) for patient in cells["patient_id"]],
            "site": cells["manufacturer"].replace("", "unknown") if "manufacturer" in cells else "unknown",
            "label": labels_by_readers(malignancy_sum, n_ratings, label),
            "label_soft": soft_label(malignancy_sum / n_ratings),
            "n_readers": n_ratings,
            "diameter_mm": diameter,
            "padded": False,
            **{name: cells[name] for name in _ORIGINS if name in cells},
            **means,
            **{new: numbers(cells, old, path) for old, new in _NUMBERS.items() if old in cells},
        }
    )
    kept = ~cells["patient_id"].isin(exclude_patients).to_numpy(dtype=np.bool_)
    if not kept.any():
        raise UsageError("every crop belongs to an excluded patient", where=path.name)
    return rows[kept].reset_index(drop=True), kept


def read_cells(path: Path) -> pd.DataFrame:
    """All cells as text, blanks stripped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream, strict=True) if line]
    except FileNotFoundError:
        raise UsageError("no such table", where=path.name) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("not a CSV file in UTF-8", where=path.name) from error
    if not lines or any(len(line) != len(lines[0]) for line in lines) or len(set(lines[0])) != len(lines[0]):
        raise UsageError("not a table: lines of different length, a column twice, or no header", where=path.name)
    return pd.DataFrame([[cell.strip() for cell in line] for line in lines[1:]], columns=lines[0], dtype="object")


def numbers(cells: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column of text as float64, NaN where it is empty; raises ContractError where it holds something else."""
    numbers = pd.to_numeric(cells[column], errors="coerce").astype("float64")
    need((numbers.abs() < np.inf) | (cells[column] == ""), column, "is not a number", path)
    return numbers


def _ratings(cells: pd.DataFrame, column: str, path: Path) -> tuple[pd.Series, pd.Series]:
    """Number and sum of the ratings in each cell of `column`."""
    one_each = cells[column].str.split(";").explode()
    one_each = one_each[one_each != ""]
    values = pd.to_numeric(one_each, errors="coerce").astype("float64")
    good = values.between(1, RATINGS[column])
    need(good.groupby(level=0).all().reindex(cells.index, fill_value=True), column, "holds no ratings", path)
    grouped = values.groupby(level=0)
    counts = grouped.size().reindex(cells.index, fill_value=0).astype("int64")
    return counts, grouped.sum().reindex(cells.index, fill_value=0.0)


def need(good: pd.Series, column: str, what: str, path: Path) -> None:
    """Raises ContractError naming the first line that is not `good`, never its value."""
    if not good.all():
        line = int((~good.to_numpy(dtype=np.bool_)).argmax()) + 2
        raise ContractError(f"column {column!r} {what} on line {line}", where=path.name)


def _digest(kind: str, identifier: str) -> str:
    return hashlib.sha256(f"noduleflow import {kind}\0{identifier}".encode()).hexdigest()[:16]
