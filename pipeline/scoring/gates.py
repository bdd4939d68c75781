"""The gates a version must pass to become champion, each with its figure, its bound and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from data_contracts.disclosure import Disclosure
from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures
from data_contracts.promotion import GateResult, PromotionPolicy
from pipeline.scoring import gate_evidence
from pipeline.scoring.compare import compare_paired
from pipeline.scoring.gate_subgroups import subgroup_gate


@dataclass(frozen=True)
class Evidence:
    """What is known of a version beside its figures.

    disclosure: None where the run has none. network: the one that was kept, by its name in the report.
    sealed: every file of it has a registered digest. signed: names of those whose sign-off counts.
    overrides: (findings that readers rejected or corrected, findings they answered), of this version's reports.
    override_rate: the same as a share, with its interval.
    """

    disclosure: Disclosure | None = None
    network: str | None = None
    sealed: bool = True
    signed: Sequence[str] = ()
    overrides: tuple[int, int] = (0, 0)
    override_rate: Figure | None = None


def promotion_gates(
    report: EvaluationReport,
    predictions: pd.DataFrame,
    champion_predictions: pd.DataFrame | None,
    policy: PromotionPolicy,
    *,
    fitted_patients: Collection[str] | None = (),
    evidence: Evidence | None = None,
) -> tuple[GateResult, ...]:
    """Every gate's answer; a version is promoted only where all passed.

    Parameters
    ----------
    report, predictions: of the version that asks; the report's AUC is computed again from the predictions.
    champion_predictions: held-out predictions of today's champion, None where there is none.
    fitted_patients: keys of the patients the version was trained or validated on; None where nobody knows any more.
    evidence: None leaves out the gates that ask for it.
    """
    figures = report.find("score")
    gates = [
        gate_evidence.report_gate(report, predictions),
        gate_evidence.leak_gate(predictions, None if fitted_patients is None else frozenset(fitted_patients)),
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
        _at_least(
            "size_matched_auc",
            "AUC among nodules of like diameter",
            figures.size_matched_auc if figures else None,
            policy.min_size_matched_auc,
        ),
        _calibration_gate(figures, policy),
        _slope_gate(figures, policy),
        subgroup_gate(report, predictions, policy),
        _champion_gate(predictions, champion_predictions, policy),
        _pretrained_gate(report, policy),
        gate_evidence.warnings_gate(report, policy),
    ]
    if evidence is not None:
        gates += [
            gate_evidence.sealed_gate(evidence.sealed),
            gate_evidence.adaptation_gate(report, evidence.network, policy),
            gate_evidence.card_gate(report, evidence.disclosure, policy),
            gate_evidence.override_gate(*evidence.overrides, policy, evidence.override_rate),
            gate_evidence.signoff_gate(evidence.signed, policy),
        ]
    return tuple(gates)


def _at_least(gate: str, what: str, figure: Figure | None, bound: float | None) -> GateResult:
    if bound is None:
        shown = figure.text() if figure else "not in the report"
        return GateResult(
            gate=gate,
            passed=True,
            figure=figure.value if figure else None,
            bound=None,
            detail=f"{what} is {shown}; the policy does not ask for it.",
        )
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


def _slope_gate(figures: ScoreFigures | None, policy: PromotionPolicy) -> GateResult:
    """A slope below one is overconfidence, above one its opposite; a policy bounds either side."""
    slope = figures.calibration_slope if figures else None
    low, high = policy.min_calibration_slope, policy.max_calibration_slope
    value = slope.value if slope else None
    shown = slope.text() if slope else "not in the report"
    gate, bound = "calibration_slope", low if low is not None else high
    if bound is None:
        detail = f"The calibration slope is {shown}; the policy does not ask for one."
        return GateResult(gate=gate, passed=True, figure=value, bound=None, detail=detail)
    asked = " and ".join(
        part
        for part in (f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else "")
        if part
    )
    passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
    detail = f"The calibration slope is {shown}, {asked} is asked."
    return GateResult(gate=gate, passed=passed, figure=value, bound=bound, detail=detail)


def _champion_gate(
    predictions: pd.DataFrame, champion_predictions: pd.DataFrame | None, policy: PromotionPolicy
) -> GateResult:
    """The lower end of the paired interval against the champion must stay above the allowed drop.

    The lower of DeLong's and the patient bootstrap's counts, as a patient's nodules are not independent. On a handful
    of shared nodules that both rank alike the interval has no width, so they must be enough for a test.
    """
    bound = -policy.max_auc_drop_vs_champion
    gate = "not_worse_than_champion"
    if champion_predictions is None:
        return GateResult(gate=gate, passed=True, figure=None, bound=bound, detail="There is no champion yet.")
    comparison = compare_paired(predictions, champion_predictions)
    lows = [figure.low for figure in (comparison.difference, comparison.difference_bootstrap) if figure.low is not None]
    if not lows or comparison.difference.value is None:
        detail = (
            f"No paired comparison with the champion: {comparison.difference.text()} among the nodules both scored."
        )
        return GateResult(gate=gate, passed=False, figure=None, bound=bound, detail=detail)
    low = min(lows)
    if comparison.n < policy.min_test_nodules:
        detail = (
            f"The champion scored only {comparison.n} of the same nodules, "
            f"at least {policy.min_test_nodules} are asked for a comparison."
        )
        return GateResult(gate=gate, passed=False, figure=low, bound=bound, detail=detail)
    detail = (
        f"AUC minus the champion's is {comparison.difference.text()} on the same {comparison.n} nodules of "
        f"{comparison.n_patients} patients; the lower end of the interval, {low:.3f} where patients are resampled too, "
        f"must be at least {bound:.3f}."
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
