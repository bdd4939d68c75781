"""The evaluation page: a verdict that claims no more than its intervals, and every part or why it is missing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from full_report import figure, full_report, predictions, score_row, subgroup
from sklearn.metrics import roc_curve

from pipeline.review.evaluation_page import render_evaluation
from pipeline.review.plots import prediction_plots, roc_band, roc_points
from pipeline.review.report_plots import decision_curve, forest_range, forest_row
from pipeline.review.svg import Drawing
from pipeline.review.verdict import verdict

HOSTILE = "<script>alert(1)</script>\u202e & \"x\" 'y'"


def _text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]).split())


@pytest.mark.parametrize(
    ("difference", "level", "words"),
    [
        (figure(0.06, 0.03), "good", "The image adds to what size alone tells"),
        (figure(0.02, 0.03), "caution", "Not shown to be better than size alone"),
        (figure(-0.06, 0.03), "bad", "Worse than size alone"),
        (figure(None, note="no diameters"), "unknown", "No verdict against size"),
        (None, "unknown", "No verdict against size"),
    ],
)
def test_the_verdict_follows_the_interval_of_the_difference_to_size(difference, level, words):
    told = verdict(full_report(size_auc_difference=difference))
    assert told.level == level
    assert told.headline.startswith(words)


def test_the_verdict_says_what_each_interval_allows_and_no_more():
    text = " ".join(verdict(full_report()).sentences)
    assert "On 120 held-out nodules (48 malignant) of 70 patients" in text
    assert "0.860 [0.810 to 0.910]" in text  # the interval with patients together, not DeLong's
    assert "still tells malignant from benign better than chance" in text
    assert "too extreme (calibration slope 0.80 [0.70 to 0.90])" in text
    assert "worse on the target site" in text
    # the weakest of the groups that are large enough, not the flagged one that is weaker
    assert "weakest subgroup of at least 30 nodules is sex female" in text
    chance = full_report(figures=(score_row("score", size_matched=0.55), score_row("score_size")))
    assert "not shown to be better than chance" in " ".join(verdict(chance).sentences)


def test_without_any_figure_there_is_no_verdict():
    assert verdict(full_report(figures=())).headline == "No verdict: no figures of image + size"
    one_class = score_row("score").model_copy(update={"auc": figure(None, note="no malignant nodule")})
    assert verdict(full_report(figures=(one_class,))).headline == "No verdict: no malignant nodule"


def test_every_part_of_a_full_report_is_on_the_page():
    page = render_evaluation(full_report(), predictions())
    text = _text(page)
    for words in (
        "The image adds", "ROC, all sites", "Reliability, image + size", "Decision curve, all sites",
        "Probability by diameter", "Sensitivity 0.95 on validation", "0.94 [0.90-0.98]", "Calibration slope",
        "60 (20)", "30 patients", "≥15 mm", "few", "Source-only against adapted",
        "AUC on the source site minus AUC on the target site: +0.080 [+0.030 to +0.130]",
        "benign, malignant or uncertain",
        "no more than 10 % of its nodules", "below 90 %", "Predicted concepts", "Few patients",
    ):  # fmt: skip
        assert words in text, words
    assert page.count("<svg") == 4 + 1 + 3  # plots, the scale of the forest, its rows
    assert page.count('role="img" aria-label="') == page.count("<svg")
    assert not re.search(r"https?:|<script|<img|<link|url\(| style=", page)
    assert len(page) < 1_500_000


def test_a_report_of_before_says_what_it_lacks_and_how_to_get_it():
    bare = score_row("score").model_copy(update={"net_benefit": (), "operating_points": (), "calibration_slope": None})
    text = _text(
        render_evaluation(
            full_report(
                figures=(bare,),
                subgroups=(),
                conformal=None,
                source_minus_target=None,
                adaptation=None,
                alternatives={},
            )
        )
    )
    for words in (
        "No such plots: it was written without the predictions", "No decision curve", "noduleflow evaluate VERSION",
        "No table of operating points", "No subgroups", "No figure of source against target",
        "No adaptation to another site was asked for", "No prediction sets", "not computed",
    ):  # fmt: skip
        assert words in text, words


def test_names_of_sites_and_scanners_are_text_and_nothing_else():
    rows = (subgroup("manufacturer", HOSTILE), subgroup("site", "s" * 500))
    sites = tuple(score_row(score, HOSTILE) for score in ("score", "score_size"))
    page = render_evaluation(full_report(subgroups=rows, figures=sites, warnings=(HOSTILE,), protocol=HOSTILE), None)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "s" * 61 not in _text(page)


def test_the_band_of_the_roc_holds_the_curve_and_narrows_with_patients():
    def width(n: int) -> float:
        table = predictions(n)
        score, label = table["score"].to_numpy(), table["label"].to_numpy(dtype=np.int64)
        low, high = roc_band(score, label, table["patient_key"].to_numpy())
        false_positives, true_positives, _ = roc_curve(label, score)
        curve = np.interp(np.linspace(0, 1, len(low)), false_positives, true_positives)
        assert np.mean((low <= curve + 1e-9) & (curve <= high + 1e-9)) > 0.95
        return float((high - low).mean())

    assert width(1200) < 0.6 * width(120)


def test_thousands_of_nodules_give_a_page_that_is_still_small():
    plots = prediction_plots(predictions(8000))
    assert sum(len(plot.drawing) for plot in plots) < 400_000
    assert "3000 of 8000 nodules are drawn" in plots[2].caption


def test_the_decision_curve_draws_nothing_outside_its_frame():
    drawing = decision_curve(full_report()).drawing
    assert drawing is not None
    for points in re.findall(r'points="([^"]+)"', drawing):
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 400 and 0 <= y <= 360, pair


def test_a_line_is_cut_where_it_leaves_the_frame():
    drawing = Drawing((0, 1), (0, 1), width=200, height=200, left=0, right=0, top=0, bottom=0)
    drawing.line([0, 1], [-1, 1], "s0")
    (points,) = re.findall(r'points="([^"]+)"', drawing.render("a", "b", [], [], alt="c"))
    assert points == "100.0,200.0 200.0,0.0"


def test_the_forest_has_one_scale_that_holds_every_interval():
    rows = (subgroup("sex", "female", auc=0.33), subgroup("sex", "male", auc=0.9))
    scale = forest_range(rows)
    assert scale == (pytest.approx(0.2), 1.0)
    places = [float(re.findall(r'cx="([\d.]+)"', forest_row(row, scale, 0.8))[0]) for row in rows]
    assert places[0] < places[1]


def test_roc_points_of_ties_agree_with_scikit_learn():
    table = predictions()
    score = table["score"].round(1).to_numpy()
    label = table["label"].to_numpy(dtype=np.int64)
    expected = np.column_stack(roc_curve(label, score, drop_intermediate=False)[:2])
    np.testing.assert_allclose(roc_points(score, label), expected)


def test_what_is_known_of_no_nodule_is_named_once_and_is_no_group():
    rows = (subgroup("diameter", "<6 mm"), subgroup("texture", "unknown", auc=0.4), subgroup("kernel", "unknown"))
    report = full_report(subgroups=rows, conformal=None)
    text = _text(render_evaluation(report))
    assert "Not known of any nodule here: texture, kernel." in text
    assert "Texture" not in text
    assert "diameter <6 mm" in " ".join(verdict(report).sentences)


def test_probabilities_that_are_surely_off_are_called_so():
    off = score_row("score").model_copy(update={"ece": figure(0.25, 0.1)})
    assert "off by more than 0.05" in " ".join(verdict(full_report(figures=(off, score_row("score_size")))).sentences)
    assert "off by more" not in " ".join(verdict(full_report()).sentences)
