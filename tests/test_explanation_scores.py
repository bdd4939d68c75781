"""A map that follows the nodule passes; one of the middle, one of anything, and one that never changes do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.signal import convolve2d
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from data_contracts.concepts import LOG_DIAMETER, SCALE_ENDS, concept_words, in_own_unit
from data_contracts.explanation import ExplanationReport, SanityTest
from data_contracts.nodules import RATINGS
from data_contracts.params import EvaluateParams
from pipeline.scoring.concepts import concept_figures, weighted_kappa, weighted_spearman
from pipeline.scoring.explanation import (
    energy_in_mask,
    faithfulness,
    label_randomisation,
    localisation,
    not_made,
    pointing_game,
    repeatability,
    skill,
    verdict,
    weight_randomisation,
)
from pipeline.scoring.off_centre import centred_maps, displacements, movable, nodule_masks
from pipeline.scoring.similarity import is_empty, pair_baseline, ssim

SIDE, N = 48, 24
PATIENTS = np.array([f"patient{number // 2}" for number in range(N)], dtype=object)


def nodules(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (N, 1, SIDE, SIDE) of moved nodules, their moves, and soft maps that follow them."""
    moves = displacements(N, 2, SIDE, 0.25, seed=seed)
    masks = nodule_masks((1, SIDE, SIDE), np.full(N, 6.0), moves)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    maps = np.exp(-((y - moves[:, :1, None]) ** 2 + (x - moves[:, 1:, None]) ** 2) / (2 * 5.0**2))
    return masks, moves, maps[:, None].astype(np.float32)


def anything(seed: int) -> np.ndarray:
    """Maps of a bump at a random place."""
    return nodules(seed)[2]


def test_a_map_that_follows_a_nodule_off_the_centre_is_localised():
    masks, _, maps = nodules()
    found = localisation(maps, masks, PATIENTS, dims=2)
    assert found.passed
    assert found.figures["pointing game"] == 1
    assert found.figures["energy in mask"] > 0.4


def test_a_map_of_the_middle_which_looks_right_on_every_centred_nodule_fails():
    centred = centred_maps((1, SIDE, SIDE), N, 2)
    in_the_middle = nodule_masks((1, SIDE, SIDE), np.full(N, 6.0), np.zeros((N, 2), dtype=np.int64))
    assert pointing_game(centred, in_the_middle).mean() == 1
    masks, _, _ = nodules()
    found = localisation(centred, masks, PATIENTS, dims=2)
    assert found.passed is False
    assert found.figures["pointing game"] == 0


@pytest.mark.parametrize("maps", [np.ones((N, 1, SIDE, SIDE)), np.zeros((N, 1, SIDE, SIDE)), anything(7)])
def test_an_even_map_an_empty_one_and_one_of_anywhere_fail(maps):
    masks, _, _ = nodules()
    assert localisation(maps, masks, PATIENTS, dims=2).passed is False


def test_a_map_that_does_not_change_when_the_weights_do_fails():
    _, _, maps = nodules()
    elsewhere = maps[:, :, ::-1, ::-1]
    assert weight_randomisation(maps, {"head": maps, "stage 0": elsewhere}, PATIENTS, dims=2).passed
    assert weight_randomisation(maps, {"head": elsewhere, "stage 0": maps}, PATIENTS, dims=2).passed is False
    assert label_randomisation(maps, elsewhere, PATIENTS, dims=2).passed
    assert label_randomisation(maps, maps * 0.9, PATIENTS, dims=2).passed is False


def test_an_empty_map_is_like_no_other_not_like_its_black_background():
    _, _, maps = nodules()
    empty = np.zeros_like(maps)
    assert is_empty(empty).all()
    assert (ssim(maps, empty, dims=2) == 0).all()
    assert (ssim(empty, empty, dims=2) == 0).all()


def test_a_second_training_that_shows_other_places_is_not_repeatable():
    _, _, maps = nodules()
    noise = np.random.default_rng(0).normal(0, 0.02, maps.shape)
    assert repeatability(maps, np.clip(maps + noise, 0, 1), PATIENTS, dims=2).passed
    assert repeatability(maps, anything(3), PATIENTS, dims=2).passed is False


def test_an_order_that_is_no_better_than_another_nodules_is_not_faithful():
    rng = np.random.default_rng(0)
    other = rng.normal(0, 1, N), rng.normal(0, 1, N)
    assert faithfulness((other[0] - 1, other[1] + 1), other, PATIENTS).passed
    assert faithfulness(other, other, PATIENTS).passed is False
    assert faithfulness((other[0] - 1, other[1] - 1), other, PATIENTS).passed is False


def test_a_network_without_skill_has_nothing_to_explain():
    labels = np.arange(N) % 2
    rng = np.random.default_rng(0)
    assert skill(labels, labels + rng.normal(0, 0.3, N)).passed
    assert skill(labels, rng.normal(size=N)).passed is False
    assert skill(np.ones(N, dtype=np.int64), rng.normal(size=N)).passed is None


def test_maps_may_be_shown_only_where_every_test_was_made_and_passed():
    good, bad = (SanityTest(name=name, passed=name == "good", rule="") for name in ("good", "bad"))
    assert verdict([good, good]) == (True, "the maps passed all 2 tests: good, good")
    assert verdict([good, bad]) == (False, "failed: bad")
    assert verdict([good, not_made("label randomisation", "retrain=off")]) == (
        False,
        "not tested: label randomisation (retrain=off)",
    )
    assert verdict([])[0] is False


