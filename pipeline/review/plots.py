"""Plots of held-out predictions as inline SVG: ROC with bands, reliability with intervals, score by diameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from data_contracts.evaluation import SCORES
from pipeline.review.svg import Drawing
from pipeline.scoring.bootstrap import cluster_draws
from pipeline.scoring.proportions import clustered_proportion_figure
from pipeline.scoring.weighted_metrics import weighted_auc

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Patients = NDArray[Any]

#: places at which the band of a ROC curve is computed, and draws of patients behind it (fewer where nodules are many)
_PLACES, _DRAWS, _FEWEST_DRAWS, _MOST_WEIGHTS = 101, 500, 200, 1_500_000
#: more marks than this are thinned out evenly
_MOST_MARKS = 3000
_TENTHS = [(value, f"{value:g}") for value in (0, 0.2, 0.4, 0.6, 0.8, 1.0)]
_PERCENT = [(value, f"{value:.0%}") for value in (0, 0.2, 0.4, 0.6, 0.8, 1.0)]


@dataclass(frozen=True)
class Plot:
    """A drawing, or the reason why there is none, and how to read it."""

    title: str
    drawing: Markup | None
    caption: str


def prediction_plots(predictions: pd.DataFrame, *, bins: int = 10) -> list[Plot]:
    """ROC, reliability and score by diameter; none where the labels are of one class.

    Parameters
    ----------
    predictions: PREDICTION_TABLE; rows without a label are in no plot.
    bins: equal bins of the reliability diagram.
    """
    labelled = predictions[predictions["label"].notna()]
    labels = labelled["label"].to_numpy(dtype=np.int64)
    if not len(labels) or labels.min() == labels.max():
        return []
    patients = (labelled["patient_key"] if "patient_key" in labelled else pd.Series(range(len(labelled)))).to_numpy()
    return [
        _roc(labelled, labels, patients),
        _reliability(labelled["score"].to_numpy(dtype=np.float64), labels, patients, bins),
        _by_diameter(labelled, labels),
    ]


def roc_points(score: Floats, label: Labels) -> Floats:
    """Corners of the ROC curve, (n, 2) = (1 - specificity, sensitivity), from (0, 0) to (1, 1); ties in one step."""
    ends, hits = _ranking(score, label)
    true_positives = np.cumsum(hits)[ends]
    false_positives = ends + 1 - true_positives
    n_positive = max(int(label.sum()), 1)
    n_negative = max(len(label) - int(label.sum()), 1)
    points = np.column_stack([false_positives / n_negative, true_positives / n_positive])
    return np.vstack([[0.0, 0.0], points])


def _ranking(score: Floats, label: Labels) -> tuple[NDArray[np.intp], Labels]:
    """Last place of every tie from the highest score down, and the labels in that order."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    return np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1), label[order]


