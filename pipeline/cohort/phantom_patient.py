"""One phantom patient from plan to pixels: anatomy, vessels, nodules, scanner, files, truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.nodules import RATINGS
from data_contracts.params import PhantomParams
from pipeline.cohort.lidc_database import LidcNodule
from pipeline.cohort.phantom_anatomy import AxialGrid, Thorax
from pipeline.cohort.phantom_dicom import SeriesWriter
from pipeline.cohort.phantom_identity import phantom_identity, slice_count
from pipeline.cohort.phantom_placement import place_nodules
from pipeline.cohort.phantom_plan import PatientPlan
from pipeline.cohort.phantom_scanner import Scanner, scanner_of
from pipeline.cohort.phantom_shape import NoduleShape, consensus_shape, edge_width_mm, nodule_hu
from pipeline.cohort.phantom_vessels import VesselTree, draw_vessels, grow_vessels

_VESSEL_HU = 42.0
#: a reader's centre is at most this far from the centre of the shape that was drawn
_MOST_READER_OFFSET_MM = 1.0


@dataclass(frozen=True, eq=False)
class PlacedNodule:
    """A nodule in the body frame: centre (x, y, z) in mm."""

    nodule: LidcNodule
    shape: NoduleShape
    center_mm: NDArray[np.float64]


class PhantomPatient:
    """A patient of the cohort; every random draw depends on the seed and the patient's number alone."""

    def __init__(self, params: PhantomParams, plan: PatientPlan) -> None:
        self._params, self._plan = params, plan
        self.scanner: Scanner = scanner_of(params, plan.site)
        self.grid = AxialGrid(params.matrix, params.field_of_view_mm)
        self.slices = slice_count(params, plan.site)
        length_mm = self.slices * self.scanner.spacing_mm
        self._thorax = Thorax(params.field_of_view_mm, length_mm, self._rng("body"))
        self._vessels: VesselTree = grow_vessels(self._thorax, self._rng("vessels"))
        shapes = [consensus_shape(nodule) for nodule in plan.nodules]
        places = place_nodules(shapes, self._thorax, self._vessels, self._rng("places"))
        self.nodules = [
            PlacedNodule(nodule, shape, center)
            for nodule, shape, center in zip(plan.nodules, shapes, places, strict=True)
        ]
        position = self._rng("position")
        # table height and bed position: the frame's origin is nowhere special
        self.origin_mm = tuple(np.round(position.uniform((-12, -190, -420), (12, -120, 60)), 1).tolist())
        self.head_first = bool(position.integers(2))

    def _rng(self, purpose: str) -> np.random.Generator:
        number = ("body", "vessels", "places", "position", "tissue", "noise").index(purpose)
        return np.random.default_rng([self._params.seed, self._plan.index, 100 + number])

    def object_hu(self, plane_z_mm: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The patient before any scanner, float32 (plane, row, column), planes from feet to head.

        plane_z_mm: heights of the planes, ascending; those of the patient's scanner where not given.
        """
        heights = self.scanner.plane_z_mm(self.slices) if plane_z_mm is None else plane_z_mm
        # drawn as shares of vessel first and turned into HU in place: one volume in memory, not two
        volume = draw_vessels(self._vessels, self.grid, heights)
        for k, height in enumerate(heights):
            hu, lung = self._thorax.plane_hu(self.grid, float(height))
            volume[k] = hu + volume[k] * lung * (_VESSEL_HU - hu)
        rng = self._rng("tissue")
        for placed in self.nodules:
            self._insert(volume, placed, heights, rng)
        return volume

    def _insert(
        self, volume: NDArray[np.float32], placed: PlacedNodule, heights: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        x, y, z = placed.center_mm
        edge = max(edge_width_mm(placed.nodule.mean_ratings), self.grid.pixel_mm)
        reach = placed.shape.radius_mm + edge
        axis = self.grid.axis_mm
        columns, rows = (slice(*np.searchsorted(axis, (c - reach, c + reach))) for c in (x, y))
        planes = slice(*np.searchsorted(heights, (z - reach, z + reach)))
        distance = placed.shape.at(heights[planes] - z, axis[rows] - y, axis[columns] - x)
        share = np.clip(distance / edge + 0.5, 0, 1)
        box = volume[planes, rows, columns]
        # what is denser already (chest wall, vessels, ribs) stays
        box += share * np.maximum(nodule_hu(placed.nodule, distance, rng) - box, 0)

    def scan(self) -> Iterator[NDArray[np.float32]]:
        """Slices as reconstructed, float32 HU (row, column), from feet to head."""
        volume = self.object_hu()
        rng = self._rng("noise")
        each = self.scanner.planes_per_slice
        for number in range(self.slices):
            yield self.scanner.slice_hu(volume[number * each : (number + 1) * each], self.grid, rng)

    def write(self, folder: Path) -> None:
        """Write the series into an existing folder."""
        x, y, z = self.origin_mm
        identity = phantom_identity(self._params, self._plan.index)
        writer = SeriesWriter(
            self._params, self._plan.index, identity, self.scanner, self.grid, (x, y, z), self.head_first
        )
        for number, hu in enumerate(self.scan()):
            writer.write(folder, number, self.slices, hu)

    def truth(self) -> pd.DataFrame:
        """One row a nodule a reader: position LPS mm in the frame of the files, diameter, ratings.

        A reader's centre is that of the reader's own contours, drawn to within 1 mm of the centroid of the shape
        in the images; the diameter is the largest in-plane one of the reader's contours.
        """
        series_uid = phantom_identity(self._params, self._plan.index).series_uid
        rows: list[dict[str, object]] = []
        for number, placed in enumerate(self.nodules):
            spacing = placed.nodule.pixel_spacing_mm
            centers = np.array([mark.center_px_mm for mark in placed.nodule.marks]) * (spacing, spacing, 1.0)
            for reader, (mark, offset) in enumerate(
                zip(placed.nodule.marks, centers - centers.mean(axis=0), strict=True)
            ):
                offset = offset * min(1.0, _MOST_READER_OFFSET_MM / max(float(np.linalg.norm(offset)), 1e-9))
                at = np.round(placed.center_mm + np.array(self.origin_mm) + offset * 0.99, 3)
                rows.append(
                    {
                        "series_instance_uid": series_uid,
                        "nodule": f"n{number + 1}",
                        "reader": f"reader-{reader + 1}",
                        "x_mm": at[0],
                        "y_mm": at[1],
                        "z_mm": at[2],
                        "diameter_mm": round(mark.diameter_mm, 2),
                        **{name: int(mark.ratings[name]) for name in RATINGS},
                    }
                )
        return pd.DataFrame(rows)
