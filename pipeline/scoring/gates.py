"""The gates a version must pass to become champion, each with its figure, its bound and a sentence."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures
from data_contracts.promotion import GateResult, PromotionPolicy
from pipeline.scoring.compare import compare_paired
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.figures import labelled_rows


def promotion_gates(
    report: EvaluationReport,
    predictions: pd.DataFrame,
    champion_predictions: pd.DataFrame | None,
    policy: PromotionPolicy,
    *,
    fitted_patients: Collection[str] = (),
) -> tuple[GateResult, ...]:
    """Every gate's answer; a version is promoted only where all passed.

    Parameters
    ----------
    report, predictions: of the version that asks; the report's AUC is computed again from the predictions.
    champion_predictions: held-out predictions of today's champion, None where there is none.
    fitted_patients: keys of the patients the version was trained or validated on.
    """
    figures = report.find("score")
    return (
        _report_gate(report, predictions),
        _leak_gate(predictions, frozenset(fitted_patients)),
        GateResult(
            gate="test_nodules",
            passed=report.n_nodules >= policy.min_test_nodules,
            figure=float(report.n_nodules),
            bound=float(policy.min_test_nodules),
            detail=f"{report.n_nodules} held-out nodules with a label, at least {policy.min_test_nodules} are asked.",
        ),
        _at_least("auc", "AUC of image + size", figures.auc if figures else None, policy.min_auc),
        _at_least(
            "size_baseline",
            "AUC of image + size minus AUC of size only",
            report.size_auc_difference,
            policy.min_auc_minus_size,
        ),
        _calibration_gate(figures, policy),
        _champion_gate(predictions, champion_predictions, policy),
        _pretrained_gate(report, policy),
    )


def _at_least(gate: str, what: str, figure: Figure | None, bound: float) -> GateResult:
    if figure is None or figure.value is None:
        reason = figure.text() if figure else "not in the report"
        return GateResult(gate=gate, passed=False, figure=None, bound=bound, detail=f"{what}: {reason}.")
    detail = f"{what} is {figure.text()} on {figure.n} nodules, at least {bound:.3f} is asked."
    return GateResult(gate=gate, passed=figure.value >= bound, figure=figure.value, bound=bound, detail=detail)


def _calibration_gate(figures: ScoreFigures | None, policy: PromotionPolicy) -> GateResult:
    ece = figures.ece if figures else None
    if ece is None or ece.value is None:
        detail = "The calibration error could not be computed."
        return GateResult(gate="calibration", passed=False, figure=None, bound=policy.max_ece, detail=detail)
    detail = f"Expected calibration error is {ece.text()} on {ece.n} nodules, at most {policy.max_ece:.3f} is allowed."
    passed = ece.value <= policy.max_ece
    return GateResult(gate="calibration", passed=passed, figure=ece.value, bound=policy.max_ece, detail=detail)


def _report_gate(report: EvaluationReport, predictions: pd.DataFrame) -> GateResult:
    """The report must be the report of these predictions."""
    figures = report.find("score")
    rows = labelled_rows(predictions, "score")
    again = auc_figure(rows["label"].to_numpy(dtype="int64"), rows["score"].to_numpy(dtype="float64"))
    stated = figures.auc.value if figures else None
    same = (
        stated is not None
        and again.value is not None
        and abs(stated - again.value) < 1e-9
        and report.n_nodules == again.n
    )
    shown = "none" if stated is None else f"{stated:.4f}"
    detail = (
        f"The report states AUC {shown} on {report.n_nodules} nodules, "
        f"its predictions give {again.text(4)} on {again.n}."
    )
    return GateResult(gate="report_matches_predictions", passed=same, figure=again.value, bound=stated, detail=detail)


def _leak_gate(predictions: pd.DataFrame, fitted: frozenset[str]) -> GateResult:
    """No held-out patient was fitted on, stands in two splits or in two folds."""
    by_patient = predictions.groupby("patient_key")[["split", "fold"]].nunique()
    leaking = set(by_patient.index[(by_patient > 1).any(axis=1)]) | (set(by_patient.index) & fitted)
    detail = (
        f"{len(leaking)} of {len(by_patient)} held-out patients were fitted on or stand in two splits or folds."
        if leaking
        else f"None of {len(by_patient)} held-out patients was fitted on or stands in two splits or folds."
    )
    return GateResult(gate="no_leak", passed=not leaking, figure=float(len(leaking)), bound=0.0, detail=detail)


def _champion_gate(
    predictions: pd.DataFrame, champion_predictions: pd.DataFrame | None, policy: PromotionPolicy
) -> GateResult:
    """The lower end of the paired interval against the champion must stay above the allowed drop.

    On a handful of shared nodules that both rank alike the interval has no width, so they must be enough for a test.
    """
    bound = -policy.max_auc_drop_vs_champion
    gate = "not_worse_than_champion"
    if champion_predictions is None:
        return GateResult(gate=gate, passed=True, figure=None, bound=bound, detail="There is no champion yet.")
    comparison = compare_paired(predictions, champion_predictions)
    low = comparison.difference.low
    if low is None:
        detail = (
            f"No paired comparison with the champion: {comparison.difference.text()} among the nodules both scored."
        )
        return GateResult(gate=gate, passed=False, figure=None, bound=bound, detail=detail)
    if comparison.n < policy.min_test_nodules:
        detail = (
            f"The champion scored only {comparison.n} of the same nodules, "
            f"at least {policy.min_test_nodules} are asked for a comparison."
        )
        return GateResult(gate=gate, passed=False, figure=low, bound=bound, detail=detail)
    detail = (
        f"AUC minus the champion's is {comparison.difference.text()} on the same {comparison.n} nodules; "
        f"the lower end of the interval must be at least {bound:.3f}."
    )
    return GateResult(gate=gate, passed=low >= bound, figure=low, bound=bound, detail=detail)


def _pretrained_gate(report: EvaluationReport, policy: PromotionPolicy) -> GateResult:
    began = (
        f"The backbone started from {report.weights!r}"
        if report.pretrained
        else "The backbone started from random numbers"
    )
    asked = (
        "pretrained weights are asked"
        if policy.require_pretrained
        else "the policy does not ask for pretrained weights"
    )
    passed = report.pretrained or not policy.require_pretrained
    return GateResult(gate="pretrained", passed=passed, figure=None, bound=None, detail=f"{began}; {asked}.")
