"""report.html of a run: every figure with its interval and size baseline, and what the gate said."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from data_contracts.concepts import concept_title
from data_contracts.evaluation import SCORES, EvaluationReport, Figure, ScoreFigures
from pipeline.review import wording
from pipeline.review.html import content_policy, page_environment, read_template
from pipeline.review.plots import prediction_plots


def render_evaluation(report: EvaluationReport, predictions: pd.DataFrame | None = None) -> str:
    """The evaluation as one self-contained HTML file without a script.

    Parameters
    ----------
    report: every figure of the page.
    predictions: PREDICTION_TABLE of the run; with it the page holds ROC, reliability and score by diameter.
    """
    style = read_template("report.css")
    return (
        page_environment()
        .get_template("evaluation.html.j2")
        .render(
            report=report,
            policy=content_policy(style),
            style=Markup(style),
            sites=_sites(report.figures),
            tables={"": _by_site(report.figures)}
            | {name: _by_site(rows) for name, rows in report.alternatives.items()},
            alternatives={name: _headline(rows) for name, rows in report.alternatives.items()},
            headline=_headline(report.figures),
            plots=[] if predictions is None else prediction_plots(predictions),
            wording=wording,
            scores=SCORES,
            figure=_figure_text,
            concept_title=concept_title,
        )
    )


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


def _figure_text(figure: Figure | None, digits: int = 3) -> str:
    return "not computed" if figure is None else figure.text(digits)
