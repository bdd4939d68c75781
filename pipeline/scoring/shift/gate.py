"""The rule that chooses among source-only and adapted networks, and may say "do not adapt".

Why each part of it stands there: docs/adaptation.md. It was fixed before the scenarios that judge it were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from data_contracts.errors import ContractError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import AdaptationGateParams
from pipeline.scoring.delong import class_problem
from pipeline.scoring.shift.alignment import LogitAlignment, align_to_mixture
from pipeline.scoring.shift.evidence import Floats, NetworkOutputs, shift_figures

#: name of the network that saw no target nodule
SOURCE_ONLY = "source-only"
#: name of several networks kept as one
JOINED = "joined"

_Figures = Mapping[str, float]


def decide_adaptation(
    source_labels: ArrayLike,
    networks: Mapping[str, NetworkOutputs],
    params: AdaptationGateParams,
    *,
    joinable: bool = True,
) -> AdaptationDecision:
    """Which networks to keep on the target, and how their logits are aligned there; source-only as it is in doubt.

    Parameters
    ----------
    source_labels: (n,) 0 or 1, NaN where unknown, of the validation nodules of the source site.
    networks: by name what each says, "source-only" among them and any number of adapted ones.
    joinable: whether networks can be kept as one whose logit is the mean of theirs.

    Where a shift is seen, source-only is joined by every adapted network that passes each test; where networks cannot
    be joined, the one whose logits on the target are nearest to a mix of the source's classes takes its place. Then the
    logits on the target are stretched and moved to a mix of the source's classes (`align_to_mixture`).

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
        reasons = (f"Do not adapt: {problem}.",)
        return AdaptationDecision(
            method=method,
            chosen=SOURCE_ONLY,
            adapted=False,
            members=(SOURCE_ONLY,),
            weights=(1.0,),
            reasons=reasons,
            figures={},
        )
    base = usable[SOURCE_ONLY]
    figures = {name: shift_figures(labels, network, base) for name, network in usable.items()}
    seen, shift = _shift(figures[SOURCE_ONLY], params)
    failed = {name: _failed(figures[SOURCE_ONLY], figures[name], params) for name in offered}
    passing = [name for name in offered if not failed[name]] if seen else []
    members = _members(passing, figures, joinable=joinable)
    weights = weights_of(members)
    alignment = _alignment(labels, [usable[name] for name in members], weights, params)
    chosen = members[0] if len(members) == 1 else JOINED
    each = [f"{name}: {_sentence(figures[SOURCE_ONLY], figures[name], failed[name])}" for name in offered]
    return AdaptationDecision(
        method=method,
        chosen=chosen,
        adapted=chosen != SOURCE_ONLY,
        members=members,
        weights=weights,
        scale=alignment.scale,
        offset=alignment.offset,
        reasons=(_verdict(members, alignment, seen=seen), f"Shift: {shift}.", *each),
        figures=figures,
    )


def _members(passing: list[str], figures: Mapping[str, _Figures], *, joinable: bool) -> tuple[str, ...]:
    """Networks whose mean by `weights_of` is kept."""
    if not passing:
        return (SOURCE_ONLY,)
    if joinable:
        return (SOURCE_ONLY, *passing)
    return (min(passing, key=lambda name: figures[name]["mixture_excess"]),)


def weights_of(members: tuple[str, ...]) -> tuple[float, ...]:
    """What each member counts: source-only as much as all the others together, because what they share may be wrong."""
    if len(members) == 1:
        return (1.0,)
    return tuple(0.5 if name == SOURCE_ONLY else 0.5 / (len(members) - 1) for name in members)


def _alignment(
    labels: Floats, members: Sequence[NetworkOutputs], weights: Sequence[float], params: AdaptationGateParams
) -> LogitAlignment:
    """Of the mean of some networks."""
    source, target = (
        np.average([np.asarray(values, dtype=np.float64) for values in part], axis=0, weights=weights)
        for part in zip(*((member.source_logits, member.target_logits) for member in members), strict=True)
    )
    return align_to_mixture(labels, source, target, penalty=params.alignment_penalty)


def _verdict(members: tuple[str, ...], alignment: LogitAlignment, *, seen: bool) -> str:
    """What is kept and why, in a sentence or two."""
    if members == (SOURCE_ONLY,):
        why = (
            "no adapted network passes every test"
            if seen
            else "no shift is seen that a mix of classes does not explain"
        )
        start = f"Do not adapt: {why}."
    elif len(members) == 1:
        start = (
            f"Adapt: of the networks that pass every test, {members[0]} is nearest to a mix of the source's classes."
        )
    else:
        others = ", ".join(members[1:])
        start = f"Adapt: the mean of {members[0]} and of those that pass every test together ({others}) is kept."
    if alignment.is_none:
        return start
    return (
        f"{start} Logits on the target are aligned, {alignment.scale:.2f} * logit {alignment.offset:+.2f}: they are "
        f"then {alignment.excess_after:.2f} instead of {alignment.excess_before:.2f} times as far from the nearest mix "
        "of the source's classes as sampling allows; the order of nodules stays."
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
