"""Small plots of predictions as inline SVG: sharp at any size, in the colours of the page, nothing to load."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from data_contracts.evaluation import SCORES

_SIDE, _LEFT, _BOTTOM, _TOP, _RIGHT = 340, 48, 44, 12, 12


def prediction_plots(predictions: pd.DataFrame, *, bins: int = 10) -> list[tuple[str, Markup]]:
    """Title and SVG of every plot that the predictions allow.

    Parameters
    ----------
    predictions: PREDICTION_TABLE; rows without a label count only in no plot.
    bins: equal bins of the reliability diagram.
    """
    labelled = predictions[predictions["label"].notna()]
    labels = labelled["label"].to_numpy(dtype=np.int64)
    if not len(labels) or labels.min() == labels.max():
        return []
    return [
        ("ROC, all sites", _roc(labelled, labels)),
        ("Reliability, image + size", _reliability(labelled["score"].to_numpy(dtype=np.float64), labels, bins)),
        ("Probability by diameter", _by_diameter(labelled, labels)),
    ]


def roc_points(score: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corners of the ROC curve, (n, 2) = (1 - specificity, sensitivity), from (0, 0) to (1, 1); ties in one step."""
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], label[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true_positives = np.cumsum(hits)[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    n_positive = max(int(label.sum()), 1)
    n_negative = max(len(label) - int(label.sum()), 1)
    points = np.column_stack([false_positives / n_negative, true_positives / n_positive])
    return np.vstack([[0.0, 0.0], points])


def reliability_points(
    score: NDArray[np.float64], label: NDArray[np.int64], bins: int
) -> list[tuple[float, float, int]]:
    """(mean probability, share malignant, n) of every equal bin that holds a nodule."""
    which = np.minimum((score * bins).astype(int), bins - 1)
    return [
        (float(score[which == index].mean()), float(label[which == index].mean()), int((which == index).sum()))
        for index in range(bins)
        if (which == index).any()
    ]


def _roc(labelled: pd.DataFrame, labels: NDArray[np.int64]) -> Markup:
    body, names = _line((0, 1), (0, 1), "guide"), []
    for index, (column, name) in enumerate(SCORES.items()):
        known = labelled[column].notna().to_numpy()
        kept = labels[known]
        if not len(kept) or kept.min() == kept.max():
            continue
        points = roc_points(labelled[column].to_numpy(dtype=np.float64)[known], kept)
        body += _line(points[:, 0], points[:, 1], f"s{index}")
        names.append((f"s{index}", name))
    for row, (css, name) in enumerate(names):
        y = 0.3 - 0.08 * row
        body += _line((0.5, 0.58), (y, y), css) + _label(0.6, y - 0.015, name)
    return _frame(body, "1 - specificity", "sensitivity", _TICKS, _TICKS)


def _reliability(score: NDArray[np.float64], labels: NDArray[np.int64], bins: int) -> Markup:
    points = reliability_points(score, labels, bins)
    body = _line((0, 1), (0, 1), "guide") + _line([p for p, _, _ in points], [q for _, q, _ in points], "s2")
    for predicted, observed, n in points:
        radius = 2 + 6 * np.sqrt(n / len(score))
        body += _dot(predicted, observed, radius, "p0", f"{n} nodules")
    return _frame(body, "predicted probability", "share malignant", _TICKS, _TICKS)


def _by_diameter(labelled: pd.DataFrame, labels: NDArray[np.int64]) -> Markup:
    diameter = labelled["diameter_mm"].to_numpy(dtype=np.float64)
    top = float(np.nanmax(diameter, initial=10.0))
    step = 5 if top <= 25 else 10
    ticks = [(value / top, f"{value}") for value in range(0, int(top) + 1, step)]
    body = Markup("")
    for at_mm, score, label in zip(diameter, labelled["score"], labels, strict=True):
        if np.isfinite(at_mm):
            body += _dot(at_mm / top, float(score), 2.6, f"p{label}", "")
    body += _dot(0.66, 0.14, 3.2, "p1", "") + _label(0.7, 0.125, "malignant")
    body += _dot(0.66, 0.06, 3.2, "p0", "") + _label(0.7, 0.045, "benign")
    return _frame(body, "diameter, mm", "probability, image + size", ticks, _TICKS)


_TICKS = [(value, f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1.0)]


def _x(value: float) -> float:
    return _LEFT + value * (_SIDE - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _SIDE - _BOTTOM - value * (_SIDE - _BOTTOM - _TOP)


def _line(across: object, up: object, css: str) -> Markup:
    pairs = zip(np.asarray(across, dtype=np.float64), np.asarray(up, dtype=np.float64), strict=True)
    points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in pairs)
    return Markup('<polyline class="{}" points="{}"/>').format(css, points)


def _dot(x: float, y: float, radius: float, css: str, title: str) -> Markup:
    at = f"{_x(x):.1f}", f"{_y(y):.1f}", f"{radius:.1f}"
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(css, *at, title)


def _label(x: float, y: float, text: str) -> Markup:
    return Markup('<text x="{}" y="{}">{}</text>').format(f"{_x(x):.1f}", f"{_y(y):.1f}", text)


def _frame(
    body: Markup, across: str, up: str, x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]]
) -> Markup:
    left, right, bottom, top = _x(0), _x(1), _y(0), _y(1)
    drawn = Markup("")
    for value, name in x_ticks:
        drawn += Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_x(value), bottom, top)
        drawn += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_x(value), bottom + 16, name)
    for value, name in y_ticks:
        drawn += Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(_y(value), left, right)
        drawn += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, _y(value) + 4, name)
    drawn += Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(
        left, top, right - left, bottom - top
    )
    drawn += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format((left + right) / 2, _SIDE - 8, across)
    drawn += Markup('<text x="12" y="{0}" text-anchor="middle" transform="rotate(-90 12 {0})">{1}</text>').format(
        (top + bottom) / 2, up
    )
    name = escape(f"{up} against {across}")
    return Markup('<svg class="plot" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">{2}{3}</svg>').format(
        _SIDE, name, drawn, body
    )