def roc_band(score: Floats, label: Labels, patients: Patients, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Pointwise 95 % band of the sensitivity, (_PLACES,) each, at evenly spaced 1 - specificity from 0 to 1.

    Percentiles over draws of whole patients; draws without both classes are left out.
    """
    order = np.argsort(-score, kind="stable")
    ends, hits = _ranking(score, label)
    grid = np.linspace(0, 1, _PLACES)

    def curves(weights: Floats) -> Floats:
        drawn = np.full((len(weights), _PLACES), np.nan)
        for row, weight in enumerate(weights[:, order]):
            positive, negative = np.cumsum(weight * hits)[ends], np.cumsum(weight * (1 - hits))[ends]
            if positive[-1] and negative[-1]:
                across, up = np.append(0, negative / negative[-1]), np.append(0, positive / positive[-1])
                drawn[row] = np.interp(grid, across, up)
        return drawn

    draws = max(_FEWEST_DRAWS, min(_DRAWS, _MOST_WEIGHTS // len(score)))
    drawn = cluster_draws(patients, curves, draws=draws, seed=seed)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < draws // 2:
        return np.full(_PLACES, np.nan), np.full(_PLACES, np.nan)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high


def reliability_points(score: Floats, label: Labels, bins: int) -> list[tuple[float, float, int]]:
    """(mean probability, share malignant, n) of every equal bin that holds a nodule."""
    which = _bins(score, bins)
    return [
        (float(score[which == index].mean()), float(label[which == index].mean()), int((which == index).sum()))
        for index in range(bins)
        if (which == index).any()
    ]


def _bins(score: Floats, bins: int) -> NDArray[np.int64]:
    return np.minimum((score * bins).astype(np.int64), bins - 1)


def _roc(labelled: pd.DataFrame, labels: Labels, patients: Patients) -> Plot:
    drawing = Drawing((0, 1), (0, 1))
    drawing.line((0, 1), (0, 1), "guide")
    curves, legend, told = [], [], []
    for index, (column, name) in enumerate(SCORES.items()):
        known = labelled[column].notna().to_numpy()
        kept = labels[known]
        if not len(kept) or kept.min() == kept.max():
            continue
        scores = labelled[column].to_numpy(dtype=np.float64)[known]
        low, high = roc_band(scores, kept, patients[known])
        if np.isfinite(low).all():
            drawing.band(np.linspace(0, 1, _PLACES), low, high, f"b{index}")
        curves.append((roc_points(scores, kept), f"s{index}"))
        area = float(weighted_auc(kept, scores, np.ones((1, len(kept))))[0])
        legend.append((f"s{index}", f"{name}, AUC {area:.3f}"))
        told.append(f"{name} {area:.3f}")
    for points, css in curves:
        drawing.line(points[:, 0], points[:, 1], css)
    drawing.legend(0.4, 0.07 + 0.055 * (len(legend) - 1), legend)
    alt = f"ROC curves, sensitivity against 1 - specificity. Areas: {', '.join(told)}."
    picture = drawing.render("1 - specificity", "sensitivity", _TENTHS, _TENTHS, alt=alt)
    return Plot(
        "ROC, all sites",
        picture,
        "Further to the upper left is better. Bands: 95 % at each place, patients drawn again. Where the curves of "
        "image + size and of size only run in one band, the image adds nothing that these nodules could show.",
    )


def _reliability(score: Floats, labels: Labels, patients: Patients, bins: int) -> Plot:
    drawing = Drawing((0, 1), (0, 1.1))
    drawing.line((0, 1), (0, 1), "guide")
    which, told = _bins(score, bins), []
    for index in np.unique(which):
        inside = which == index
        figure = clustered_proportion_figure(
            labels[inside] == 1, patients[inside], n_positive=int(labels[inside].sum()), what="nodules"
        )
        at, share = float(score[inside].mean()), float(labels[inside].mean())
        if figure.low is not None and figure.high is not None:
            drawing.bar(at, figure.low, figure.high, "interval")
        drawing.dot(at, share, 4.2, "p2")
        drawing.text((index + 0.5) / bins, 1.05, str(figure.n), anchor="middle", css="small", shift=4)
        told.append(f"{at:.2f}: {share:.2f} of {figure.n}")
    drawing.text(-0.015, 1.05, "n =", anchor="end", css="small", shift=4)
    alt = f"Reliability diagram. Mean probability: share malignant of nodules. {'; '.join(told)}."
    picture = drawing.render(
        "predicted probability of malignancy", "share that is malignant", _PERCENT, _PERCENT, alt=alt
    )
    return Plot(
        "Reliability, image + size",
        picture,
        "On the dashed line, probabilities are true. A dot is a tenth of the scale, with its 95 % interval (a "
        "patient's nodules taken together); above it, how many nodules it stands for.",
    )


def _by_diameter(labelled: pd.DataFrame, labels: Labels) -> Plot:
    diameter = labelled["diameter_mm"].to_numpy(dtype=np.float64, na_value=np.nan)
    score = labelled["score"].to_numpy(dtype=np.float64)
    known = np.isfinite(diameter)
    if not known.any():
        return Plot("Probability by diameter", None, "No nodule has a diameter.")
    top = max(float(diameter[known].max()) * 1.04, 10.0)
    drawing = Drawing((0, top), (0, 1))
    size = labelled["score_size"].to_numpy(dtype=np.float64, na_value=np.nan)
    both = np.flatnonzero(known & np.isfinite(size))
    if len(both):
        at, first = np.unique(diameter[both], return_index=True)
        kept = np.unique(np.linspace(0, len(at) - 1, min(len(at), 80)).astype(int))
        drawing.line(at[kept], size[both][first][kept], "s0")
    shown = np.flatnonzero(known)
    if len(shown) > _MOST_MARKS:
        shown = shown[np.linspace(0, len(shown) - 1, _MOST_MARKS).astype(int)]
    for label, css in ((0, "d0"), (1, "d1")):
        of_class = shown[labels[shown] == label]
        drawing.dots(zip(diameter[of_class], score[of_class], strict=True), css, cross=label == 1)
    drawing.dots([(0.66 * top, 0.155)], "d1", cross=True)
    drawing.text(0.7 * top, 0.155, "malignant", shift=4)
    drawing.dots([(0.66 * top, 0.1)], "d0")
    drawing.text(0.7 * top, 0.1, "benign", shift=4)
    drawing.legend(0.62 * top, 0.045, [("s0", "size only")])
    step = 5 if top <= 30 else 10
    ticks = [(float(value), f"{value}") for value in range(0, int(top) + 1, step)]
    thinned = f" {len(shown)} of {int(known.sum())} nodules are drawn." if len(shown) < known.sum() else ""
    alt = f"Probability of image + size against diameter for {int(known.sum())} nodules, malignant and benign apart."
    picture = drawing.render("largest diameter, mm", "probability, image + size", ticks, _TENTHS, alt=alt)
    return Plot(
        "Probability by diameter",
        picture,
        "What lies on the line of size only is told by the diameter alone; the distance from it is what the image says."
        + thinned,
    )
