"""Resampling: equal to SimpleITK on the same grid, exact on ramps, on any affine."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import SimpleITK
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_contracts.errors import GeometryError
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.grids import patient_grid
from pipeline.imaging.resample import antialias_sigma_voxels, resample, resample_onto, sample_volume

RNG = np.random.default_rng(0)


def affine_of(columns_kji: list[list[float]], origin: tuple[float, float, float] = (-120.0, -80.0, -300.0)) -> NDArray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns_kji, dtype=float).T
    affine[:3, 3] = origin
    return affine


AXIAL = [[0, 0, 2.5], [0, 0.7, 0], [0.7, 0, 0]]
FLIPPED = [[0, 0, -2.5], [0, -0.7, 0], [0.7, 0, 0]]
SAGITTAL = [[1.5, 0, 0], [0, 0, -0.8], [0, 0.6, 0]]
OBLIQUE = (np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0] @ np.diag([2.0, 0.7, 0.7])).T.tolist()
SHEARED = [[0, 0.9, 2.5], [0, 0.7, 0], [0.7, 0, 0]]


def noise_volume(columns_kji: list[list[float]], shape: tuple[int, int, int] = (20, 40, 45)) -> CTVolume:
    return CTVolume(RNG.integers(-1024, 3000, shape, dtype=np.int16), affine_of(columns_kji))


def by_simpleitk(volume: CTVolume, target: CTVolume) -> NDArray[np.float32]:
    image = SimpleITK.GetImageFromArray(volume.hu)
    steps = volume.affine[:3, :3][:, ::-1]
    spacing = np.linalg.norm(steps, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((steps / spacing).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    new_steps = target.affine[:3, :3][:, ::-1]
    new_spacing = np.linalg.norm(new_steps, axis=0)
    result = SimpleITK.Resample(
        image,
        target.shape_kji[::-1],
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        target.affine[:3, 3].tolist(),
        new_spacing.tolist(),
        (new_steps / new_spacing).ravel().tolist(),
        float(PADDING_HU),
        SimpleITK.sitkFloat32,
    )
    return SimpleITK.GetArrayFromImage(result)


@pytest.mark.parametrize(
    "columns", [AXIAL, FLIPPED, SAGITTAL, OBLIQUE], ids=["axial", "flipped", "sagittal", "oblique"]
)
@pytest.mark.parametrize("spacing_mm", [1.0, (2.0, 0.9, 1.1), 0.5])
def test_resampling_equals_simpleitk_within_half_a_hu(columns, spacing_mm):
    volume = noise_volume(columns)
    mine = resample(volume, spacing_mm)
    assert mine.hu.dtype == np.int16
    theirs = by_simpleitk(volume, mine)
    differences = np.abs(theirs - mine.hu)
    # Samples exactly on the border of the field (half a voxel out) may fall on either side of it.
    kji = volume.to_kji(mine.to_lps_mm(np.moveaxis(np.indices(mine.shape_kji), 0, -1)))
    on_border = (np.minimum(np.abs(kji + 0.5), np.abs(kji - np.array(volume.shape_kji) + 0.5)) < 1e-6).any(axis=-1)
    assert differences[~on_border].max() <= 0.5 + 1e-3
    assert on_border.mean() < 0.05


def test_onto_an_oblique_grid_equals_simpleitk_within_half_a_hu():
    volume = noise_volume(AXIAL)
    target = CTVolume(np.zeros((15, 17, 19), np.int16), affine_of(OBLIQUE, (-110.0, -60.0, -270.0)))
    mine = resample_onto(volume, target.affine, target.shape_kji)
    assert (mine.hu != PADDING_HU).any()
    assert (mine.hu == PADDING_HU).any()
    assert np.abs(by_simpleitk(volume, target) - mine.hu).max() <= 0.5 + 1e-3


def test_the_grid_starts_on_the_corner_voxel_centre_and_ends_inside_the_field_of_view():
    volume = CTVolume(np.zeros((300, 512, 512), np.int16), affine_of([[0, 0, 1.0], [0, 0.7, 0], [0.7, 0, 0]]))
    affine, shape_kji = patient_grid(volume, 1.0)
    assert shape_kji == (300, 359, 359)
    assert np.allclose(affine[:3, 3], volume.affine[:3, 3])
    assert volume.contains(affine[:3, :3] @ (np.array(shape_kji) - 1.0) + affine[:3, 3])


def test_an_unchanged_grid_gives_the_same_voxels():
    volume = noise_volume([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]])
    assert np.array_equal(resample(volume, 1.0).hu, volume.hu)


def test_flips_and_permutations_only_reorder_voxels():
    volume = noise_volume(SAGITTAL)
    again = resample(volume, (0.8, 0.6, 1.5))
    assert np.array_equal(again.hu, volume.hu.transpose(1, 2, 0)[::-1])


@settings(max_examples=40, deadline=None)
@given(
    columns=st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=3, max_size=3),
    gradient=st.tuples(*[st.floats(-20, 20)] * 3),
    spacing_mm=st.floats(0.8, 3.0),
)
def test_a_linear_ramp_is_exact_on_any_affine(columns, gradient, spacing_mm):
    affine = affine_of(columns, (3.0, -4.0, 5.0))
    affine[:3, :3] += 3 * np.eye(3)[::-1]
    assume(np.linalg.cond(affine[:3, :3]) <= 20)
    indices = np.moveaxis(np.indices((9, 10, 11)), 0, -1)
    empty = CTVolume(np.zeros((9, 10, 11), np.int16), affine)
    ramp = empty.to_lps_mm(indices) @ np.array(gradient)
    volume = CTVolume(np.rint(ramp).astype(np.int16), affine)
    result = resample(volume, spacing_mm)
    points = result.to_lps_mm(np.moveaxis(np.indices(result.shape_kji), 0, -1))
    kji = volume.to_kji(points)
    inner = ((kji >= 0) & (kji <= np.array(volume.shape_kji) - 1)).all(axis=-1)
    assert np.abs(result.hu[inner] - (points @ np.array(gradient))[inner]).max(initial=0) <= 1.0 + 1e-3
    beyond = ((kji < -0.5001) | (kji > np.array(volume.shape_kji) - 0.4999)).any(axis=-1)
    assert (result.hu[beyond] == PADDING_HU).all()


def test_a_sheared_grid_puts_a_landmark_at_its_millimetre():
    volume = CTVolume(np.full((30, 60, 60), -1000, np.int16), affine_of(SHEARED))
    volume.hu[14:17, 30:33, 20:23] = 1000
    landmark_mm = volume.to_lps_mm(np.array([15.0, 31.0, 21.0]))
    result = resample(volume, 0.5)
    weights = result.hu.astype(float) + 1000
    weights[result.hu == PADDING_HU] = 0
    found_kji = np.array([(weights * axis).sum() for axis in np.indices(result.shape_kji)]) / weights.sum()
    assert np.allclose(result.to_lps_mm(found_kji), landmark_mm, atol=0.02)


def test_antialiasing_removes_what_the_new_grid_cannot_show_and_keeps_ramps():
    checkers = np.indices((24, 48, 48)).sum(axis=0) % 2 * 1000
    volume = CTVolume(checkers.astype(np.int16), affine_of([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]]))
    smooth = resample(volume, 3.0, antialias=True).hu[2:-2, 2:-2, 2:-2]
    assert np.abs(smooth - 500).max() < 10
    assert np.ptp(resample(volume, 3.0).hu) == 1000


def test_the_smoothing_matches_the_width_of_the_new_voxels():
    assert antialias_sigma_voxels(affine_of(AXIAL), np.eye(3)) == pytest.approx(
        (0.0, np.sqrt(1 - 0.49) / 2.354820 / 0.7, np.sqrt(1 - 0.49) / 2.354820 / 0.7), rel=1e-5
    )


def test_a_volume_of_one_slice_is_resampled():
    volume = noise_volume(AXIAL, (1, 20, 20))
    assert resample(volume, 1.0).shape_kji == (2, 14, 14)


@pytest.mark.parametrize("spacing_mm", [0.0, -1.0, float("nan"), 1e-4])
def test_an_impossible_spacing_is_refused(spacing_mm):
    with pytest.raises(GeometryError):
        resample(noise_volume(AXIAL), spacing_mm)


@pytest.mark.parametrize("columns", [AXIAL, OBLIQUE, SHEARED], ids=["axial", "oblique", "sheared"])
def test_float_output_equals_simpleitk_without_rounding_and_int16_is_its_rounding(columns):
    volume = noise_volume(columns)
    if columns is SHEARED:  # SimpleITK knows no shear: a ramp stands in
        ramp = np.moveaxis(np.indices(volume.shape_kji), 0, -1) @ np.array([5.0, -3.0, 2.0])
        volume = CTVolume(ramp.astype(np.int16), volume.affine)
    affine, shape_kji = patient_grid(volume, 0.9)
    exact = np.empty(shape_kji, np.float32)
    sample_volume(volume, affine, exact)
    rounded = resample(volume, 0.9)
    assert np.abs(exact - rounded.hu).max() <= 0.5
    if columns is not SHEARED:
        inner = exact != PADDING_HU
        assert np.abs(by_simpleitk(volume, rounded) - exact)[inner].max() < 0.02
        return
    kji = volume.to_kji(rounded.to_lps_mm(np.moveaxis(np.indices(shape_kji), 0, -1)))
    inner = ((kji >= 0) & (kji <= np.array(volume.shape_kji) - 1)).all(axis=-1)
    assert np.abs(exact - kji @ np.array([5.0, -3.0, 2.0]))[inner].max() < 0.01


def test_memory_that_is_given_is_filled_and_nothing_of_the_volume_before_shines_through():
    first, second = noise_volume(AXIAL), noise_volume(OBLIQUE)
    affine, shape_kji = patient_grid(first, 1.0)
    memory = np.full(shape_kji, 12345, np.int16)
    again = resample(first, 1.0, out=memory)
    assert again.hu is memory
    assert np.array_equal(memory, resample(first, 1.0).hu)
    other = resample_onto(second, affine, shape_kji, out=memory)
    assert np.array_equal(other.hu, resample_onto(second, affine, shape_kji).hu)


def test_memory_of_another_kind_or_shape_is_refused():
    volume = noise_volume(AXIAL)
    with pytest.raises(GeometryError):
        sample_volume(volume, np.eye(4), np.empty((2, 3, 4), np.int32))
    with pytest.raises(GeometryError):
        resample_onto(volume, np.eye(4), (2, 3, 4), out=np.empty((2, 3, 5), np.int16))


@pytest.mark.parametrize("orientation", ["SPL", "LPS", "RAI", "ARS", "ILA"])
def test_every_orientation_holds_the_same_patient(orientation):
    volume = noise_volume(OBLIQUE)
    plain = resample(volume, (1.5, 1.5, 1.5))
    turned = resample(volume, (1.5, 1.5, 1.5), orientation=orientation)
    signs = {"L": (2, 1), "R": (2, -1), "P": (1, 1), "A": (1, -1), "S": (0, 1), "I": (0, -1)}
    axes = [signs[letter][0] for letter in orientation]
    assert turned.shape_kji == tuple(plain.shape_kji[axis] for axis in axes)
    middle_kji = np.array([3.0, 4.0, 5.0])
    step = turned.affine[:3, :3] @ np.eye(3)
    assert np.allclose(np.abs(step).max(axis=0), 1.5)
    for column, letter in zip(step.T, orientation, strict=True):
        assert column[{"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}[letter]] * signs[letter][1] > 0
    point_mm = turned.to_lps_mm(middle_kji)
    theirs = by_simpleitk(volume, CTVolume(np.zeros((1, 1, 1), np.int16), _moved(turned.affine, point_mm)))
    assert abs(float(theirs[0, 0, 0]) - int(turned.hu[3, 4, 5])) <= 0.5 + 1e-3


def _moved(affine: NDArray, origin_mm: NDArray) -> NDArray:
    moved = np.eye(4)
    # a right-handed frame, which SimpleITK asks for; one voxel has no orientation
    moved[:3, :3] = np.eye(3)[::-1]
    moved[:3, 3] = origin_mm
    return moved


@pytest.mark.parametrize("orientation", ["SPX", "SSL", "SP", ""])
def test_an_orientation_that_does_not_name_three_axes_is_refused(orientation):
    with pytest.raises(GeometryError):
        resample(noise_volume(AXIAL), 1.0, orientation=orientation)


def test_the_field_of_view_convention_is_that_of_opencv_and_not_the_other_one():
    hu = RNG.integers(-1000, 1000, (6, 40, 50), dtype=np.int16)
    volume = CTVolume(hu, affine_of([[0, 0, 2.0], [0, 0.5, 0], [0.5, 0, 0]]))
    by_edges = resample(volume, (2.0, 1.0, 1.0), convention="field-of-view")
    theirs = np.stack([cv2.resize(plane.astype(np.float32), (25, 20), interpolation=cv2.INTER_LINEAR) for plane in hu])
    assert by_edges.shape_kji == theirs.shape
    assert np.abs(by_edges.hu - theirs).max() <= 0.5 + 1e-3
    outer_edge_mm = by_edges.to_lps_mm(np.full(3, -0.5))
    assert np.allclose(outer_edge_mm, volume.to_lps_mm(np.full(3, -0.5)))
    by_centres = resample(volume, (2.0, 1.0, 1.0))
    assert np.allclose(by_centres.affine[:3, 3], volume.affine[:3, 3])
    assert np.abs(by_centres.hu.astype(int) - by_edges.hu).max() > 100


@settings(max_examples=60, deadline=None)
@given(
    columns=st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=3, max_size=3),
    kji=st.tuples(*[st.floats(0, 8)] * 3),
    spacing_mm=st.floats(0.5, 3.0),
    convention=st.sampled_from(["voxel-centre", "field-of-view"]),
)
def test_a_point_comes_back_through_volume_grid_and_patient_within_a_hundredth_of_a_millimetre(
    columns, kji, spacing_mm, convention
):
    affine = affine_of(columns, (-150.0, 80.0, -1200.0))
    affine[:3, :3] += 3 * np.eye(3)[::-1]
    assume(np.linalg.cond(affine[:3, :3]) <= 20)
    volume = CTVolume(np.zeros((9, 10, 11), np.int16), affine)
    grid_affine, shape_kji = patient_grid(volume, spacing_mm, convention=convention)
    grid = CTVolume(np.zeros(shape_kji, np.int16), grid_affine)
    point_mm = volume.to_lps_mm(np.array(kji))
    back = volume.to_kji(grid.to_lps_mm(grid.to_kji(point_mm)))
    assert np.abs(volume.to_lps_mm(back) - point_mm).max() < 0.01
    assert grid.contains(point_mm)
