"""Key images show the nodule, the right way round, in the window they name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_contracts.model_card import LUNG_WINDOW, MEDIASTINAL_WINDOW
from data_contracts.params import ReviewParams
from data_contracts.volume import CTVolume
from pipeline.review.key_images import KEY_IMAGE_PX, KEY_VIEWS, key_image_name, render_key_images, to_grey, view_of


def _grey(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _landmarks(affine: np.ndarray) -> CTVolume:
    """Air with one bright voxel block left, one dim block anterior and one middling block superior of the middle."""
    volume = CTVolume(np.full((61, 61, 61), -1000, dtype=np.int16), affine)
    index = np.moveaxis(np.indices((61, 61, 61)), 0, -1).reshape(-1, 3)
    offset = volume.to_lps_mm(index) - volume.to_lps_mm(np.array([30.0, 30.0, 30.0]))
    hu = volume.hu.reshape(-1)
    for direction, value in (((15, 0, 0), 200), ((0, -15, 0), -300), ((0, 0, 15), -600)):
        hu[np.linalg.norm(offset - np.array(direction), axis=1) < 5] = value
    return volume


AFFINES = {
    "as acquired": np.array([[0, 0, 1, 5], [0, 1, 0, 7], [1, 0, 0, -9], [0, 0, 0, 1]], dtype=float),
    "head first and mirrored": np.array([[0, 0, -1, 5], [0, -1, 0, 7], [-1, 0, 0, -9], [0, 0, 0, 1]], dtype=float),
    "coronal series": np.array([[0, 0, 1, 5], [1, 0, 0, 7], [0, -1, 0, -9], [0, 0, 0, 1]], dtype=float),
    "tilted gantry": np.array([[0, 0, 1, 5], [0.3, 1, 0, 7], [0.95, 0, 0, -9], [0, 0, 0, 1]], dtype=float),
}


@pytest.mark.parametrize("name", AFFINES)
def test_patient_right_is_on_the_left_anterior_and_superior_are_up_for_any_grid(name):
    volume = _landmarks(AFFINES[name])
    pictures = render_key_images(volume, volume.to_lps_mm(np.array([30.0, 30.0, 30.0])), 2.0, ReviewParams())
    at = KEY_IMAGE_PX // 2
    reach = round(15 * KEY_IMAGE_PX / 60)
    left, anterior, superior, air = (
        int(to_grey(np.array(hu, dtype=np.float32), LUNG_WINDOW)) for hu in (200, -300, -600, -1000)
    )

    def seen(view: str, row: int, column: int) -> float:
        return float(np.median(_grey(pictures[view])[row - 6 : row + 7, column - 6 : column + 7, 0]))

    assert seen("axial-lung", at, at + reach) == pytest.approx(left, abs=6)
    assert seen("axial-lung", at - reach, at) == pytest.approx(anterior, abs=6)
    assert seen("axial-lung", at, at - reach) == pytest.approx(air, abs=6)
    assert seen("coronal-lung", at, at + reach) == pytest.approx(left, abs=6)
    assert seen("coronal-lung", at - reach, at) == pytest.approx(superior, abs=6)
    assert seen("sagittal-lung", at, at - reach) == pytest.approx(anterior, abs=6)
    assert seen("sagittal-lung", at - reach, at) == pytest.approx(superior, abs=6)


def test_the_nodule_is_bright_in_the_middle_and_no_mark_lies_on_it(make_nodule):
    volume, center = make_nodule((6, 6, 6), noise_hu=0)
    pictures = render_key_images(volume, center, 12.0, ReviewParams())
    row, column = np.indices((KEY_IMAGE_PX, KEY_IMAGE_PX)) - (KEY_IMAGE_PX - 1) / 2
    distance_mm = np.hypot(row, column) * 60 / KEY_IMAGE_PX
    for view in ("axial-lung", "coronal-lung", "sagittal-lung", "axial-mediastinal"):
        pixels = _grey(pictures[view])
        assert pixels.shape == (KEY_IMAGE_PX, KEY_IMAGE_PX, 3)
        expected = to_grey(np.array(30, dtype=np.float32), KEY_VIEWS[view].window)
        assert np.median(pixels[distance_mm < 3]) == pytest.approx(int(expected), abs=3)
        coloured = np.ptp(pixels, axis=-1) > 40
        assert coloured.any(), "there is a crosshair"
        assert not coloured[distance_mm < 8].any(), "the nodule and its margin are free"


def test_the_overview_rings_the_place(make_nodule):
    volume, center = make_nodule((4, 4, 4), noise_hu=0)
    pixels = _grey(render_key_images(volume, center + np.array([6.0, -4.0, 0.0]), 8.0, ReviewParams())["overview"])
    ring = np.argwhere(np.ptp(pixels, axis=-1) > 60)
    n_mm = (volume.shape_kji[2] - 1) * 0.7
    across_mm, down_mm = (ring.mean(axis=0)[::-1] + 0.5) * n_mm / KEY_IMAGE_PX - n_mm / 2
    assert (across_mm, down_mm) == (pytest.approx(6, abs=0.7), pytest.approx(-4, abs=0.7))


def test_windows_are_the_clinical_ones():
    hu = np.array([-2000, -1350, -600, 150, 3000], dtype=np.float32)
    assert to_grey(hu, LUNG_WINDOW).tolist() == [0, 0, 128, 255, 255]
    assert to_grey(np.array([-160, 40, 240], dtype=np.float32), MEDIASTINAL_WINDOW).tolist() == [0, 128, 255]


def test_a_large_nodule_widens_the_field_and_the_same_input_gives_the_same_bytes(make_nodule):
    volume, center = make_nodule((4, 4, 4))
    pictures = render_key_images(volume, center, 60.0, ReviewParams())
    assert pictures == render_key_images(volume, tuple(center), 60.0, ReviewParams())
    assert set(pictures) == set(KEY_VIEWS)
    small = _grey(render_key_images(volume, center, 8.0, ReviewParams())["axial-lung"])
    middle = slice(KEY_IMAGE_PX // 2 - 25, KEY_IMAGE_PX // 2 + 25)
    assert _grey(pictures["axial-lung"])[middle, middle].mean() < small[middle, middle].mean()


def test_a_centre_outside_the_volume_gives_a_picture_of_air(make_nodule):
    volume, center = make_nodule((4, 4, 4))
    pixels = _grey(render_key_images(volume, center + 500, 8.0, ReviewParams())["axial-mediastinal"])
    assert np.median(pixels) == 0


def test_the_view_is_found_again_in_the_file_name():
    for view in KEY_VIEWS:
        assert view_of(key_image_name("f-1-overview", view)) == view
    assert view_of("cat.png") is None
