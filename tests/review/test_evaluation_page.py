"""The evaluation page shows every figure beside the size baseline, and the plots agree with scikit-learn."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc, roc_auc_score

from data_contracts.evaluation import SCORES, AdaptationDecision, EvaluationReport, Figure, ScoreFigures
from pipeline.review.evaluation_page import render_evaluation
from pipeline.review.plots import prediction_plots, reliability_points, roc_points


def _rows(shift: float) -> tuple[ScoreFigures, ...]:
    def figure(value: float | None, note: str = "") -> Figure:
        if value is None:
            return Figure(value=None, n=3, note=note)
        return Figure(value=value, low=value - 0.05, high=value + 0.05, n=84, n_positive=38, method="DeLong")

    return tuple(
        ScoreFigures(
            score=score,
            site=site,
            auc=figure(0.8 + 0.03 * index + shift),
            auc_bootstrap=figure(0.8),
            average_precision=figure(0.7),
            size_matched_auc=figure(None, "3 pairs are too few"),
            brier=figure(0.12),
            ece=figure(0.05),
            threshold=0.61,
            sensitivity=figure(0.8),
            specificity=figure(0.9),
        )
        for site in ("site-a", "all")
        for index, score in enumerate(SCORES)
    )


@pytest.fixture
def report() -> EvaluationReport:
    return EvaluationReport(
        run_id="run-1",
        dataset_id="dataset-1",
        backbone="resnet50",
        weights="none",
        pretrained=False,
        protocol="held-out patients",
        n_patients=21,
        n_nodules=84,
        n_indeterminate=9,
        figures=_rows(0.0),
        alternatives={"dann": _rows(-0.1)},
        adaptation=AdaptationDecision(
            method="dann",
            chosen="source-only",
            adapted=False,
            reasons=("agreement on target 0.66 is below 0.70",),
            figures={"dann": {"agreement": 0.66}},
        ),
        warnings=("Few <patients>.",),
    )


@pytest.fixture
def predictions() -> pd.DataFrame:
    source = np.random.default_rng(1)
    label = source.integers(0, 2, 90)
    score = np.clip(0.5 + 0.2 * (label - 0.5) + source.normal(0, 0.2, 90), 0, 1).round(2)
    return pd.DataFrame(
        {
            "label": pd.array([*label[:-2], None, None], dtype="Int8"),
            "score": score,
            "score_size": source.random(90),
            "score_image": [np.nan] * 4 + [0.4] * 86,
            "diameter_mm": [np.nan, *source.uniform(4, 30, 89)],
        }
    )


def test_every_score_of_every_site_stands_with_its_interval(report):
    html = render_evaluation(report)
    text = re.sub(r"<[^>]+>", " ", html)
    for words in (
        "0.800 [0.750-0.850]", "0.860 [0.810-0.910]", "size only", "image only", "image + size", "all sites", "site-a",
        "3 pairs are too few", "0.90 [0.85-0.95]", "84 (38)", "Frozen threshold of image + size: 0.610", "source-only",
        "agreement on target 0.66 is below 0.70", "0.760 [0.710-0.810]", "random weights", "9 more without a label",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("all sites") < text.index("site-a")
    assert "Few &lt;patients&gt;." in html


def test_the_page_loads_nothing_and_runs_nothing(report, predictions):
    html = render_evaluation(report, predictions)
    assert html.count("<svg") == 3
    assert not re.search(r"https?:|<script|<img|<link|url\(| style=", html)


def test_the_roc_curve_encloses_the_area_that_scikit_learn_gives(predictions):
    known = predictions[predictions["label"].notna()]
    label = known["label"].to_numpy(dtype=np.int64)
    points = roc_points(known["score"].to_numpy(), label)
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(roc_auc_score(label, known["score"]), abs=1e-12)
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]


def test_reliability_counts_every_nodule_once():
    score = np.array([0.0, 0.04, 0.55, 1.0])
    points = reliability_points(score, np.array([0, 1, 1, 1]), 10)
    assert points == [(0.02, 0.5, 2), (0.55, 1.0, 1), (1.0, 1.0, 1)]


def test_labels_of_one_class_or_none_give_no_plots(predictions):
    assert prediction_plots(predictions.assign(label=pd.array([1] * 90, dtype="Int8"))) == []
    assert prediction_plots(predictions.iloc[:0]) == []
