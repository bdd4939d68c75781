"""report.html of a run: a verdict in words, then every figure with its interval and size baseline, and plots."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from data_contracts.concepts import concept_title
from data_contracts.evaluation import SCORES, ConformalSubgroup, EvaluationReport, Figure, ScoreFigures, SubgroupFigures
from pipeline.review import wording
from pipeline.review.html import content_policy, plain_environment, read_template
from pipeline.review.plots import Plot, prediction_plots
from pipeline.review.report_plots import decision_curve, forest_axis, forest_range, forest_row
from pipeline.review.verdict import UNKNOWN, figure_of, interval_text, verdict

_LEVEL_SIGNS = {"good": "✓", "caution": "≈", "bad": "✗", "unknown": "?"}
_VARIABLES = {
    "diameter": "Diameter",
    "texture": "Texture",
    "thickness": "Slice thickness",
    "kernel": "Kernel",
    "manufacturer": "Manufacturer",
    "site": "Site",
    "sex": "Sex",
    "age": "Age",
    "class": "Class",
}
#: a header may hold a novel
_LONGEST_LEVEL = 60


def render_evaluation(report: EvaluationReport, predictions: pd.DataFrame | None = None) -> str:
    """The evaluation as one self-contained HTML file without a script.

    Parameters
    ----------
    report: every figure of the page; parts that it lacks are named with the reason.
    predictions: PREDICTION_TABLE of the run; with it the page holds ROC, reliability and score by diameter.
    """
    style = read_template("report.css") + read_template("evaluation.css")
    told = verdict(report)
    return (
        plain_environment()
        .get_template("evaluation.html.j2")
        .render(
            report=report,
            policy=content_policy(style),
            style=Markup(style),
            verdict=told,
            sign=_LEVEL_SIGNS[told.level],
            tiles=_tiles(report),
            sites=_sites(report.figures),
            tables={"": _by_site(report.figures)}
            | {name: _by_site(rows) for name, rows in report.alternatives.items()},
            alternatives={name: _headline(rows) for name, rows in report.alternatives.items()},
            headline=_headline(report.figures),
            plots=[] if not report.figures else _plots(report, predictions),
            forest=_forest(report),
            sets=_sets(report),
            operating=_operating(report),
            source_target=_source_target(report),
            wording=wording,
            scores=SCORES,
            variables=_VARIABLES,
            short=_short,
            figure=_figure_text,
            interval=interval_text,
            concept_title=concept_title,
            point_title=_point_title,
        )
    )


def _plots(report: EvaluationReport, predictions: pd.DataFrame | None) -> list[Plot]:
    """The four plots in the order of the page; those that cannot be drawn say why."""
    drawn = [] if predictions is None else prediction_plots(predictions)
    if not drawn:
        why = (
            "it was written without the predictions" if predictions is None else "the labels are of one class, or none"
        )
        drawn = [Plot("ROC, reliability, probability by diameter", None, f"No such plots: {why}.")]
    return [*drawn[:2], decision_curve(report), *drawn[2:]]


def _tiles(report: EvaluationReport) -> list[tuple[str, str, str, str]]:
    """(title, value, interval or reason, n) of the figures beside the verdict."""
    main, size = report.find("score"), report.find("score_size")
    return [
        _tile("AUC, image + size", figure_of(main, "auc_clustered", "auc")),
        _tile("AUC, size only", figure_of(size, "auc_clustered", "auc")),
        _tile("Difference", report.size_auc_difference, sign="+"),
        _tile("Size-matched AUC", figure_of(main, "size_matched_auc"), unit="pair"),
    ]


def _tile(title: str, figure: Figure | None, *, sign: str = "", unit: str = "nodule") -> tuple[str, str, str, str]:
    if figure is None or figure.value is None:
        return title, "-", (figure and figure.note) or "not computed", ""
    form = f"{sign}z.3f"
    known = figure.low is not None and figure.high is not None
    between = f"{figure.low:{form}} to {figure.high:{form}}" if known else "no interval"
    return title, f"{figure.value:{form}}", between, f"{figure.n} {unit}{'' if figure.n == 1 else 's'}"


def _sites(rows: tuple[ScoreFigures, ...]) -> list[str]:
    """Sites in the order of the page: all together first."""
    return sorted({row.site for row in rows}, key=lambda site: (site != "all", site))


def _by_site(rows: tuple[ScoreFigures, ...]) -> list[tuple[str, list[ScoreFigures]]]:
    order = list(SCORES)
    known = [row for row in rows if row.score in order]
    return [
        (site, sorted((row for row in known if row.site == site), key=lambda row: order.index(row.score)))
        for site in _sites(rows)
    ]


def _headline(rows: tuple[ScoreFigures, ...]) -> list[ScoreFigures]:
    """Image + size on every site: what stands side by side when networks are compared."""
    return [row for site in _sites(rows) for row in rows if row.site == site and row.score == "score"]


def _operating(report: EvaluationReport) -> list[tuple[str, list[tuple[str, Any]]]]:
    """(name of a point, [(score, its point)]) on all sites, in the order of the report."""
    rows = [row for score in SCORES if (row := report.find(score)) is not None]
    names = dict.fromkeys(point.name for row in rows for point in row.operating_points)
    return [
        (name, [(SCORES[row.score], point) for row in rows for point in row.operating_points if point.name == name])
        for name in names
    ]


def _point_title(name: str) -> str:
    """`specificity_0.90` as `Specificity 0.90 on validation`."""
    return f"{name.replace('_', ' ').capitalize()} on validation"


def _forest(report: EvaluationReport) -> dict[str, Any] | None:
    """Rows by variable with their drawings, and the scale that they share."""
    if not report.subgroups:
        return None
    main = report.find("score")
    scale = forest_range(report.subgroups)
    overall = None if main is None else main.auc.value
    groups: dict[str, list[tuple[SubgroupFigures, Markup]]] = {}
    unknown = _unknown_variables(report.subgroups)
    for row in report.subgroups:
        if row.variable not in unknown:
            groups.setdefault(row.variable, []).append((row, forest_row(row, scale, overall)))
    return {
        "axis": forest_axis(scale),
        "groups": groups,
        "flagged": any(row.flagged for row in report.subgroups),
        "unknown": [_VARIABLES.get(name, name).lower() for name in unknown],
    }


def _unknown_variables(rows: tuple[SubgroupFigures, ...] | tuple[ConformalSubgroup, ...]) -> list[str]:
    """Variables that are known of no nodule, whose one group is all nodules again."""
    levels: dict[str, set[str]] = {}
    for row in rows:
        levels.setdefault(row.variable, set()).add(row.level)
    return [variable for variable, known in levels.items() if known == {UNKNOWN}]


def _sets(report: EvaluationReport) -> list[ConformalSubgroup]:
    """Subgroups of the prediction sets of which something is known."""
    rows = () if report.conformal is None else report.conformal.subgroups
    unknown = _unknown_variables(rows)
    return [row for row in rows if row.variable not in unknown]


def _source_target(report: EvaluationReport) -> str:
    """Source against target in a sentence, or why there is none."""
    loss = report.source_minus_target
    if loss is None:
        return "No figure of source against target: the training named no source and target site."
    if loss.value is None:
        return f"No figure of source against target: {loss.note or 'not computed'}."
    return f"AUC on the source site minus AUC on the target site: {interval_text(loss, signed=True)}."


def _short(text: str) -> str:
    """A level or site as a cell can hold it."""
    text = text.replace(">=", "≥").replace("<=", "≤")
    return text if len(text) <= _LONGEST_LEVEL else text[:_LONGEST_LEVEL] + "…"


def _figure_text(figure: Figure | None, digits: int = 3, signed: bool = False) -> Markup:
    """The value, and below it the interval."""
    if figure is None or figure.value is None:
        return Markup('<span class="why">{}</span>').format((figure and figure.note) or "not computed")
    form = f"{'+' if signed else ''}z.{digits}f"
    if figure.low is None or figure.high is None:
        return Markup("{}").format(f"{figure.value:{form}}")
    between = " to " if signed else "-"
    interval = f"[{figure.low:{form}}{between}{figure.high:{form}}]"
    return Markup('{}<span class="ci">{}</span>').format(f"{figure.value:{form}}", interval)
