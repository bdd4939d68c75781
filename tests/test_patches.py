"""Patches: the point at the centre, to the hundredth of a millimetre, on any grid."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_contracts.errors import GeometryError, UsageError
from data_contracts.params import PatchParams
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.patches import extract_patch, patch_grids, patch_shape
from pipeline.imaging.resample import resample

KINDS = ("2d", "2.5d", "3d")


def axial(hu, spacing_kji=(2.5, 0.7, 0.7), origin=(-20.0, -30.0, -40.0)) -> CTVolume:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_kji)[::-1]
    affine[:3, 3] = origin
    return CTVolume(np.asarray(hu, dtype=np.int16), affine)


def positions_mm(center_mm, params) -> np.ndarray:
    """Position of every sample of a patch, (*patch_shape, 3), from its grids."""
    planes = []
    for grid in patch_grids(center_mm, params):
        indices = np.moveaxis(np.indices(grid.shape_kji), 0, -1)
        planes.append(indices @ grid.affine[:3, :3].T + grid.affine[:3, 3])
    return np.concatenate(planes)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    noise=st.lists(st.floats(-0.6, 0.6), min_size=9, max_size=9),
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    steps=st.tuples(*[st.floats(0.6, 3.0)] * 3),
    gradient=st.tuples(*[st.floats(-30, 30)] * 3),
    shift=st.tuples(*[st.floats(-1, 1)] * 3),
    n=st.integers(3, 8),
)
def test_every_sample_of_a_patch_has_the_value_of_its_millimetre(kind, noise, axes, signs, steps, gradient, shift, n):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[:, axes] * signs + np.array(noise).reshape(3, 3) / 2) @ np.diag(steps)
    assume(np.linalg.cond(affine[:3, :3]) <= 15)
    indices = np.moveaxis(np.indices((40, 41, 42)), 0, -1)
    center_mm = affine[:3, :3] @ np.array([20, 20, 20]) + np.array(shift)
    values = (indices @ affine[:3, :3].T - center_mm) @ np.array(gradient)
    volume = CTVolume(np.rint(np.clip(values, -30000, 30000)).astype(np.int16), affine)
    params = PatchParams(kind=kind, size_mm=n * 1.0, spacing_mm=1.0)
    patch, padded = extract_patch(volume, center_mm, params)
    points = positions_mm(center_mm, params)
    assert patch.shape == patch_shape(params) == points.shape[:3]
    assert np.allclose(
        points.reshape(3, -1, 3).mean(axis=(0, 1)) if kind != "3d" else points.mean((0, 1, 2)), center_mm
    )
    away = np.abs(volume.to_kji(points) - 20).max()
    if away < 12:  # smoothing and the ramp stay clear of the edges
        assert not padded
        assert np.abs(patch - (points - center_mm) @ np.array(gradient)).max() <= 1.0 + 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [15, 16])
def test_the_point_lies_at_the_centre_of_the_patch(kind, n):
    volume = axial(np.zeros((30, 80, 80)))
    center_mm = np.array([7.3, -4.1, -5.7])
    params = PatchParams(kind=kind, size_mm=n * 0.75, spacing_mm=0.75)
    x_mm = volume.to_lps_mm(np.moveaxis(np.indices(volume.shape_kji), 0, -1))
    for axis in range(3):
        ramp = CTVolume(np.rint((x_mm[..., axis] - center_mm[axis]) * 100).astype(np.int16), volume.affine)
        patch, _ = extract_patch(ramp, center_mm, params)
        assert abs(patch.mean()) <= 1.0  # 0.01 mm


def test_planes_are_shown_as_a_radiologist_sees_them():
    volume = axial(np.zeros((40, 60, 60)), (1.0, 1.0, 1.0))
    center_mm = volume.to_lps_mm(np.array([20, 30, 30]))
    left, posterior, superior = (np.eye(3)[axis] * 6 for axis in range(3))
    params = PatchParams(kind="2.5d", size_mm=21, spacing_mm=1.0)
    for offset_mm, seen in (
        (left, {(0, 10, 16), (1, 10, 16)}),
        (posterior, {(0, 16, 10), (2, 10, 16)}),
        (superior, {(1, 4, 10), (2, 4, 10)}),
    ):
        hu = np.zeros(volume.shape_kji, np.int16)
        hu[tuple(np.rint(volume.to_kji(center_mm + offset_mm)).astype(int))] = 500
        patch, _ = extract_patch(CTVolume(hu, volume.affine), center_mm, params)
        assert {tuple(int(n) for n in place) for place in np.argwhere(patch == 500)} == seen


def test_a_2d_patch_is_three_axial_slices_one_spacing_apart_from_below_to_above():
    volume = axial(np.arange(40)[:, None, None] * 100 + np.zeros((40, 60, 60)), (1.0, 1.0, 1.0))
    patch, _ = extract_patch(
        volume, volume.to_lps_mm(np.array([20, 30, 30])), PatchParams(kind="2d", spacing_mm=1.5, size_mm=15)
    )
    assert patch[:, 5, 5].tolist() == pytest.approx([1850, 2000, 2150], abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_over_the_edge_is_padded_and_flagged(kind):
    volume = axial(np.full((20, 40, 40), 50))
    corner_mm = volume.to_lps_mm(np.zeros(3))
    patch, padded = extract_patch(volume, corner_mm, PatchParams(kind=kind, size_mm=12, spacing_mm=1.0))
    assert padded
    assert set(np.unique(patch)) == {PADDING_HU, 50}


def test_a_patch_that_just_fits_is_not_flagged():
    volume = axial(np.zeros((9, 9, 9)), (1.0, 1.0, 1.0))
    _, padded = extract_patch(
        volume, volume.to_lps_mm(np.array([4, 4, 4])), PatchParams(kind="3d", size_mm=9, spacing_mm=1.0)
    )
    assert not padded


def test_a_fine_volume_is_smoothed_as_if_it_were_resampled_whole():
    volume = axial(np.random.default_rng(1).integers(-1000, 400, (40, 80, 80)), (0.5, 0.4, 0.4))
    params = PatchParams(kind="3d", size_mm=8, spacing_mm=1.0)
    whole = resample(volume, 1.0, antialias=True)
    center_mm = whole.to_lps_mm(np.array([9.5, 14.5, 14.5]))
    patch, _ = extract_patch(volume, center_mm, params)
    assert np.abs(patch - whole.hu[6:14, 11:19, 11:19]).max() <= 1
    assert patch.std() < 0.3 * volume.hu.std()


@pytest.mark.parametrize("center_mm", [(1000.0, 0.0, 0.0), (np.nan, 0.0, 0.0)])
def test_a_point_outside_the_volume_is_refused(center_mm):
    with pytest.raises(GeometryError):
        extract_patch(axial(np.zeros((20, 40, 40))), np.array(center_mm), PatchParams())


def test_a_size_of_no_or_endless_samples_is_refused():
    for size_mm, spacing_mm in ((1.0, 1.0), (1000.0, 0.1)):
        with pytest.raises(UsageError, match="samples a side"):
            patch_shape(PatchParams(size_mm=size_mm, spacing_mm=spacing_mm))


def test_a_patch_costs_milliseconds_whatever_the_size_of_the_volume():
    volume = axial(np.zeros((200, 512, 512)), (1.0, 0.7, 0.7))
    center_mm = volume.to_lps_mm(np.array([100, 256, 256]))
    seconds = []
    for _ in range(7):
        start = time.process_time()
        extract_patch(volume, center_mm, PatchParams())
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


def test_nine_planes_all_pass_through_the_point_and_lie_at_45_or_90_degrees():
    center_mm = np.array([3.0, -7.0, 11.0])
    params = PatchParams(kind="2.5d", planes=9, size_mm=9, spacing_mm=1.0)
    grids = patch_grids(center_mm, params)
    assert patch_shape(params) == (9, 9, 9)
    normals = np.array([np.cross(grid.affine[:3, 1], grid.affine[:3, 2]) for grid in grids])
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    cosines = np.abs(normals @ normals.T)[~np.eye(9, dtype=bool)]
    assert np.isin(np.round(cosines, 6), np.round([0, 0.5, np.sqrt(0.5)], 6)).all()
    for grid, normal in zip(grids, normals, strict=True):
        points = np.moveaxis(np.indices(grid.shape_kji), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        assert np.abs((points - center_mm) @ normal).max() < 1e-9
        assert np.allclose(points.reshape(-1, 3).mean(axis=0), center_mm)


def test_the_first_three_of_nine_planes_are_the_three():
    volume = axial(np.random.default_rng(3).integers(-900, 300, (40, 60, 60)))
    center_mm = volume.to_lps_mm(np.array([20.0, 30.0, 30.0]))
    nine, _ = extract_patch(volume, center_mm, PatchParams(kind="2.5d", planes=9, size_mm=16, spacing_mm=1.0))
    three, _ = extract_patch(volume, center_mm, PatchParams(kind="2.5d", size_mm=16, spacing_mm=1.0))
    assert np.array_equal(nine[:3], three)
