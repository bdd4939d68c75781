"""Every figure of an evaluation reaches the tracking server, under a name it takes."""

from __future__ import annotations

import math

import pytest
from full_report import figure, full_report, score_row, subgroup
from mlflow.utils.validation import _validate_metric_name

from data_contracts.evaluation import EvaluationReport, Figure
from pipeline.review.metric_rows import metric_rows, safe_part

HOSTILE = (
    "<6 mm",
    ">=15 mm",
    "",
    "..",
    "/",
    "a/../b",
    "Köln\u202e",
    "x" * 400,
    "GE MEDICAL SYSTEMS",
    "a\nb",
    "100 %",
    "a:b",
)


def _figures(value: object) -> list[Figure]:
    """Every figure anywhere in a record."""
    if isinstance(value, Figure):
        return [value]
    if isinstance(value, dict):
        return [one for item in value.values() for one in _figures(item)]
    if isinstance(value, tuple):
        return [one for item in value for one in _figures(item)]
    if hasattr(value, "model_fields"):
        return [one for name in type(value).model_fields for one in _figures(getattr(value, name))]
    return []


def test_every_figure_is_there_with_its_interval_and_n():
    report = full_report()
    rows = dict(metric_rows(report))
    known = [one for one in _figures(report) if one.value is not None]
    for suffix in ("_low", "_high", "_n"):
        assert sum(name.endswith(suffix) for name in rows) == len(known)
    assert rows["test/all/score/auc"] == pytest.approx(0.86)
    assert rows["test/all/score/auc_low"] == pytest.approx(0.82)
    assert rows["test/all/score/auc_n"] == 120
    assert rows["test/site-a/score_size/net_benefit/0.05_treat_all"] == pytest.approx(0.325)
    assert rows["test/all/score/sensitivity_0.95/specificity_high"] == pytest.approx(0.45)
    assert rows["subgroups/diameter/lt 6 mm/size_auc"] == pytest.approx(0.7)
    assert rows["conformal/class/malignant/abstention"] == pytest.approx(0.2)
    assert rows["alternatives/dann/all/score/brier"] == pytest.approx(0.12)
    assert rows["adaptation/dann/agreement"] == pytest.approx(0.66)
    assert rows["test/source_minus_target"] == pytest.approx(0.08)


def test_a_figure_that_could_not_be_computed_is_no_metric():
    report = full_report(
        figures=(score_row("score", size_matched=None),), size_auc_difference=figure(None), alternatives={}
    )
    rows = dict(metric_rows(report))
    assert not any("size_matched" in name or "size_auc_difference_n" in name for name in rows)
    assert all(math.isfinite(value) for value in rows.values())


@pytest.mark.parametrize("name", HOSTILE)
def test_the_server_takes_the_name_of_any_site_and_level(name):
    report = full_report(figures=(score_row("score", name),), subgroups=(subgroup("kernel", name),))
    for metric, _ in metric_rows(report):
        _validate_metric_name(metric)
        assert metric.isascii() and len(metric) <= 250


def test_names_that_differ_stay_apart():
    names = [*HOSTILE, "lt 6 mm", "le 6 mm", "<=6 mm", "< 6 mm", "a_b", "a/b", "a b", "a  b", " a b", "K_ln"]
    assert len({safe_part(name) for name in names}) == len(names)


def test_an_evaluation_of_before_has_metrics_too(tmp_path):
    path = tmp_path / "evaluation.json"
    full_report(subgroups=(), conformal=None, source_minus_target=None).write(path)
    assert dict(metric_rows(EvaluationReport.read(path)))["test/n_nodules"] == 120
