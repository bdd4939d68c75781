"""Figures beside those of other libraries on one small table.

MONAI is a dependency and is asked; the numbers of the others were computed once and stand here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import (
    CalibrationErrorMetric,
    compute_average_precision,
    compute_confusion_matrix_metric,
    compute_roc_auc,
    get_confusion_matrix,
)

from data_contracts.params import EvaluateParams
from pipeline.scoring.calibration_figures import recalibration_figures
from pipeline.scoring.conformal import conformal_calls, fit_conformal
from pipeline.scoring.decision_curve import net_benefit
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.figures import expected_calibration_error, score_figures
from pipeline.scoring.subgroups import subgroup_figures

_ROW = np.arange(120)
LABELS = ((_ROW * _ROW + 3 * _ROW) % 7 < 3).astype(np.int64)
SCORES = np.round(np.clip(0.55 * ((37 * _ROW * _ROW + 11 * _ROW) % 997) / 997 + 0.35 * LABELS + 0.03, 0.01, 0.99), 3)
PATIENTS = np.array([f"patient{row // 2}" for row in _ROW], dtype=object)


def test_delongs_interval_is_that_of_confidenceinterval():
    # confidenceinterval 1.0.5: roc_auc_score(LABELS, SCORES, method="delong")
    figure = auc_figure(LABELS, SCORES)
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.9626892, 0.9316006, 0.9937774), abs=1e-6)


def test_net_benefit_is_that_of_dcurves():
    # dcurves 1.1.7: dca(data, "y", ["m"], thresholds), rows "m" and "all"
    expected = {0.05: (0.256140, 0.254386), 0.10: (0.228704, 0.212963), 0.20: (0.175000, 0.114583)}
    found = {point.threshold: point for point in net_benefit(LABELS, SCORES, PATIENTS)}
    assert list(found) == [round(k / 100, 2) for k in range(1, 21)]
    for threshold, (model, everybody) in expected.items():
        assert found[threshold].model.value == pytest.approx(model, abs=5e-7)
        assert found[threshold].treat_all == pytest.approx(everybody, abs=5e-7)


def test_calibration_slope_and_intercept_are_those_of_statsmodels():
    # statsmodels 0.15.0: Logit(LABELS, add_constant(logit(SCORES))); errors clustered by patient 0.340552, 0.915465
    slope, intercept = recalibration_figures(LABELS, SCORES, PATIENTS)
    assert (intercept.value, slope.value) == pytest.approx((-0.54859121, 4.26717965), abs=1e-7)
    quantile = 2 * 2.000995  # Student's t for 60 patients
    # The jackknife is a little wider than the sandwich, as it should be on few patients.
    assert (intercept.high - intercept.low) / quantile == pytest.approx(0.340552, rel=0.12)
    assert (slope.high - slope.low) / quantile == pytest.approx(0.915465, rel=0.15)
    assert (slope.high - slope.low) / quantile > 0.915465


def test_the_calibration_error_is_that_of_netcal():
    # netcal 1.4.0: ECE(10).measure(SCORES, LABELS)
    assert expected_calibration_error(LABELS, SCORES, bins=10) == pytest.approx(0.182725, abs=1e-9)


def test_sensitivity_and_specificity_of_subgroups_are_those_of_fairlearn():
    # fairlearn 0.15.0: MetricFrame of true_positive_rate and true_negative_rate, called from 0.5 on, by site
    expected = {"a": (0.909091, 0.965517), "b": (0.833333, 0.892857), "c": (0.916667, 0.821429)}
    rows = pd.DataFrame(
        {
            "label": LABELS,
            "score": SCORES,
            "score_size": np.nan,
            "diameter_mm": np.nan,
            "patient_key": PATIENTS,
            "site": np.array(["a", "b", "c"])[_ROW % 3],
        }
    )
    found = {row.level: row for row in subgroup_figures(rows, EvaluateParams(), 0.5) if row.variable == "site"}
    for level, (sensitivity, specificity) in expected.items():
        assert found[level].sensitivity.value == pytest.approx(sensitivity, abs=5e-7)
        assert found[level].specificity.value == pytest.approx(specificity, abs=5e-7)


def test_prediction_sets_hold_as_many_nodules_as_those_of_mapie():
    # mapie 1.6.0: SplitConformalClassifier(lac, 0.9) conformalised on the benign alone: 83 sets of 120 hold benign;
    # on the malignant alone: 55 hold malignant
    quantiles = fit_conformal(SCORES, LABELS, alpha=0.1)
    assert quantiles is not None
    assert int((quantiles.benign >= SCORES).sum()) == 83
    assert int((quantiles.malignant >= 1 - SCORES).sum()) == 55
    calls = conformal_calls(quantiles, SCORES)
    both = int(((quantiles.benign >= SCORES) & (quantiles.malignant >= 1 - SCORES)).sum())
    assert (calls == "benign").sum() == 83 - both


def test_auc_average_precision_calls_and_calibration_error_are_those_of_monai():
    rows = pd.DataFrame(
        {
            "label": LABELS,
            "score": SCORES,
            "diameter_mm": 8.0 + _ROW % 5,
            "patient_key": PATIENTS,
            "site": "a",
        }
    )
    found = score_figures(rows, "score", "all", EvaluateParams(), 0.5)
    scores, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    assert found.auc.value == pytest.approx(compute_roc_auc(scores, labels), abs=1e-9)
    assert found.average_precision.value == pytest.approx(compute_average_precision(scores, labels), abs=1e-9)
    calls = get_confusion_matrix((scores >= 0.5).long()[:, None, None], labels[:, None, None]).sum(dim=0)
    for name in ("sensitivity", "specificity"):
        expected = compute_confusion_matrix_metric(name, calls)
        assert getattr(found, name).value == pytest.approx(float(expected), abs=1e-7)  # float32
    metric = CalibrationErrorMetric(num_bins=10, calibration_reduction="expected")
    metric(scores[None, None], labels[None, None])
    assert expected_calibration_error(LABELS, SCORES, bins=10) == pytest.approx(float(metric.aggregate()), abs=1e-6)
