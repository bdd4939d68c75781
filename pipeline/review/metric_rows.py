"""Every figure of an evaluation as (name, value), under names that a tracking server takes and that stay the same.

    test/<site>/<score>/<figure>                  <figure>, <figure>_low, <figure>_high, <figure>_n
    test/<site>/<score>/<operating point>/...     threshold, sensitivity, specificity
    test/<site>/<score>/net_benefit/<threshold>   and <threshold>_treat_all
    subgroups/<variable>/<level>/<figure>         conformal/..., concepts/..., adaptation/<network>/...
    alternatives/<network>/<site>/<score>/...     networks that were not chosen

<site> is "all" for every site together; <score> is score (image + size), score_image or score_size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures
from data_contracts.records import digest_of

#: MLflow takes letters, digits, space and / _ - . : in a name; the slashes are ours
_SIGNS = {"<=": "le", ">=": "ge", "≤": "le", "≥": "ge", "<": "lt", ">": "gt"}
_SPELT = re.compile(r"^(lt|le|gt|ge) ")
_LONGEST_PART = 60
_FIGURES = (
    "auc",
    "auc_clustered",
    "auc_bootstrap",
    "average_precision",
    "size_matched_auc",
    "brier",
    "ece",
    "calibration_slope",
    "calibration_intercept",
    "sensitivity",
    "specificity",
)

Rows = Iterator[tuple[str, float]]


def metric_rows(report: EvaluationReport) -> list[tuple[str, float]]:
    """Name and value of every figure that could be computed, each name once, all values finite."""
    return list({name: value for name, value in _all(report) if math.isfinite(value)}.items())


def safe_part(text: str) -> str:
    """A site, level or network as a part of a name: `<6 mm` is `lt 6 mm`, and what else no server takes is replaced.

    Where something is replaced, a digest of the whole keeps two names apart.
    """
    sign = next((sign for sign in _SIGNS if text.startswith(sign)), "")
    spelt = f"{_SIGNS[sign]} {text.removeprefix(sign)}" if sign else text
    safe = re.sub(r"[^A-Za-z0-9_\-. ]", "_", spelt)[:_LONGEST_PART].strip(" .")
    if safe and safe == spelt and not _SPELT.match(text):
        return safe
    return f"{safe or 'name'}-{digest_of(text, length=6)}"


def _all(report: EvaluationReport) -> Rows:
    yield "test/n_patients", float(report.n_patients)
    yield "test/n_nodules", float(report.n_nodules)
    yield "test/n_indeterminate", float(report.n_indeterminate)
    for row in report.figures:
        yield from _score(f"test/{safe_part(row.site)}/{safe_part(row.score)}", row)
    yield from _figure("test/size_auc_difference", report.size_auc_difference)
    yield from _figure("test/size_auc_difference_delong", report.size_auc_difference_delong)
    yield from _figure("test/source_minus_target", report.source_minus_target)
    for group in report.subgroups:
        at = f"subgroups/{safe_part(group.variable)}/{safe_part(group.level)}"
        for name in ("auc", "size_auc", "sensitivity", "specificity", "ece"):
            yield from _figure(f"{at}/{name}", getattr(group, name))
    if report.conformal is not None:
        yield "conformal/alpha", report.conformal.alpha
        yield from _figure("conformal/coverage", report.conformal.coverage)
        yield from _figure("conformal/abstention", report.conformal.abstention)
        for part in report.conformal.subgroups:
            at = f"conformal/{safe_part(part.variable)}/{safe_part(part.level)}"
            yield from _figure(f"{at}/coverage", part.coverage)
            yield from _figure(f"{at}/abstention", part.abstention)
    for concept in report.concepts:
        for name in ("spearman", "kappa", "mean_absolute_error"):
            yield from _figure(f"concepts/{safe_part(concept.concept)}/{name}", getattr(concept, name))
    if report.adaptation is not None:
        for network, values in report.adaptation.figures.items():
            for name, value in values.items():
                yield f"adaptation/{safe_part(network)}/{safe_part(name)}", value
    for network, others in report.alternatives.items():
        for row in others:
            yield from _score(f"alternatives/{safe_part(network)}/{safe_part(row.site)}/{safe_part(row.score)}", row)


def _score(at: str, row: ScoreFigures) -> Rows:
    for name in _FIGURES:
        yield from _figure(f"{at}/{name}", getattr(row, name))
    if row.threshold is not None:
        yield f"{at}/threshold", row.threshold
    for point in row.operating_points:
        place = f"{at}/{safe_part(point.name)}"
        yield f"{place}/threshold", point.threshold
        yield from _figure(f"{place}/sensitivity", point.sensitivity)
        yield from _figure(f"{place}/specificity", point.specificity)
    for point_of_curve in row.net_benefit:
        place = f"{at}/net_benefit/{point_of_curve.threshold:.2f}"
        yield from _figure(place, point_of_curve.model)
        if point_of_curve.treat_all is not None:
            yield f"{place}_treat_all", point_of_curve.treat_all


def _figure(at: str, figure: Figure | None) -> Rows:
    if figure is None or figure.value is None:
        return
    yield at, figure.value
    if figure.low is not None and figure.high is not None:
        yield f"{at}_low", figure.low
        yield f"{at}_high", figure.high
    yield f"{at}_n", float(figure.n)
