"""Drift: the kernel test, the stability index and the verdict, on samples whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from data_contracts.drift import NAMES, NUMBERS
from data_contracts.errors import UsageError
from data_contracts.params import DriftParams
from pipeline.imaging.noise import noise_of, noise_of_patches
from pipeline.scoring.drift import drift_checks, overall
from pipeline.scoring.kernel_test import median_bandwidth, mmd_squared, mmd_test, rbf
from pipeline.scoring.patient_exchange import PatientExchange
from pipeline.scoring.stability import bins_of, psi, stability_test

QUICK = DriftParams(permutations=1999)


def sample(seed: int, n_patients: int, **changes: object) -> pd.DataFrame:
    """Patients with one to three nodules that resemble each other; every feature is known."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    own = rng.normal(size=(n_patients, 6))[patients]
    table = pd.DataFrame({"patient": patients, "series": patients})
    table["embedding"] = list(own + 0.5 * rng.normal(size=own.shape))
    table["score"] = 1 / (1 + np.exp(-own[:, 0]))
    for name in NUMBERS:
        table[name] = rng.normal(10, 1, n_patients)[patients]
    for name in NAMES:
        table[name] = rng.choice(["one", "two"], n_patients)[patients]
    return table.assign(**changes)


def test_the_discrepancy_is_that_of_monai_and_of_the_sums_in_the_paper() -> None:
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.normal(size=(7, 4)), rng.normal(0.7, 1.3, size=(7, 4))])
    kernel = rbf(points, 1.7)
    by_hand = 0.0
    for i in range(14):
        for j in range(14):
            value = np.exp(-np.sum((points[i] - points[j]) ** 2) / (2 * 1.7**2))
            if (i < 7) != (j < 7):
                by_hand -= value / 49  # both orders: 2 / (n m)
            elif i != j:
                by_hand += value / 42
    assert mmd_squared(kernel, 7) == pytest.approx(by_hand, abs=1e-12)
    # MONAI 1.6.1 compute_mmd, whose kernel is the inner product, of the rows of the Cholesky factor of this kernel
    assert mmd_squared(kernel, 7) == pytest.approx(0.1494461966370111, abs=1e-12)


def test_the_bandwidth_is_the_median_distance_and_1_where_all_points_are_one() -> None:
    assert median_bandwidth(np.array([[0.0], [2.0]])) == pytest.approx(np.sqrt(2))
    assert median_bandwidth(np.zeros((5, 3))) == 1.0


def test_permutations_over_sums_of_patients_give_what_the_whole_matrix_gives() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(12, 3)), rng.normal(size=(9, 3))
    exchange = PatientExchange(np.repeat(np.arange(6), 2), np.repeat(np.arange(3), 3), draws=20, seed=1)
    result = mmd_test(ours, theirs, exchange)
    points = np.concatenate([ours, theirs])
    kernel = rbf((points - points.mean(axis=0)) / points.std(axis=0), result.bandwidth)
    values = []
    for chosen in exchange.chosen:
        inside = chosen[exchange.patient] == 1
        order = np.concatenate([np.flatnonzero(~inside), np.flatnonzero(inside)])
        values.append(mmd_squared(kernel[np.ix_(order, order)], int((~inside).sum())))
    assert result.value == pytest.approx(mmd_squared(kernel, 12))
    assert result.p == pytest.approx((1 + np.count_nonzero(np.array(values) >= result.value - 1e-12)) / 21)


def test_nodules_of_one_patient_are_exchanged_together_so_that_their_likeness_is_no_drift() -> None:
    """Every nodule of a patient is nearly the same: exchanged one by one they would alarm far too often."""
    alarms = {"patients": 0, "nodules": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(20), 6)
        sides = [rng.normal(size=(20, 4))[patients] + 0.05 * rng.normal(size=(120, 4)) for _ in range(2)]
        for unit, names in (("patients", patients), ("nodules", np.arange(120))):
            exchange = PatientExchange(names, names, draws=99, seed=seed)
            alarms[unit] += mmd_test(sides[0], sides[1], exchange).p <= 0.05
    assert alarms["patients"] <= 6
    assert alarms["nodules"] >= 30


def test_psi_is_the_sum_over_bins_and_a_small_sample_has_its_own_share_taken_off() -> None:
    p, q = np.array([400.0, 600.0]), np.array([500.0, 500.0])
    assert psi(p, q) == pytest.approx(0.1 * np.log(1.25) - 0.1 * np.log(500 / 600), rel=0.01)
    rng = np.random.default_rng(0)
    raw, corrected = [], []
    for seed in range(30):
        column = pd.Series(rng.normal(size=130))
        exchange = PatientExchange(np.arange(100), np.arange(30), draws=299, seed=seed)
        bins, names = bins_of(column)
        found = stability_test(bins, len(names), exchange)
        raw.append(found.raw)
        corrected.append(found.value)
    assert np.mean(raw) > 0.1  # the usual bound of "watch", of samples that do not differ
    assert np.mean(corrected) < 0.07


