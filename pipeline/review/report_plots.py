"""Plots of the figures that an evaluation holds: the decision curve, and subgroups as a forest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures, SubgroupFigures
from pipeline.review.facts import foreign
from pipeline.review.plots import Plot
from pipeline.review.svg import Drawing

_ROW_HEIGHT, _ROW_WIDTH = 42, 240


def decision_curve(report: EvaluationReport) -> Plot:
    """Net benefit of image + size and of size only at thresholds of 1-20 %, beside treating all and none."""
    title = "Decision curve, all sites"
    main, size = report.find("score"), report.find("score_size")
    points = [] if main is None else [point for point in main.net_benefit if point.model.value is not None]
    if len(points) < 2:
        why = "No decision curve: "
        if main is not None and main.net_benefit:
            why += f"{main.net_benefit[0].model.note or 'no net benefit could be computed'}."
        else:
            why += "the evaluation holds no net benefit; noduleflow evaluate VERSION computes it."
        return Plot(title, None, why)
    across = np.array([point.threshold for point in points])
    values = np.array([_value(point.model) for point in points])
    low = np.array([_bound(point.model, "low") for point in points])
    high = np.array([_bound(point.model, "high") for point in points])
    treat_all = [(point.threshold, point.treat_all) for point in points if point.treat_all is not None]
    lines = (
        [] if size is None else [(p.threshold, p.model.value) for p in size.net_benefit if p.model.value is not None]
    )
    top = max(float(high.max()), *(value for _, value in treat_all), *(value for _, value in lines), 0.02) * 1.05
    bottom = min(float(values.min()), -0.12 * top)
    drawing = Drawing((float(across[0]), float(across[-1])), (bottom, top), left=58)
    drawing.band(across, low, high, "b2")
    drawing.line(across[[0, -1]], (0, 0), "none")
    legend = [("s2", "image + size")]
    if lines:
        drawing.line([at for at, _ in lines], [value for _, value in lines], "s0")
        legend.append(("s0", "size only"))
    if treat_all:
        drawing.line([at for at, _ in treat_all], [value for _, value in treat_all], "all")
        legend.append(("all", "act on all"))
    drawing.line(across, values, "s2")
    legend.append(("none", "act on none"))
    under = [float(values.min()), *(value for _, value in treat_all), *(value for _, value in lines)]
    drawing.legend(*_legend_place(drawing, float(high[len(high) // 2 :].max()), min(under)), legend)
    ticks = [(value, f"{value:.0%}") for value in (0.01, 0.05, 0.10, 0.15, 0.20) if across[0] <= value <= across[-1]]
    step = _step(top - bottom)
    heights = [(k * step, f"{k * step:.2f}") for k in range(int(np.ceil(bottom / step)), int(top / step) + 1)]
    middle = points[len(points) // 2]
    alt = (
        f"Decision curve. At a threshold of {middle.threshold:.0%} the net benefit of image + size is "
        f"{_value(middle.model):.3f}"
        + (f", of acting on all nodules {middle.treat_all:.3f}." if middle.treat_all is not None else ".")
    )
    picture = drawing.render("probability from which one would act", "net benefit", ticks, heights, alt=alt)
    return Plot(
        title,
        picture,
        "The highest line is the best rule at that threshold. Net benefit is malignant nodules found per nodule, less "
        "the benign ones acted on, weighed by threshold / (1 - threshold). Band: 95 % at each threshold."
        + _prevalence(main),
    )


def _legend_place(drawing: Drawing, highest_right: float, lowest: float) -> tuple[float, float]:
    """Upper right, above what is drawn there, or between the lowest curve and zero, where there is more room."""
    left, right = drawing.x_range
    bottom, top = drawing.y_range
    margin = 0.055 * (top - bottom)
    if top - highest_right >= lowest:
        return left + 0.62 * (right - left), top - margin
    return left + 0.08 * (right - left), lowest - 1.5 * margin


def _prevalence(row: ScoreFigures | None) -> str:
    if row is None or not row.auc.n or row.auc.n_positive is None:
        return ""
    return (
        f" {row.auc.n_positive / row.auc.n:.0%} of these nodules are malignant; where fewer are, there is less to gain."
    )


def _step(span: float) -> float:
    return next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if span / step <= 8 or step == 0.5)


def _value(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value


def _bound(figure: Figure, side: str) -> float:
    bound = getattr(figure, side)
    return _value(figure) if bound is None else float(bound)


def forest_range(rows: tuple[SubgroupFigures, ...]) -> tuple[float, float]:
    """Lowest AUC of the forest's scale, rounded down to a tenth, and 1."""
    ends = [row.auc.low if row.auc.low is not None else row.auc.value for row in rows]
    ends += [row.size_auc.value for row in rows]
    lowest = min((end for end in ends if end is not None), default=0.5)
    return min(np.floor(10 * lowest) / 10, 0.5), 1.0


def forest_row(row: SubgroupFigures, scale: tuple[float, float], overall: float | None) -> Markup:
    """AUC of a subgroup with its interval, size only beside it, on the scale that all rows share."""
    place = _places(scale)
    drawn = Markup('<line class="guide" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(place(0.5), _ROW_HEIGHT)
    if overall is not None:
        drawn += Markup('<line class="overall" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(place(overall), _ROW_HEIGHT)
    middle = _ROW_HEIGHT / 2
    if row.size_auc.value is not None:
        x = place(row.size_auc.value)
        drawn += Markup('<path class="diamond" d="M{} {}l4.5 4.5-4.5 4.5-4.5-4.5z"/>').format(x, middle - 4.5)
    told = f"no AUC: {row.auc.note}"
    if row.auc.value is not None:
        if row.auc.low is not None and row.auc.high is not None:
            path = f"M{place(row.auc.low)} {middle - 4}v8m0-4H{place(row.auc.high)}m0-4v8"
            drawn += Markup('<path class="interval" d="{}"/>').format(path)
        css = "p2 few" if row.flagged else "p2"
        drawn += Markup('<circle class="{}" cx="{}" cy="{}" r="4.2"/>').format(css, place(row.auc.value), middle)
        told = f"AUC {row.auc.text()}, size only {row.size_auc.text()}"
    return _strip(drawn, f"{row.variable} {foreign(row.level)}: {told}", _ROW_HEIGHT)


def forest_axis(scale: tuple[float, float]) -> Markup:
    """The scale of the forest, for its head."""
    place = _places(scale)
    drawn = Markup("")
    for tenth in range(round(10 * scale[0]), 11, 1 if scale[0] >= 0.3 else 2):
        drawn += Markup('<text x="{0}" y="12" text-anchor="middle">{1:g}</text>').format(place(tenth / 10), tenth / 10)
        drawn += Markup('<line class="frame" x1="{0}" x2="{0}" y1="16" y2="20"/>').format(place(tenth / 10))
    return _strip(drawn, f"scale of the AUC from {scale[0]:g} to 1", 20)


def _places(scale: tuple[float, float]) -> Callable[[float], float]:
    low, high = scale
    return lambda value: round(12 + (min(max(value, low), high) - low) / (high - low) * (_ROW_WIDTH - 24), 1)


def _strip(drawn: Markup, alt: str, height: int) -> Markup:
    return Markup('<svg class="plot forest" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _ROW_WIDTH, height, alt, drawn
    )
