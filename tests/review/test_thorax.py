"""A mark that is far too large for its nodule takes no chest wall for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from results_factory import PSEUDONYMS
from scipy import ndimage

from data_contracts.params import IngestParams
from data_contracts.volume import CTVolume
from pipeline.imaging.lungs import segment_lungs
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series
from pipeline.review.measure import FALLBACK, OUTLINED, measured
from pipeline.review.measurement.thorax import Thorax, thorax_of

MM = 2.0
SHAPE_KJI = (120, 130, 170)
#: half axes of a lung, and its middle left of the patient's middle, mm
LUNG_MM, LUNG_AT_MM = (95.0, 85.0, 58.0), 68.0


DEEPER = np.array([14.0, 0, 0])


@cache
def chest(nodule_mm: float | None) -> tuple[CTVolume, np.ndarray]:
    """Two lungs in a body with a wall of 25 mm, and a ball that the wall of the left one cuts in a fifth of its depth.

    Returns the volume and the middle of the ball, or where it would be, LPS mm.
    """
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * MM for n in SHAPE_KJI), indexing="ij", sparse=True)
    a, b, c = LUNG_MM
    lungs = sum((z / a) ** 2 + (y / b) ** 2 + ((x - side * LUNG_AT_MM) / c) ** 2 <= 1 for side in (-1, 1)) > 0
    body = (y / (b + 25)) ** 2 + (x / (LUNG_AT_MM + c + 25)) ** 2 <= 1
    hu = np.where(lungs, -860.0, np.where(body, 40.0, -1000.0) + np.zeros(SHAPE_KJI))
    radius = (nodule_mm or 24.0) / 2
    at = LUNG_AT_MM + c - 0.6 * radius
    if nodule_mm is not None:
        hu[z**2 + y**2 + (x - at) ** 2 <= radius**2] = 40.0
    hu = ndimage.gaussian_filter(hu, 0.4) + np.random.default_rng(1).normal(0, 15, SHAPE_KJI)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * MM
    affine[:3, 3] = [-(n - 1) / 2 * MM for n in SHAPE_KJI[::-1]]
    return CTVolume(np.rint(hu).astype(np.int16), affine), np.array([at, 0.0, 0.0])


@cache
def cavity(nodule_mm: float | None) -> Thorax:
    thorax = thorax_of(segment_lungs(chest(nodule_mm)[0]))
    assert thorax is not None
    return thorax


def test_a_point_between_the_lungs_lies_within_and_one_in_the_wall_as_far_beyond_as_it_is_deep() -> None:
    places = np.array([[0.0, 0, 0], [LUNG_AT_MM, 0, 0], [LUNG_AT_MM + LUNG_MM[2] + 10, 0, 0]])
    between, lung, wall = cavity(None).beyond_mm(places)
    assert between < -30 and lung < -30
    assert wall == pytest.approx(10, abs=4)


@pytest.mark.parametrize("mark_mm", [20, 24, 40, 48, 55])
def test_a_nodule_on_the_pleura_is_measured_from_marks_of_any_size_and_never_with_the_wall(mark_mm: float) -> None:
    volume, center = chest(24.0)
    size, outline = measured(volume, center, mark_mm, thorax=cavity(24.0))
    assert outline is not None and size.method == OUTLINED
    assert not cavity(24.0).is_left_by(outline.mask, outline.affine)
    assert size.mean_diameter_mm == pytest.approx(24, abs=2.5)


@pytest.mark.parametrize("mark_mm", [40, 55, 60, 70])
def test_a_mass_of_60_mm_on_the_wall_is_told_from_it(mark_mm: float) -> None:
    volume, center = chest(60.0)
    size, _ = measured(volume, center, mark_mm, thorax=cavity(60.0))
    assert size.method == OUTLINED
    assert size.mean_diameter_mm == pytest.approx(60, abs=3)


def test_a_mark_in_the_wall_alone_keeps_its_diameter_and_says_why() -> None:
    volume, center = chest(None)
    assert measured(volume, center + DEEPER, 40)[1] is not None
    size, outline = measured(volume, center + DEEPER, 40, thorax=cavity(None))
    assert outline is None and size.mean_diameter_mm == 40
    assert size.method == FALLBACK.format(reason="the outline reaches into the chest wall")


@pytest.mark.parametrize("diameter_mm", [12.0, 24.0, 40.0])
def test_what_lies_in_the_lungs_is_measured_the_same_with_and_without_knowing_them(diameter_mm: float) -> None:
    volume, center = chest(diameter_mm)
    known, _ = measured(volume, center, diameter_mm, thorax=cavity(diameter_mm))
    assert known == measured(volume, center, diameter_mm)[0]


def test_lungs_that_are_not_to_be_trusted_or_none_bound_nothing() -> None:
    lungs = segment_lungs(chest(None)[0])
    assert thorax_of(replace(lungs, implausible=("one lung is missing",))) is None
    assert thorax_of(replace(lungs, sides=np.zeros_like(lungs.sides))) is None
    flat = np.zeros_like(lungs.sides)
    flat[3, 4:9, 4:9] = 1
    assert thorax_of(replace(lungs, sides=flat)) is None


@pytest.mark.realdata
def test_a_mark_of_60_mm_on_the_nodule_of_a_real_patient_is_no_chest_wall(
    lidc_0001_dicom: Path, tmp_path: Path
) -> None:
    for raw in discover(lidc_0001_dicom, PSEUDONYMS, IngestParams(), tmp_path / "scratch").series:
        ingest_series(raw, PSEUDONYMS, IngestParams(), tmp_path / "series", "lidc")
    volume = read_nifti(next((tmp_path / "series").rglob("volume.nii")))
    thorax = thorax_of(segment_lungs(volume))
    for mark_mm in (32, 48, 52, 60):
        size, _ = measured(volume, np.array([55.8, 86.0, -116.0]), mark_mm, thorax=thorax)
        assert size.method == OUTLINED
        assert size.mean_diameter_mm == pytest.approx(24.6, abs=0.8)