def test_what_is_unknown_is_a_bin_of_its_own_and_few_values_are_bins_each() -> None:
    bins, names = bins_of(pd.Series([1.25, 2.5, np.nan, 2.5]))
    assert names[bins[2]] == "unknown"
    assert len({bins[0], bins[1], bins[2]}) == 3
    bins, names = bins_of(pd.Series(["B30f", "", "B70f"]))
    assert [names[number] for number in bins] == ["B30f", "unknown", "B70f"]


def test_samples_of_one_population_give_no_alarm_and_a_changed_one_is_named() -> None:
    reference = sample(0, 80)
    assert overall(drift_checks(reference, sample(1, 40), QUICK))[0] == "ok"
    other = sample(2, 40, kernel="BONE", kernel_family="sharp", noise=20.0)
    checks = drift_checks(reference, other, QUICK)
    verdict, reasons = overall(checks)
    assert verdict == "alert"
    raised = {check.name for check in checks if check.verdict == "alert"}
    assert {"kernel", "kernel_family", "noise"} <= raised
    assert "embeddings" not in raised
    assert any("'BONE' 0% in the reference, 100% now" in reason for reason in reasons)


def test_more_malignant_predictions_are_said_with_an_interval() -> None:
    shifted = sample(3, 60)
    shifted["score"] = 0.5 + shifted["score"] / 2
    check = next(one for one in drift_checks(sample(4, 80), shifted, QUICK) if one.name == "predicted prevalence")
    assert check.verdict == "alert"
    assert check.low is not None and check.high is not None and check.value is not None
    assert 0.1 < check.low < check.value < check.high


def test_embeddings_of_another_network_are_not_compared() -> None:
    other = sample(5, 40)
    other["embedding"] = [vector[:4] for vector in other["embedding"]]
    check = drift_checks(sample(6, 40), other, QUICK)[0]
    assert check.verdict == "too few"
    assert "not of one network" in check.detail


def test_a_difference_that_chance_excludes_but_nobody_needs_to_know_raises_nothing() -> None:
    reference, other = sample(7, 300), sample(8, 300)
    other["score"] = np.clip(other["score"] + 0.03, 0, 1)
    lenient = QUICK.model_copy(update={"level_watch": 0.49, "level_alert": 0.49})
    check = next(one for one in drift_checks(reference, other, lenient) if one.name == "predicted prevalence")
    assert abs(check.value or 0) < 0.1
    assert check.verdict != "alert"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"psi_watch": 0.3}, "psi_alert is below"),
        ({"level_alert": 0.2}, "level_alert is above"),
        ({"permutations": 999}, "needs at least 1100 permutations"),
    ],
)
def test_bounds_in_the_wrong_order_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DriftParams.from_mapping(values)


def test_noise_and_its_grain_are_measured_beside_an_edge_and_in_millimetres() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(0, 20, (8, 64, 64))
    white[:, :, 40:] += 800  # an edge is no noise
    noise, centroid = noise_of(white, 0.7)
    assert noise == pytest.approx(20, rel=0.25)
    assert centroid == pytest.approx(noise_of(white, 1.4)[1] * 2, rel=0.15)
    soft = np.stack([np.convolve(line, np.ones(3) / 3, mode="same") for line in white.reshape(-1, 64)])
    assert noise_of(soft.reshape(white.shape), 0.7)[1] < centroid


def test_patches_without_noise_or_too_small_for_a_region_have_none() -> None:
    noise, centroid = noise_of_patches(np.zeros((2, 3, 32, 32), dtype=np.int16), "2.5d", 1.0)
    assert np.isnan(noise).all() and np.isnan(centroid).all()
    assert np.isnan(noise_of(np.ones((1, 8, 8)), 1.0)).all()


def test_the_sharp_kernel_of_a_real_study_has_more_and_finer_noise(kernel_pair_dicom: Path) -> None:
    """One acquisition, reconstructed with B40f and with B70f: the middle of the body in the same ten slices."""
    found = {}
    for kernel in ("B40f", "B70f"):
        slices = [pydicom.dcmread(path) for path in sorted(kernel_pair_dicom.rglob("*.dcm"))]
        slices = sorted(
            (one for one in slices if one.ConvolutionKernel == kernel), key=lambda one: one.ImagePositionPatient[2]
        )
        planes = np.stack([one.pixel_array[192:320, 128:384] for one in slices[10:20]])
        found[kernel] = noise_of(planes, float(slices[0].PixelSpacing[0]))
    assert found["B70f"][0] > 2 * found["B40f"][0]
    assert found["B70f"][1] > 1.15 * found["B40f"][1]
