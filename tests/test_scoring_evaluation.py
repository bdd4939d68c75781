"""The report of a run: what is in it, what is counted, and what its reader is warned of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import ContractError
from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ConformalQuantiles
from data_contracts.params import EvaluateParams
from pipeline.scoring.delong import delong_paired
from pipeline.scoring.evaluation import build_report

ABOUT = {
    "run_id": "run",
    "dataset_id": "dataset",
    "backbone": "resnet18",
    "weights": "auto",
    "pretrained": True,
    "protocol": "held-out test patients",
}


def held_out(n=120, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    diameter = np.exp(rng.normal(2.1 + 0.5 * label, 0.4))
    score = 1 / (1 + np.exp(-(2 * label - 1 + rng.normal(size=n))))
    return pd.DataFrame(
        {
            "patch_id": [f"patch{i}" for i in range(n)],
            "nodule_id": [f"nodule{i}" for i in range(n)],
            "patient_key": [f"patient{i // 2}" for i in range(n)],
            "split": "test",
            "fold": 0,
            "site": np.where(np.arange(n) < n // 2, "a", "b"),
            "label": pd.array(label, dtype="Int8"),
            "score": score,
            "score_size": diameter / (diameter + 10),
            "score_image": score**2,
            "diameter_mm": diameter,
        }
    )


def report(table, **more):
    return build_report(
        table, **{**ABOUT, "thresholds": {"specificity_0.90": 0.7}, "params": EvaluateParams(bootstrap=100), **more}
    )


def test_every_score_has_figures_on_every_site_and_on_all():
    found = report(held_out())
    assert [(row.site, row.score) for row in found.figures] == [
        (site, score) for site in ("all", "a", "b") for score in ("score_size", "score_image", "score")
    ]
    assert (found.n_patients, found.n_nodules, found.n_indeterminate, found.warnings) == (60, 120, 0, ())
    assert found.find("score", "a").auc.n == 60


def test_the_difference_from_size_is_paired_on_the_same_nodules():
    table = held_out()
    expected = delong_paired(table["label"].to_numpy(dtype=int), table["score"], table["score_size"])
    assert report(table).size_auc_difference.value == pytest.approx(expected.difference)


def test_the_frozen_threshold_belongs_to_its_score():
    table = held_out()
    found = report(table, baseline_thresholds={"score_size": {"specificity_0.90": 0.6}})
    assert found.find("score").threshold == 0.7
    benign, malignant = (table.loc[table["label"] == label, "score"] for label in (0, 1))
    assert found.find("score").sensitivity.value == pytest.approx((malignant >= 0.7).mean())
    assert found.find("score", "b").specificity.n == 30
    assert found.find("score").specificity.value == pytest.approx((benign < 0.7).mean())
    assert found.find("score_size").threshold == 0.6
    assert found.find("score_image").sensitivity is None


def test_indeterminate_nodules_are_counted_and_in_no_figure():
    table = held_out()
    table.loc[:9, "label"] = pd.NA
    found = report(table)
    assert (found.n_nodules, found.n_indeterminate) == (110, 10)
    assert found.find("score").auc.n == 110
    assert "10 indeterminate nodules are in no figure." in found.warnings


def test_unknown_diameters_small_sites_and_random_weights_are_warned_of():
    table = held_out(40)
    table.loc[:4, ["diameter_mm", "score_size"]] = np.nan
    warnings = report(table, pretrained=False, weights="none", warnings=("first",)).warnings
    assert warnings[0] == "first"
    for part in ("random numbers (weights = 'none')", "5 nodules have no diameter", "Only 20 labelled nodules on site"):
        assert any(part in warning for warning in warnings), part


def test_networks_that_were_not_chosen_stand_beside():
    found = report(held_out(), alternatives={"source-only": held_out(seed=1)})
    assert len(found.alternatives["source-only"]) == 9
    assert found.alternatives["source-only"][2].auc != found.find("score").auc


@pytest.mark.parametrize("kept", [[], [0], [1]], ids=["no rows", "benign only", "malignant only"])
def test_one_class_or_nothing_still_makes_a_report(kept):
    table = held_out()
    found = report(table[table["label"].isin(kept)])
    assert found.find("score").auc.value is None and found.find("score").auc.note
    assert found.size_auc_difference.value is None
    assert EvaluationReport.model_validate_json(found.model_dump_json()) == found


def test_a_site_without_any_diameter_has_no_size_figures_and_no_exception():
    table = held_out()
    table[["diameter_mm", "score_size"]] = np.nan
    found = report(table)
    assert found.find("score_size").auc.value is None
    assert found.size_auc_difference.value is None
    assert found.find("score").size_matched_auc.value is None
    assert found.find("score").auc.value > 0.8


def test_a_table_that_breaks_the_contract_is_refused():
    with pytest.raises(ContractError):
        report(held_out().assign(score=2.0))
    with pytest.raises(ContractError):
        report(held_out(), alternatives={"other": held_out().drop(columns="site")})


QUANTILES = ConformalQuantiles(alpha=0.1, benign=0.6, malignant=0.6, n_benign=40, n_malignant=40)
NEW_FIELDS = ("size_auc_difference_delong", "subgroups", "conformal", "source_minus_target")
NEW_FIGURES = ("auc_clustered", "calibration_slope", "calibration_intercept", "operating_points", "net_benefit")


def test_a_report_has_subgroups_operating_points_net_benefit_and_conformal_coverage():
    frozen = {"specificity_0.80": 0.5, "specificity_0.90": 0.7, "sensitivity_0.95": 0.2}
    found = report(held_out(), thresholds=frozen, conformal=QUANTILES, source_site="a", target_site="b")
    figures = found.find("score")
    assert [point.name for point in figures.operating_points] == list(frozen)
    assert figures.operating_points[1].sensitivity == figures.sensitivity
    assert len(figures.net_benefit) == 20
    by_site = {row.level: row for row in found.subgroups if row.variable == "site"}
    assert by_site["a"].auc == found.find("score", "a").auc_clustered
    assert by_site["b"].sensitivity == found.find("score", "b").sensitivity
    difference = found.find("score", "a").auc.value - found.find("score", "b").auc.value
    assert found.source_minus_target.value == pytest.approx(difference)
    assert found.conformal.alpha == 0.1 and found.conformal.coverage.n == 120
    assert EvaluationReport.from_json(found.to_json()) == found


def test_a_report_without_sites_or_quantiles_leaves_their_figures_out():
    found = report(held_out())
    assert found.source_minus_target is None and found.conformal is None
    assert report(held_out(), source_site="a", target_site="elsewhere").source_minus_target is None


def test_predictions_of_the_source_are_compared_with_a_table_that_is_all_target():
    source, target = held_out(seed=1), held_out(seed=2)
    target["patient_key"] = "other " + target["patient_key"]
    found = report(target, source=source)
    expected = report(source).find("score").auc.value - found.find("score").auc.value
    assert found.source_minus_target.value == pytest.approx(expected)


def test_the_difference_from_size_has_an_interval_for_patients_and_one_for_nodules():
    table = held_out()
    found = report(table)
    assert found.size_auc_difference.value == found.size_auc_difference_delong.value
    paired = delong_paired(table["label"].to_numpy(dtype=int), table["score"], table["score_size"])
    half = 1.959964 * np.sqrt(paired.variance)
    assert found.size_auc_difference_delong.low == pytest.approx(paired.difference - half, abs=1e-6)


def test_too_few_validation_nodules_for_the_sets_are_warned_of():
    few = QUANTILES.model_copy(update={"malignant": 1.0, "n_malignant": 5})
    assert "Only 5 malignant validation nodules: too few to say of any nodule that it is not malignant." in (
        report(held_out(), conformal=few).warnings
    )


def test_a_report_from_before_is_read():
    body = report(held_out()).model_dump(mode="json")
    for name in NEW_FIELDS:
        del body[name]
    for row in body["figures"]:
        for name in NEW_FIGURES:
            del row[name]
    old = EvaluationReport.model_validate(body)
    assert old.subgroups == () and old.find("score").net_benefit == () and old.find("score").auc_clustered is None
