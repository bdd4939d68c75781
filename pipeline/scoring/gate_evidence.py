"""Gates that ask whether the figures can be believed, and whether people have said what the policy wants said."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from data_contracts.disclosure import Disclosure
from data_contracts.evaluation import EvaluationReport, Figure
from data_contracts.promotion import GateResult, PromotionPolicy
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.figures import labelled_rows

#: what warnings say of figures that mean nothing
_SEVERE = ("can be trusted", "look swapped", "looks swapped", "contradict")
_SOURCE_ONLY = "source-only"


def report_gate(report: EvaluationReport, predictions: pd.DataFrame) -> GateResult:
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


def leak_gate(predictions: pd.DataFrame, fitted: frozenset[str] | None) -> GateResult:
    """No held-out patient was fitted on, stands in two splits or in two folds."""
    if fitted is None:
        detail = "Neither the run nor its dataset says any more whom it learned from, so a leak cannot be ruled out."
        return GateResult(gate="no_leak", passed=False, figure=None, bound=0.0, detail=detail)
    by_patient = predictions.groupby("patient_key")[["split", "fold"]].nunique()
    leaking = set(by_patient.index[(by_patient > 1).any(axis=1)]) | (set(by_patient.index) & fitted)
    detail = (
        f"{len(leaking)} of {len(by_patient)} held-out patients were fitted on or stand in two splits or folds."
        if leaking
        else f"None of {len(by_patient)} held-out patients was fitted on or stands in two splits or folds."
    )
    return GateResult(gate="no_leak", passed=not leaking, figure=float(len(leaking)), bound=0.0, detail=detail)


def warnings_gate(report: EvaluationReport, policy: PromotionPolicy) -> GateResult:
    """Warnings that say of the figures that they mean nothing."""
    severe = [warning for warning in report.warnings if any(word in warning for word in _SEVERE)]
    asked = policy.refuse_severe_warnings
    if not severe:
        detail = f"None of {len(report.warnings)} warnings says that labels or figures are wrong."
    else:
        detail = f"{severe[0].rstrip('.')}{'' if asked else ' (the policy lets it pass)'}."
    passed = not severe or not asked
    return GateResult(gate="warnings", passed=passed, figure=float(len(severe)), bound=0.0, detail=detail)


def sealed_gate(sealed: bool) -> GateResult:
    """Every file of a version has a registered digest."""
    detail = (
        "Every file of the version was compared with the digest it was registered with."
        if sealed
        else "An earlier program registered the version with four of its files only; train it again to seal it."
    )
    return GateResult(gate="sealed", passed=sealed, figure=None, bound=None, detail=detail)


def adaptation_gate(report: EvaluationReport, network: str | None, policy: PromotionPolicy) -> GateResult:
    """The kept network is the one that the adaptation's own gate chose, and no worse than source-only by far."""
    gate, bound = "adaptation", policy.max_adaptation_loss
    bound = None if bound is None else -bound
    if report.adaptation is None:
        detail = "No adapted network was on offer, or both sites were trained on."
        return GateResult(gate=gate, passed=True, figure=None, bound=bound, detail=detail)
    chosen = report.adaptation.chosen
    if network is not None and network != chosen:
        detail = f"The adaptation's gate chose {chosen}, the version holds {network}."
        return GateResult(gate=gate, passed=False, figure=None, bound=bound, detail=detail)
    own = report.find("score")
    source = next(
        (row for row in report.alternatives.get(_SOURCE_ONLY, ()) if row.score == "score" and row.site == "all"), None
    )
    values = (own.auc.value if own else None), (source.auc.value if source else None)
    if chosen == _SOURCE_ONLY or values[0] is None or values[1] is None:
        detail = f"The adaptation's gate chose {chosen}, which the version holds."
        return GateResult(gate=gate, passed=True, figure=None, bound=bound, detail=detail)
    difference = values[0] - values[1]
    asked = "the policy does not ask for a bound" if bound is None else f"at least {bound:.3f} is asked"
    detail = f"AUC of {chosen} minus that of source-only is {difference:.3f} on the held-out nodules; {asked}."
    passed = bound is None or difference >= bound
    return GateResult(gate=gate, passed=passed, figure=difference, bound=bound, detail=detail)


def card_gate(report: EvaluationReport, disclosure: Disclosure | None, policy: PromotionPolicy) -> GateResult:
    """The disclosure is there, is of this run, and leaves nothing open that is asked."""
    gate = "card_complete"
    if not policy.require_card and not policy.require_statements:
        detail = "The policy does not ask for a complete disclosure."
        return GateResult(gate=gate, passed=True, figure=None, bound=None, detail=detail)
    if disclosure is None:
        detail = "The version has no disclosure; train it again."
        return GateResult(gate=gate, passed=False, figure=None, bound=None, detail=detail)
    if disclosure.run_id != report.run_id:
        detail = "The disclosure is of another run."
        return GateResult(gate=gate, passed=False, figure=None, bound=None, detail=detail)
    asked = disclosure.not_stated if "all" in policy.require_statements else policy.require_statements
    open_items = [*disclosure.missing] if policy.require_card else []
    open_items += [key for key in disclosure.not_stated if key in asked]
    complete = not open_items and (disclosure.complete or not policy.require_card)
    shown = ", ".join(open_items[:5]) + (f" and {len(open_items) - 5} more" if len(open_items) > 5 else "")
    detail = (
        f"Nothing that is asked of the disclosure is left open; the site has left {len(disclosure.not_stated)} "
        "statements to itself."
        if complete
        else f"The disclosure leaves open: {shown or 'what it does not name'}."
    )
    return GateResult(gate=gate, passed=complete, figure=float(len(open_items)), bound=0.0, detail=detail)


def override_gate(
    overridden: int, answered: int, policy: PromotionPolicy, interval: Figure | None = None
) -> GateResult:
    """How often readers rejected or corrected what this version found, where enough of them answered.

    The rate itself is compared with the bound; its interval is told with it.
    """
    gate, bound = "override_rate", policy.max_override_rate
    rate = overridden / answered if answered else None
    shown = f"Readers overrode {overridden} of {answered} findings of this version"
    if bound is None:
        return GateResult(
            gate=gate, passed=True, figure=rate, bound=None, detail=f"{shown}; the policy does not ask for it."
        )
    if answered < policy.override_min_answers:
        detail = f"{shown}; it is asked from {policy.override_min_answers} answers on."
        return GateResult(gate=gate, passed=True, figure=rate, bound=bound, detail=detail)
    share = interval.text() if interval is not None else f"{rate:.3f}"
    detail = f"{shown}, a share of {share}; at most {bound:.3f} is allowed."
    return GateResult(gate=gate, passed=rate is not None and rate <= bound, figure=rate, bound=bound, detail=detail)


def signoff_gate(signed: Sequence[str], policy: PromotionPolicy) -> GateResult:
    """People of different names signed these bytes off."""
    names = f" ({', '.join(signed)})" if signed else ""
    who = " who did not train it" if policy.signer_is_not_trainer else ""
    asked = f"{policy.signoffs} are asked" if policy.signoffs else "the policy asks for none"
    detail = f"{len(signed)} people{who} signed the version off{names}; {asked}."
    passed = len(signed) >= policy.signoffs
    return GateResult(
        gate="signoff", passed=passed, figure=float(len(signed)), bound=float(policy.signoffs), detail=detail
    )
