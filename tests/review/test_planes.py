"""A plane of a picture holds what the volume holds at each of its pixels, for any grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.review.planes import PLANE_AXES, sample_hu, sample_plane

SIZE_MM, SHAPE_PX = (23.0, 31.0), (19, 27)


@st.composite
def volumes(draw: st.DrawFn) -> CTVolume:
    """Noise on an anisotropic grid: along the axes in any order, tilted, or turned and sheared."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["along the axes", "tilted", "turned"]))
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    turn = turn + random.uniform(-0.2, 0.2, (3, 3))
    if kind != "turned":
        turn = np.eye(3)[random.permutation(3)] * random.choice([-1, 1], 3)
    if kind == "tilted":
        turn[1, 0] += 0.3
    affine = np.eye(4)
    affine[:3, :3] = turn * random.uniform(0.5, 3.0, 3)
    affine[:3, 3] = random.uniform(-100, 100, 3)
    return CTVolume(random.integers(-1000, 400, (9, 14, 17)).astype(np.int16), affine)


def points_of(center: np.ndarray, plane: str) -> np.ndarray:
    """Positions of the pixels' centres, one by one."""
    across, down = (np.array(axis, dtype=float) for axis in PLANE_AXES[plane])
    points = np.empty((*SHAPE_PX, 3))
    for row in range(SHAPE_PX[0]):
        for column in range(SHAPE_PX[1]):
            along = (row + 0.5) * SIZE_MM[0] / SHAPE_PX[0] - SIZE_MM[0] / 2
            aside = (column + 0.5) * SIZE_MM[1] / SHAPE_PX[1] - SIZE_MM[1] / 2
            points[row, column] = center + along * down + aside * across
    return points


@given(
    volume=volumes(),
    plane=st.sampled_from(sorted(PLANE_AXES)),
    place=st.tuples(*[st.floats(-0.5, 1.5)] * 3),
    order=st.sampled_from([1, 3]),
)
@settings(max_examples=150, deadline=None)
def test_every_pixel_is_the_volume_at_its_position(volume: CTVolume, plane: str, place: tuple, order: int) -> None:
    center = volume.to_lps_mm(np.array(place) * (np.array(volume.shape_kji) - 1))
    seen = sample_plane(volume, center, plane, size_mm=SIZE_MM, shape_px=SHAPE_PX, order=order)
    expected = sample_hu(volume, points_of(center, plane), order=order)
    # A pixel on the very border of the volume may fall to either side of it.
    is_same = np.isclose(seen, expected, atol=0.05)
    assert is_same.mean() > 0.995
    assert ((seen == PADDING_HU) == (expected == PADDING_HU)).mean() > 0.995


def test_a_plane_far_from_the_volume_is_padding() -> None:
    volume = CTVolume(np.zeros((4, 4, 4), dtype=np.int16), np.eye(4)[[2, 1, 0, 3]])
    seen = sample_plane(volume, (500.0, 0.0, 0.0), "axial", size_mm=(10.0, 10.0), shape_px=(5, 5))
    assert seen == pytest.approx(np.full((5, 5), PADDING_HU))
