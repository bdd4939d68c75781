"""The lung mask: volume, sides and doubts, on a made chest and on a real one."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.lungs import segment_lungs


def chest(spacing_kji=(3.0, 1.5, 1.5), *, flip=False, bridge=False) -> tuple[CTVolume, float]:
    """A body with two ellipsoid lungs, vessels and a nodule in them, room air around; and the lungs' volume in ml."""
    shape = tuple(int(extent / step) for extent, step in zip((240, 270, 360), spacing_kji, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_kji)[::-1]
    affine[:3, 3] = (-180.0, -135.0, -120.0)
    grid = CTVolume(np.zeros(shape, np.int16), affine)
    x, y, z = np.moveaxis(grid.to_lps_mm(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    hu = np.where((x / 165) ** 2 + (y / 115) ** 2 < 1, 40, -1000)
    lungs = np.zeros(shape, bool)
    for side, width in ((-1, 62), (1, 55)):
        lungs |= ((x - side * 75) / width) ** 2 + (y / 85) ** 2 + (z / 105) ** 2 < 1
    if bridge:
        lungs |= (np.abs(x) < 30) & (np.abs(y + 20) < 4) & (np.abs(z) < 40)
    hu[lungs] = -850
    hu[lungs & ((x - 70) ** 2 + (y - 20) ** 2 < 4**2)] = 40
    hu[(x + 75) ** 2 + y**2 + z**2 < 6**2] = 30
    noisy = hu + np.random.default_rng(0).normal(0, 50, shape)
    volume = CTVolume(np.clip(noisy, PADDING_HU, 3000).astype(np.int16), affine)
    if flip:
        turned = affine.copy()
        turned[:3, 2] *= -1
        turned[:3, 3] = affine[:3, :3] @ np.array([0, 0, shape[2] - 1]) + affine[:3, 3]
        volume = CTVolume(np.ascontiguousarray(volume.hu[:, :, ::-1]), turned)
    return volume, float(lungs.sum() * np.prod(spacing_kji) / 1000)


@pytest.mark.parametrize("bridge", [False, True], ids=["apart", "joined"])
def test_two_lungs_are_found_with_their_volume_and_sides(bridge):
    volume, truth_ml = chest(bridge=bridge)
    lungs = segment_lungs(volume)
    assert lungs.implausible == ()
    assert lungs.volume_ml == pytest.approx(truth_ml, rel=0.05)
    assert lungs.right_ml > lungs.left_ml
    assert lungs.side_of(np.array([80.0, 0.0, 10.0])) == "left"
    assert lungs.side_of(np.array([-150.0, 0.0, 10.0])) == "right"


def test_the_nodule_and_the_vessel_are_inside_the_mask():
    volume, _ = chest()
    lungs = segment_lungs(volume)
    for inside_mm in ((-75, 0, 0), (70, 20, 0)):
        assert lungs.distance_mm(np.array(inside_mm)) < 3.0
    mask = lungs.on_grid_of(volume)
    assert mask.shape == volume.shape_kji
    assert mask.dtype == np.bool_
    assert mask[tuple(np.rint(volume.to_kji(np.array([-75.0, 0, 0]))).astype(int))]
    assert mask.sum() * np.prod(volume.spacing_kji_mm) / 1000 == pytest.approx(lungs.volume_ml, rel=0.03)


def test_sides_follow_the_patient_and_not_the_order_of_columns():
    volume, _ = chest(flip=True)
    assert segment_lungs(volume).side_of(np.array([80.0, 0.0, 10.0])) == "left"


def test_a_volume_without_lungs_gives_an_empty_mask_that_says_so():
    lungs = segment_lungs(CTVolume(np.full((20, 60, 60), 40, np.int16), np.diag([3.0, 2.0, 2.0, 1.0])))
    assert not lungs.is_plausible
    assert lungs.implausible == ("no lung was found",)
    assert lungs.side_of(np.zeros(3)) is None


def test_a_chest_of_one_lung_is_doubted():
    volume, _ = chest()
    hu = volume.hu.copy()
    hu[:, :, volume.shape_kji[2] // 2 :] = 40
    assert not segment_lungs(CTVolume(hu, volume.affine)).is_plausible


@pytest.mark.realdata
def test_the_lungs_of_a_real_chest_are_plausible(nlst_dicom):
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(nlst_dicom))
    image = SimpleITK.ReadImage(files)
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    hu = np.maximum(SimpleITK.GetArrayFromImage(image), PADDING_HU).astype(np.int16)
    lungs = segment_lungs(CTVolume(hu, affine))
    assert lungs.is_plausible
    assert 3800 < lungs.volume_ml < 4800
    assert lungs.right_ml > lungs.left_ml
