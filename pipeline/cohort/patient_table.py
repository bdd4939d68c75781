"""The CSV that says whose image a file is: columns file and patient; site, diameter_mm and ratings may be there."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from data_contracts.errors import ContractError, UsageError
from data_contracts.nodules import RATINGS
from pipeline.cohort.crop_table import need, read_cells

_REQUIRED = ("file", "patient")
#: what other tables call these two
_ALSO_CALLED = {"filename": "file", "path": "file", "patient_id": "patient"}
_MAX_DIAMETER_MM = 500.0


@dataclass(frozen=True)
class PatientTable:
    """Rows by file.

    patients: patient identifiers (n,), in the order of the rows asked for.
    columns: site, diameter_mm and the ratings the file has, one row a file asked for.
    known: which of the files asked for have a row (n,).
    n_unused: rows of the table that name none of the files.
    """

    patients: list[str]
    columns: pd.DataFrame
    known: list[bool]
    n_unused: int


def read_patient_table(path: Path, files: Sequence[str]) -> PatientTable:
    """The rows of `files` (paths below the folder of images, "/" between folders).

    A row may name a file by its path or, where no other file has it, by its name alone.

    Raises
    ------
    UsageError: not a CSV file, a column is missing, or it names none of the files.
    ContractError: a file twice, no patient, or a value that its column cannot hold; names the line, never the value.
    """
    cells = read_cells(path)
    cells = cells.rename(columns={also: name for also, name in _ALSO_CALLED.items() if name not in cells})
    if cells.columns.duplicated().any():
        raise UsageError("a column is there under two names", where=path.name, todo="The table needs file and patient.")
    missing = [column for column in _REQUIRED if column not in cells]
    if missing:
        raise UsageError(f"no column {missing[0]!r}", where=path.name, todo="The table needs file and patient.")
    need(cells["patient"] != "", "patient", "is empty", path)
    row_of = _rows_by_file([_plain(name) for name in cells["file"]], [_plain(name) for name in files], path)
    columns = pd.DataFrame(index=cells.index)
    if "site" in cells:
        columns["site"] = cells["site"].replace("", "unknown")
    for name, highest in {"diameter_mm": _MAX_DIAMETER_MM, **RATINGS}.items():
        if name in cells:
            values = pd.to_numeric(cells[name], errors="coerce").astype("float64")
            lowest = 0.0 if name == "diameter_mm" else 1.0
            good = values.between(lowest, highest) & (values > 0) | (cells[name] == "")
            need(good, name, f"is neither empty nor a number up to {highest:g}", path)
            columns[name] = values
    rows = [row_of.get(number, -1) for number in range(len(files))]
    if files and max(rows) < 0:
        raise UsageError("the table names none of the images", where=path.name, todo="file is the path below DIR.")
    chosen = columns.reindex(rows).reset_index(drop=True)
    patients = [str(cells["patient"].iloc[row]) if row >= 0 else "" for row in rows]
    return PatientTable(patients, chosen, [row >= 0 for row in rows], len(cells) - len(set(rows) - {-1}))


def _rows_by_file(named: list[str], files: list[str], path: Path) -> dict[int, int]:
    """Row of the table by position of the file."""
    place = {name: number for number, name in enumerate(files)}
    by_name = Counter(PurePosixPath(name).name for name in files)
    alone = {PurePosixPath(name).name: number for number, name in enumerate(files)}
    found: dict[int, int] = {}
    for row, name in enumerate(named):
        number = place.get(name)
        if number is None and "/" not in name and name in alone:
            if by_name[name] > 1:
                raise ContractError(
                    f"column 'file' on line {row + 2} fits several images", where=path.name, todo="Give the whole path."
                )
            number = alone[name]
        if number is None:
            continue
        if number in found:
            raise ContractError(f"column 'file' names an image twice, again on line {row + 2}", where=path.name)
        found[number] = row
    return found


def _plain(name: str) -> str:
    """One spelling of a path: "/" between folders, no "./", composed letters (macOS writes decomposed ones)."""
    return str(PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))))