def test_a_report_comes_back_as_it_was_written(tmp_path):
    report = ExplanationReport(
        run_id="r",
        checkpoint_sha256="ab",
        dataset_id="d",
        method="grad-cam",
        stage=2,
        n_nodules=N,
        n_patients=N // 2,
        reliable=False,
        reason="failed: skill",
        tests=(skill(np.arange(N) % 2, np.zeros(N)),),
    )
    report.write(tmp_path / "explanation.json")
    assert ExplanationReport.read(tmp_path / "explanation.json") == report


def test_ssim_is_that_of_wang_with_a_window_of_eleven_pixels():
    one, other = nodules()[2][3, 0].astype(float), anything(5)[3, 0].astype(float)
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def local(values: np.ndarray) -> np.ndarray:
        return convolve2d(values, window, mode="same", boundary="symm")

    a, b = local(one), local(other)
    shared = local(one * other) - a * b
    spread = local(one**2) - a**2 + local(other**2) - b**2
    expected = (2 * a * b + 1e-4) * (2 * shared + 9e-4) / ((a**2 + b**2 + 1e-4) * (spread + 9e-4))
    assert ssim(one[None, None], other[None, None], dims=2)[0] == pytest.approx(expected.mean(), abs=1e-9)


def test_the_baseline_pairs_nodules_of_different_patients():
    maps = np.repeat(anything(0)[::2], 2, axis=0)
    assert ssim(maps[:1], maps[1:2], dims=2)[0] == pytest.approx(1)
    assert pair_baseline(maps, PATIENTS, dims=2, seed=0).max() < 0.95


def test_energy_and_pointing_of_a_plain_case():
    maps = np.zeros((1, 1, 4, 4))
    maps[0, 0, 0, 0], maps[0, 0, 3, 3] = 3, 1
    mask = np.zeros((1, 1, 4, 4), dtype=bool)
    mask[0, 0, 0, 0] = True
    assert energy_in_mask(maps, mask)[0] == 0.75
    assert pointing_game(maps, mask)[0] == 1
    assert pointing_game(maps, ~mask)[0] == 0


def test_a_nodule_that_would_still_cover_the_middle_is_not_moved():
    radius = np.array([2.0, 9.0, 9.1, 30.0, np.nan])
    assert movable(radius, SIDE, 0.25).tolist() == [True, True, False, False, False]


def test_rank_correlation_and_kappa_are_those_of_scipy_and_scikit_learn_also_under_resampling():
    rng = np.random.default_rng(0)
    readers = np.round(rng.uniform(1, 5, 60) * 3) / 3
    predicted = np.clip(readers + rng.normal(0, 1, 60), 1, 5)
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=3).astype(float)
    counts[0] = 1
    for row, rho, kappa in zip(
        counts,
        weighted_spearman(predicted, readers, counts),
        weighted_kappa(predicted, readers, counts, top=5),
        strict=True,
    ):
        drawn = np.repeat(np.arange(60), row.astype(int))
        assert rho == pytest.approx(spearmanr(predicted[drawn], readers[drawn]).statistic)
        steps = [np.floor(values[drawn] + 0.5).astype(int) for values in (predicted, readers)]
        assert kappa == pytest.approx(cohen_kappa_score(*steps, weights="quadratic", labels=range(1, 6)))


def test_a_concept_has_figures_with_intervals_and_says_where_it_has_none():
    rng = np.random.default_rng(0)
    readers = rng.uniform(1, 5, 40)
    rows = {
        "spiculation": (np.clip(readers + rng.normal(0, 0.5, 40), 1, 5), readers),
        "margin": (np.full(40, 3.0), readers),
        LOG_DIAMETER: (readers + 3, np.where(np.arange(40) < 3, np.nan, readers + 2)),
    }
    table = pd.concat(
        pd.DataFrame(
            {
                "patch_id": [f"p{number}" for number in range(40)],
                "nodule_id": "n",
                "patient_key": [f"k{number // 2}" for number in range(40)],
                "concept": name,
                "predicted": predicted,
                "readers": given,
            }
        )
        for name, (predicted, given) in rows.items()
    )
    spiculation, margin, diameter = concept_figures(table, EvaluateParams(bootstrap=200))
    assert spiculation.spearman.low < spiculation.spearman.value < spiculation.spearman.high
    assert spiculation.unit == "1-5"
    assert margin.spearman.value is None
    assert "same everywhere" in margin.spearman.note
    assert diameter.mean_absolute_error.value == pytest.approx(1)
    assert diameter.mean_absolute_error.n == 37
    assert diameter.kappa.note == "not a rating"


def test_outputs_become_ratings_and_millimetres():
    assert in_own_unit("spiculation", np.array([0, 0.55, 1])).tolist() == pytest.approx([1, 3.2, 5])
    assert in_own_unit("calcification", np.array([1.0]))[0] == 6
    assert in_own_unit(LOG_DIAMETER, np.array([0, 0.5, 1])).tolist() == pytest.approx([3, np.sqrt(150), 50])
    assert concept_words("spiculation", 3.21) == "3.2 of 5 (1 none, 5 marked)"
    assert concept_words("calcification", 6.0) == "6.0 of 6 (1 popcorn, 6 absent)"
    assert set(SCALE_ENDS) == set(RATINGS)
    assert concept_words(LOG_DIAMETER, 8.14) == "8.1 mm"
