"""The rule that chooses among source-only and adapted networks, and may say "do not adapt".

Why each part of it stands there: docs/adaptation.md. It was fixed before the scenarios that judge it were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from data_contracts.errors import ContractError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import AdaptationGateParams
from pipeline.scoring.delong import class_problem
from pipeline.scoring.shift.evidence import Floats, NetworkOutputs, shift_figures

#: name of the network that saw no target nodule
SOURCE_ONLY = "source-only"

_Figures = Mapping[str, float]


def decide_adaptation(
    source_labels: ArrayLike, networks: Mapping[str, NetworkOutputs], params: AdaptationGateParams
) -> AdaptationDecision:
    """Keep source-only unless there is a shift and an adapted network passes every test; of those that do, one.

    Parameters
    ----------
    source_labels: (n,) 0 or 1, NaN where unknown, of the validation nodules of the source site.
    networks: by name what each says, "source-only" among them and any number of adapted ones.

    Of the adapted networks that pass, the one whose logits on the target are nearest to a mix of the source's classes
    is taken.

    Raises
    ------
    ContractError: source-only is missing, or no other network is there.
    """
    offered = [name for name in networks if name != SOURCE_ONLY]
    if SOURCE_ONLY not in networks or not offered:
        raise ContractError(
            "the adaptation gate needs source-only and an adapted network", where=", ".join(networks) or "nothing"
        )
    method = ", ".join(offered)
    labels = np.asarray(source_labels, dtype=np.float64)
    known = np.isfinite(labels)
    labels, usable = labels[known], {name: _of_labelled(network, known) for name, network in networks.items()}
    problem = _problem(labels, usable)
    if problem:
        return AdaptationDecision(
            method=method, chosen=SOURCE_ONLY, adapted=False, reasons=(f"Do not adapt: {problem}.",), figures={}
        )
    base = usable[SOURCE_ONLY]
    figures = {name: shift_figures(labels, network, base) for name, network in usable.items()}
    seen, shift = _shift(figures[SOURCE_ONLY], params)
    failed = {name: _failed(figures[SOURCE_ONLY], figures[name], params) for name in offered}
    passing = [name for name in offered if not failed[name]]
    chosen = min(passing, key=lambda name: figures[name]["mixture_excess"]) if seen and passing else SOURCE_ONLY
    if not seen:
        verdict = "Do not adapt: no shift is seen that a mix of classes does not explain."
    elif chosen == SOURCE_ONLY:
        verdict = "Do not adapt: no adapted network passes every test."
    else:
        verdict = f"Adapt: of the networks that pass every test, {chosen} is nearest to a mix of the source's classes."
    each = [f"{name}: {_sentence(figures[SOURCE_ONLY], figures[name], failed[name])}" for name in offered]
    return AdaptationDecision(
        method=method,
        chosen=chosen,
        adapted=chosen != SOURCE_ONLY,
        reasons=(verdict, f"Shift: {shift}.", *each),
        figures=figures,
    )


def _of_labelled(network: NetworkOutputs, known: np.ndarray) -> NetworkOutputs:
    vectors = network.source_vectors
    return NetworkOutputs(
        np.asarray(network.source_logits, dtype=np.float64)[known],
        np.asarray(network.target_logits, dtype=np.float64),
        None if vectors is None else np.asarray(vectors)[known],
        network.target_vectors,
    )


def _problem(labels: Floats, networks: Mapping[str, NetworkOutputs]) -> str:
    """Why nothing can be decided, or an empty string."""
    missing = class_problem(labels)
    if missing:
        return f"source validation has {missing}"
    if any(np.size(network.target_logits) == 0 for network in networks.values()):
        return "there is no target nodule"
    for name, network in networks.items():
        values = (network.source_logits, network.target_logits, network.source_vectors, network.target_vectors)
        if not all(np.isfinite(np.asarray(value)).all() for value in values if value is not None):
            return f"{name} gives a value that is not a number"
    return ""


def _shift(source_only: _Figures, params: AdaptationGateParams) -> tuple[bool, str]:
    """Whether the images of the two sites differ by more than their mix of classes, and the figures that say so."""
    excess = source_only["mixture_excess"]
    words = (
        f"the nearest mix of the source's classes ({source_only['mixture_prevalence']:.2f} malignant) is "
        f"{excess:.2f} times as far from source-only's logits on the target as sampling allows"
    )
    distance = source_only.get("proxy_a_distance")
    if distance is None:
        return excess > 1, words
    words += (
        f"; its representations tell the sites apart with proxy A-distance {distance:.2f}, "
        f"from {params.min_domain_distance:.2f} on a shift is seen"
    )
    return excess > 1 or distance >= params.min_domain_distance, words


def _failed(before: _Figures, after: _Figures, params: AdaptationGateParams) -> list[str]:
    """The tests that an adapted network does not pass, in words."""
    failed = []
    if after["source_auc_drop"] > params.max_source_auc_drop + 1e-12:
        failed.append(
            f"AUC on source validation {before['source_auc']:.3f} -> {after['source_auc']:.3f}, a drop of "
            f"{after['source_auc_drop']:.4f} [{after['source_auc_drop_low']:.3f} to "
            f"{after['source_auc_drop_high']:.3f}], at most {params.max_source_auc_drop:.4f} is allowed"
        )
    if after["infomax"] - before["infomax"] <= params.min_infomax_gain:
        failed.append(
            f"InfoMax on target {before['infomax']:.3f} -> {after['infomax']:.3f} nats, "
            f"a gain above {params.min_infomax_gain:.3f} is asked"
        )
    farthest = max(params.max_mixture_excess, before["mixture_excess"])
    if after["mixture_excess"] > farthest:
        failed.append(
            f"its logits on target are {after['mixture_excess']:.2f} times as far from every mix of the source's "
            f"classes as sampling allows, source-only's {before['mixture_excess']:.2f}: at most {farthest:.2f} is asked"
        )
    if after["agreement"] < params.min_agreement:
        failed.append(
            f"agreement with source-only on target {after['agreement']:.2f}, "
            f"at least {params.min_agreement:.2f} is asked"
        )
    return failed


def _sentence(before: _Figures, after: _Figures, failed: list[str]) -> str:
    if failed:
        return f"refused, {'; '.join(failed)}."
    return (
        f"passes, its logits on target are {after['mixture_excess']:.2f} times as far from a mix of the source's "
        f"classes as sampling allows, InfoMax {before['infomax']:.3f} -> {after['infomax']:.3f} nats, "
        f"AUC on source validation {before['source_auc']:.3f} -> {after['source_auc']:.3f}, malignant on target "
        f"{before['predicted_prevalence']:.2f} -> {after['predicted_prevalence']:.2f}, "
        f"agreement with source-only {after['agreement']:.2f}."
    )
