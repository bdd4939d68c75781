"""Whether to trust an adapted network, decided without any label of the target site.

Adaptation can make things worse (DANN on a pilot phantom: target AUC 0.882 -> 0.852, worst seed 0.752), so
source-only stays unless every rule holds. Of the label-free scores tried there, InfoMax ranked methods best.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, xlogy
from scipy.stats import rankdata

from data_contracts.errors import ContractError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import AdaptationGateParams
from pipeline.scoring.delong import class_problem, delong
from pipeline.scoring.fusion import fit_platt

#: name of the network that saw no target nodule
SOURCE_ONLY = "source-only"

Floats = NDArray[np.float64]


def entropy(probabilities: ArrayLike) -> Floats:
    """Entropy of Bernoulli(p) in nats, elementwise."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(-(xlogy(p, p) + xlogy(1 - p, 1 - p)))


def infomax(probabilities: Floats) -> float:
    """Mutual information of nodule and predicted class, H(mean p) - mean H(p), in nats, 0 .. ln 2.

    High where predictions are sure and not all the same (Krause, Perona & Gomes, NIPS 2010).
    """
    return float(entropy(probabilities.mean()) - entropy(probabilities).mean())


def agreement_at_prevalence(logits_a: Floats, logits_b: Floats, prevalence: float) -> float:
    """Share of nodules on which two networks agree when each calls its highest `prevalence` of them malignant.

    Agreement at a fixed threshold would punish an adaptation for what it is there for: undoing a shift of all logits.
    """
    called = [rankdata(values, method="ordinal") > values.size * (1 - prevalence) for values in (logits_a, logits_b)]
    return float((called[0] == called[1]).mean())


def decide_adaptation(
    method: str,
    source_val_labels: ArrayLike,
    source_val_logits_by_net: Mapping[str, ArrayLike],
    target_logits_by_net: Mapping[str, ArrayLike],
    params: AdaptationGateParams,
) -> AdaptationDecision:
    """Keep source-only unless the network called `method` passes every rule.

    Parameters
    ----------
    method: name of the adapted network, a key of both mappings beside "source-only".
    source_val_labels: (n,) 0 or 1, validation nodules of the source site.
    source_val_logits_by_net: logits (n,) on these nodules.
    target_logits_by_net: logits (m,) on unlabelled nodules of the target site.

    Each network is first calibrated on source validation, so that the scale of its logits does not pass
    for certainty. Rules: AUC on source validation, InfoMax on target, share predicted malignant on target against
    the source's, agreement with source-only.

    Raises
    ------
    ContractError: one of the two networks is missing from a mapping.
    """
    for mapping in (source_val_logits_by_net, target_logits_by_net):
        for name in (SOURCE_ONLY, method):
            if name not in mapping:
                raise ContractError(f"the adaptation gate has no logits of {name!r}", where=method)
    labels = np.asarray(source_val_labels, dtype=np.float64)
    known = np.isfinite(labels)
    labels = labels[known]
    source = {name: np.asarray(source_val_logits_by_net[name], float)[known] for name in (SOURCE_ONLY, method)}
    target = {name: np.asarray(target_logits_by_net[name], float) for name in (SOURCE_ONLY, method)}
    problem = _problem(labels, source, target)
    if problem:
        return AdaptationDecision(
            method=method, chosen=SOURCE_ONLY, adapted=False, reasons=(f"Do not adapt: {problem}.",), figures={}
        )
    prevalence = float(labels.mean())
    figures = {name: _figures(labels, source[name], target[name]) for name in (SOURCE_ONLY, method)}
    for name in figures:
        figures[name]["agreement"] = agreement_at_prevalence(target[SOURCE_ONLY], target[name], prevalence)
        figures[name]["source_prevalence"] = prevalence
    rules = _rules(figures[SOURCE_ONLY], figures[method], params)
    adapted = all(held for held, _ in rules)
    verdict = (
        f"Adapt: {method} passes every rule." if adapted else f"Do not adapt: {method} fails a rule, source-only stays."
    )
    reasons = (verdict, *(f"{'Holds' if held else 'Fails'}: {sentence}." for held, sentence in rules))
    return AdaptationDecision(
        method=method, chosen=method if adapted else SOURCE_ONLY, adapted=adapted, reasons=reasons, figures=figures
    )


def _problem(labels: Floats, source: Mapping[str, Floats], target: Mapping[str, Floats]) -> str:
    """Why nothing can be decided, or an empty string."""
    missing = class_problem(labels)
    if missing:
        return f"source validation has {missing}"
    if any(values.size == 0 for values in target.values()):
        return "there is no target nodule"
    if any(not np.isfinite(values).all() for values in (*source.values(), *target.values())):
        return "a network gives a logit that is not a number"
    return ""


def _figures(labels: Floats, source_logits: Floats, target_logits: Floats) -> dict[str, float]:
    bias, slope = fit_platt(source_logits, labels)
    target = expit(bias + slope * target_logits)
    return {
        "source_auc": float(delong(labels, source_logits)[0][0]),
        "infomax": infomax(target),
        "predicted_prevalence": float(target.mean()),
        "n_source": float(labels.size),
        "n_target": float(target.size),
    }


def _rules(
    before: Mapping[str, float], after: Mapping[str, float], params: AdaptationGateParams
) -> list[tuple[bool, str]]:
    """Whether each rule holds, and the sentence that says so with its figures."""
    drop = before["source_auc"] - after["source_auc"]
    gain = after["infomax"] - before["infomax"]
    shift = abs(after["predicted_prevalence"] - after["source_prevalence"])
    return [
        (
            drop <= params.max_source_auc_drop + 1e-12,
            f"AUC on source validation {before['source_auc']:.3f} -> {after['source_auc']:.3f} on "
            f"{after['n_source']:.0f} nodules, a drop of at most {params.max_source_auc_drop:.3f} is allowed",
        ),
        (
            gain > params.min_infomax_gain,
            f"InfoMax on target {before['infomax']:.3f} -> {after['infomax']:.3f} nats on "
            f"{after['n_target']:.0f} nodules, a gain above {params.min_infomax_gain:.3f} is asked",
        ),
        (
            shift <= params.max_prevalence_shift,
            f"share predicted malignant on target {after['predicted_prevalence']:.2f} (source-only "
            f"{before['predicted_prevalence']:.2f}) against {after['source_prevalence']:.2f} malignant in source, "
            f"a shift of at most {params.max_prevalence_shift:.2f} is allowed",
        ),
        (
            after["agreement"] >= params.min_agreement,
            f"agreement with source-only on target {after['agreement']:.2f}, "
            f"at least {params.min_agreement:.2f} is asked",
        ),
    ]
