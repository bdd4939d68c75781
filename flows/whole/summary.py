"""What a person reads at the end: figures beside the size baseline, as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.evaluation import SCORES, EvaluationReport, ScoreFigures

_HEADER = ("site", "score", "AUC [95 %]", "size-matched AUC", "Brier", "n", "malignant")


def figures_text(folder: Path) -> str:
    """The figures of evaluation.json in `folder`: size only, image only, image + size on every site."""
    report = EvaluationReport.read(folder / "evaluation.json")
    lines = [f"held-out figures of run {report.run_id}, backbone {report.backbone}, weights {report.weights}"]
    lines += figure_rows(report.figures)
    if report.alternatives:
        lines += ["", "image only, source-only against adapted:", *adaptation_rows(report)]
    if report.adaptation is not None:
        verdict = "adapted" if report.adaptation.adapted else "not adapted"
        lines.append(f"adaptation gate: {verdict} ({report.adaptation.chosen} chosen)")
        lines += [f"  - {reason}" for reason in report.adaptation.reasons]
    lines += [f"note: {warning}" for warning in report.warnings]
    return "\n".join(lines)


def figure_rows(figures: tuple[ScoreFigures, ...]) -> list[str]:
    """The table of figures, aligned."""
    rows = [_HEADER, *(_row(row) for row in figures)]
    return _aligned(rows)


def adaptation_rows(report: EvaluationReport) -> list[str]:
    """AUC of the image alone of every network that was fitted, by site."""
    rows = [("site", "network", "AUC [95 %]", "Brier")]
    for name, figures in report.alternatives.items():
        rows += [(row.site, name, row.auc.text(), row.brier.text()) for row in figures if row.score == "score_image"]
    return _aligned(sorted(rows[1:], key=lambda row: row[0]), rows[0])


def comparison_text(record: dict[str, Any]) -> str:
    """One line: which version is better on the nodules both scored, and how sure that is."""
    difference = record["difference"]
    if record["auc_a"] is None or difference["value"] is None:
        return f"no comparison: {difference['note'] or 'too few nodules'} ({record['n']} nodules)"
    interval = ""
    if difference["low"] is not None:
        # of the same method as the interval; the p of paired DeLong may contradict it
        p_value = record["p_value_clustered"]
        shown = "p not computed" if p_value is None else f"p = {p_value:.3f}"
        interval = f" [{difference['low']:+.3f} to {difference['high']:+.3f}], {shown}"
    return (
        f"AUC of {record['a']}: {record['auc_a']:.3f}, of {record['b']}: {record['auc_b']:.3f}; "
        f"difference {difference['value']:+.3f}{interval} on {record['n']} nodules of {record['n_patients']} patients"
    )


def _row(row: ScoreFigures) -> tuple[str, ...]:
    matched = row.size_matched_auc
    return (
        row.site,
        SCORES[row.score],
        row.auc.text(),
        f"{matched.text()} ({matched.n} pairs)",
        row.brier.text(),
        str(row.auc.n),
        str(row.auc.n_positive if row.auc.n_positive is not None else ""),
    )


def _aligned(rows: list[tuple[str, ...]], header: tuple[str, ...] | None = None) -> list[str]:
    table = [header, *rows] if header is not None else rows
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]
