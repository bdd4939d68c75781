"""The search: nodules of 3 to 40 mm in lungs with vessels, solid and ground glass, free and at the pleura."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_contracts.detection import DetectionHead
from data_contracts.errors import ContractError, UsageError
from data_contracts.params import DetectionParams, ReviewParams
from data_contracts.volume import CTVolume
from pipeline.detection.blobs import find_blobs
from pipeline.detection.features import FEATURES, describe
from pipeline.detection.head import builtin_head, score
from pipeline.detection.levels import build_pyramid
from pipeline.detection.propose import propose
from pipeline.imaging.lungs import segment_lungs

ANY = DetectionParams(detection_threshold=0.0, max_candidates=1000)


def chest(
    nodules: list[tuple[float, float, float, float, float]],
    *,
    slice_mm: float = 1.5,
    pixel_mm: float = 1.0,
    noise_hu: float = 20.0,
    length_mm: float = 126.0,
    seed: int = 0,
) -> CTVolume:
    """Two lungs with vessels in a body, and balls (x, y, z, diameter, HU); z from 0 at the middle."""
    shape = (round(length_mm / slice_mm), round(230 / pixel_mm), round(310 / pixel_mm))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, pixel_mm], [0, pixel_mm, 0], [slice_mm, 0, 0]])
    affine[:3, 3] = -(np.array(shape)[::-1] - 1) * (pixel_mm, pixel_mm, slice_mm) / 2
    volume = CTVolume(np.zeros(shape, np.int16), affine)
    z, y, x = (
        affine[2 - axis, 3] + np.arange(count) * step
        for axis, (count, step) in enumerate(zip(shape, (slice_mm, pixel_mm, pixel_mm), strict=True))
    )
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    hu = np.full(shape, -1000.0, np.float32)
    hu[np.broadcast_to((x / 145) ** 2 + (y / 108) ** 2 < 1, shape)] = 40
    for middle in (-68, 68):
        hu[((x - middle) / 48) ** 2 + (y / 80) ** 2 + (z / (0.47 * length_mm)) ** 2 < 1] = -860
    rng = np.random.default_rng(seed)
    for side in (-1, 1):
        for number in range(6):
            across = np.hypot(y - 18 * (number - 3) - 0.3 * (side * x - 68), z - 25 * (number - 3) + 5)
            hu = np.where((across < 2.0) & (np.abs(side * x - 68) < 40), np.maximum(hu, 40), hu)
    for at_x, at_y, at_z, diameter, value in nodules:
        away = np.sqrt((x - at_x) ** 2 + (y - at_y) ** 2 + (z - at_z) ** 2)
        share = np.clip((diameter / 2 - away) / pixel_mm + 0.5, 0, 1)
        hu = np.where(share > 0, np.maximum(hu, hu + share * (value - hu)), hu)
    hu += noise_hu * rng.standard_normal(shape).astype(np.float32)
    volume.hu[:] = np.clip(np.rint(hu), -1024, 3000)
    return volume


#: free, small, ground glass, at the pleura (its middle 3 mm inside the lung), large
NODULES = [
    (-80.0, -20.0, 12.0, 8.0, 30.0),
    (72.0, 40.0, -20.0, 4.0, 30.0),
    (55.0, -38.0, 14.0, 14.0, -600.0),
    (-112.0, 0.0, -8.0, 10.0, 30.0),
    (75.0, 5.0, 5.0, 34.0, 30.0),
]


@pytest.fixture(scope="module")
def volume() -> CTVolume:
    return chest(NODULES)


@pytest.fixture(scope="module")
def found(volume: CTVolume):
    return propose(volume, segment_lungs(volume), ANY)


@pytest.mark.parametrize("nodule", NODULES, ids=["free", "4 mm", "ground glass", "pleura", "34 mm"])
def test_every_kind_of_nodule_is_proposed_within_its_radius_and_with_about_its_size(found, nodule):
    hits = [one for one in found if np.linalg.norm(np.array(one.lps_mm) - nodule[:3]) < nodule[3] / 2]
    assert hits
    assert 0.5 < max(hits, key=lambda one: one.score).diameter_mm / nodule[3] < 1.7


def test_the_free_nodule_is_among_the_best_and_scores_fall_from_0_to_1(found):
    best = found[:10]
    assert any(np.linalg.norm(np.array(one.lps_mm) - NODULES[0][:3]) < 2.0 for one in best)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1


def test_no_candidate_lies_within_another_and_none_outside_the_lungs(volume, found):
    places = np.array([one.lps_mm for one in found])
    radius = np.array([one.diameter_mm for one in found]) / 2
    away = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e6 * np.eye(len(places))
    assert (away >= np.maximum(radius[:, None], radius[None]) - 1e-9).all()
    lungs = segment_lungs(volume)
    assert max(lungs.distance_mm(place) for place in places) < 25.0


def test_the_same_volume_gives_the_same_candidates_and_cap_and_threshold_take_the_best(volume, found):
    lungs = segment_lungs(volume)
    middle = found[len(found) // 2].score
    kept = propose(volume, lungs, DetectionParams(detection_threshold=middle, max_candidates=1000))
    assert kept == [one for one in found if one.score >= middle]
    assert propose(volume, lungs, DetectionParams(detection_threshold=middle, max_candidates=3)) == found[:3]


def test_the_grid_of_the_scan_matters_little(found):
    flipped = chest(NODULES)
    hu, affine = flipped.hu[::-1, :, ::-1], flipped.affine.copy()
    affine[:3, 3] = flipped.to_lps_mm(np.array([flipped.shape_kji[0] - 1, 0, flipped.shape_kji[2] - 1]))
    affine[:3, 0], affine[:3, 2] = -affine[:3, 0], -affine[:3, 2]
    turned = CTVolume(np.ascontiguousarray(hu), affine)
    again = propose(turned, segment_lungs(turned), ANY)
    for nodule in NODULES:
        assert any(np.linalg.norm(np.array(one.lps_mm) - nodule[:3]) < nodule[3] / 2 for one in again)


def test_slices_of_5_mm_are_searched():
    volume = chest([NODULES[0], NODULES[4]], slice_mm=5.0)
    found = propose(volume, segment_lungs(volume), ANY)
    for nodule in (NODULES[0], NODULES[4]):
        assert any(np.linalg.norm(np.array(one.lps_mm) - nodule[:3]) < nodule[3] / 2 for one in found)


def test_where_the_lungs_are_not_plausible_nothing_is_proposed():
    head = CTVolume(np.full((40, 60, 60), 35, np.int16), np.diag([4.0, 4.0, 4.0, 1.0]))
    lungs = segment_lungs(head)
    assert not lungs.is_plausible
    assert propose(head, lungs, ANY) == []


def test_a_chest_without_any_structure_gives_no_candidate():
    empty = chest([], noise_hu=0.0)
    lungs = segment_lungs(empty)
    blobs = find_blobs(build_pyramid(empty, lungs), 0)
    assert len(blobs) == 0
    table, diameters = describe(build_pyramid(empty, lungs), blobs)
    assert table.shape == (0, len(FEATURES))
    assert diameters.shape == (0,)


def test_a_ball_responds_most_at_its_own_size_with_925_thousandths_of_its_contrast():
    ball = chest([(-80.0, -20.0, 12.0, 13.9, -460.0)], noise_hu=0.0, slice_mm=1.0)
    blobs = find_blobs(build_pyramid(ball, segment_lungs(ball)), 4000)
    nearest = int(np.linalg.norm(blobs.lps_mm - (-80.0, -20.0, 12.0), axis=1).argmin())
    assert blobs.diameter_mm[nearest] == pytest.approx(13.9, abs=0.1)
    # sqrt(2 / pi) 3^1.5 exp(-1.5) of the contrast on a fine grid; the edge of this ball is one voxel wide
    assert blobs.response_hu[nearest] == pytest.approx(0.925 * 400, rel=0.08)


def test_the_head_that_comes_with_the_program_says_what_it_learned_from_and_what_it_found():
    head = builtin_head()
    assert head.features == FEATURES
    assert 0 < head.threshold < 1
    assert head.learned_from
    assert head.made_by.endswith("fit_detection_head.py")
    assert len(head.held_out) >= 4
    for figure in head.held_out:
        assert figure.n_nodules > 0
        assert list(figure.sensitivities) == sorted(figure.sensitivities)
        assert figure.mean_sensitivity == pytest.approx(np.mean(figure.sensitivities), abs=2e-3)


def test_a_head_goes_to_json_and_back_and_scores_as_its_trees_add_up():
    tree = {
        "feature": (0, -1, 1, -1, -1),
        "threshold": (1.0, 0.0, 2.0, 0.0, 0.0),
        "left": (1, 0, 3, 0, 0),
        "right": (2, 0, 4, 0, 0),
        "value": (0.0, -1.0, 0.0, 0.5, 2.0),
    }
    head = DetectionHead.model_validate(
        {"name": "two", "features": ("a", "b"), "baseline": -0.5, "trees": (tree, tree), "threshold": 0.5}
        | {"learned_from": ("by hand",), "how": "", "made_by": "", "held_out": ()}
    )
    assert DetectionHead.from_json(head.to_json()) == head
    values = score(head, np.array([[1.0, 9.0], [1.5, 2.0], [1.5, 2.5]]))
    assert values == pytest.approx(1 / (1 + np.exp([2.5, -0.5, -3.5])))


@pytest.mark.parametrize("change", [{"left": (0, 0, 3, 0, 0)}, {"feature": (7, -1, 1, -1, -1)}, {"value": (0.0,)}])
def test_a_head_whose_trees_do_not_hold_together_is_refused(change):
    tree = {
        "feature": [0, -1, 1, -1, -1],
        "threshold": [1.0, 0.0, 2.0, 0.0, 0.0],
        "left": [1, 0, 3, 0, 0],
        "right": [2, 0, 4, 0, 0],
        "value": [0.0, -1.0, 0.0, 0.5, 2.0],
    }
    body = {"schema_version": 1, "name": "x", "features": ["a", "b"], "baseline": 0.0, "trees": [{**tree, **change}]}
    body |= {"threshold": 0.5, "learned_from": [], "how": "", "made_by": "", "held_out": []}

    with pytest.raises(ContractError):
        DetectionHead.from_json(json.dumps(body))


def test_the_parameters_of_the_search_are_those_of_a_review():
    params = ReviewParams.from_mapping({"detector": "bundle:luna16", "max_candidates": 5})
    assert isinstance(params, DetectionParams)
    for wrong in ("bundle:../../etc", "bundle:", "other", "bundle:a/b"):
        with pytest.raises(UsageError, match="detector"):
            ReviewParams.from_mapping({"detector": wrong})
