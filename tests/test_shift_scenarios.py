"""A fast part of the scenario suite: the same code as `make bench WHAT=adaptation`, fewer nodules, two sites."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))

from adaptation_fits import Fitted, fit_networks
from adaptation_scenarios import HOME, Objects, Scanner, cohort_of, draw_objects, scan, scenarios
from bench_adaptation import Judged, gain, judge

SEED = 3
NO_SHIFT, SHARP_AND_NOISY = scenarios()[0], scenarios()[24]


@pytest.fixture(scope="module")
def objects() -> Objects:
    return draw_objects(limit=320)


def test_there_are_thirty_scenarios_and_the_first_is_no_shift() -> None:
    assert len({str(one) for one in scenarios()}) == 30
    assert NO_SHIFT.scanner == HOME and NO_SHIFT.prevalence == "same"
    assert sum(one.prevalence == "few malignant" for one in scenarios()) == 10


def test_a_scenario_is_the_same_for_the_same_seed_and_another_for_another(objects: Objects) -> None:
    first, again, other = (cohort_of(SHARP_AND_NOISY, seed, objects) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test.patches, again.test.patches)
    assert first.test.patches.shape != other.test.patches.shape or (first.test.patches != other.test.patches).any()


def test_malignant_nodules_are_removed_from_the_unlabelled_set_alone(objects: Objects) -> None:
    few = cohort_of(scenarios()[1], SEED, objects)
    assert few.target.labels.mean() < 0.3
    assert few.test.labels.mean() > 0.3 and few.train.labels.mean() > 0.3


def test_a_sharper_kernel_and_less_dose_are_seen_in_the_patches(objects: Objects) -> None:
    soft, sharp = (
        scan(objects.hu[0], Scanner(kernel, noise_hu, 1.25), np.random.default_rng(0)).astype(float)
        for kernel, noise_hu in (("soft", 18.0), ("sharp", 140.0))
    )
    differences = [np.abs(np.diff(patch, axis=-1)).mean() for patch in (soft, sharp)]
    assert differences[1] > 4 * differences[0]


@pytest.mark.parametrize("scenario", [NO_SHIFT, SHARP_AND_NOISY], ids=str)
def test_the_choice_is_never_much_worse_than_source_only(scenario, objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "networks.npz"
    fit_networks(cohort_of(scenario, SEED, objects), ("adabn", "mcc"), SEED).write(path)
    fitted = Fitted.read(path)
    assert list(fitted.networks) == ["source-only", "adabn", "mcc"]
    judged = judge(path, str(scenario))
    assert judged.auc[judged.chosen] >= judged.auc["source-only"] - 0.01
    if scenario is NO_SHIFT:
        assert judged.chosen == "source-only"


def test_the_gain_is_what_was_chosen_against_what_could_have_been() -> None:
    judged = [
        Judged("a", "mcc", "", {"source-only": 0.80, "mcc": 0.88, "dann": 0.90}, {"source-only": 0.5}),
        Judged("b", "source-only", "", {"source-only": 0.85, "mcc": 0.80, "dann": 0.84}, {"source-only": 0.5}),
    ]
    found = gain(judged, "auc")
    assert found.gained == pytest.approx(0.08) and found.possible == pytest.approx(0.10)
    assert found.share == pytest.approx(0.8) and found.worst == 0
    assert found.best_method == "dann" and found.its_gain == pytest.approx(0.09)
