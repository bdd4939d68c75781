"""The adaptation gate: bad adaptations are refused, a good one is accepted, and doubt means source-only."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import ContractError
from data_contracts.params import AdaptationGateParams
from pipeline.scoring.adaptation_gate import agreement_at_prevalence, decide_adaptation, entropy, infomax

PARAMS = AdaptationGateParams()


def world(seed=0):
    """Source validation labels, and logits of source-only and of a good adaptation on source and target.

    On the target the source network's logits are blurred by noise that a good adaptation takes away.
    """
    rng = np.random.default_rng(seed)
    labels, target_labels = np.repeat([0, 1], 60), np.repeat([0, 1], 100)
    source = 4 * (labels - 0.5) + rng.normal(size=120)
    clear = 4 * (target_labels - 0.5) + rng.normal(size=200)
    blurred = 0.4 * clear + 0.5 * rng.normal(size=200)
    return labels, source, clear, blurred


def decide(adapted_source, adapted_target, *, labels, source, blurred, params=PARAMS):
    return decide_adaptation(
        "dann",
        labels,
        {"source-only": source, "dann": adapted_source},
        {"source-only": blurred, "dann": adapted_target},
        params,
    )


def failed(decision):
    return [reason for reason in decision.reasons if reason.startswith("Fails")]


def test_a_good_adaptation_is_accepted_with_figures_for_every_rule():
    labels, source, clear, blurred = world()
    decision = decide(source + 0.01, clear, labels=labels, source=source, blurred=blurred)
    assert decision.adapted and decision.chosen == "dann"
    assert decision.reasons[0] == "Adapt: dann passes every rule."
    assert len(decision.reasons) == 5 and not failed(decision)
    assert decision.figures["dann"]["infomax"] > decision.figures["source-only"]["infomax"]
    assert decision.figures["dann"]["n_target"] == 200


def test_a_loss_on_the_source_is_refused():
    labels, source, clear, blurred = world()
    worse = source + 3 * np.random.default_rng(1).normal(size=source.size)
    decision = decide(worse, clear, labels=labels, source=source, blurred=blurred)
    assert not decision.adapted and decision.chosen == "source-only"
    assert any("AUC on source validation" in reason for reason in failed(decision))


@pytest.mark.parametrize("value", [-6.0, 0.0, 6.0])
def test_predictions_that_collapse_to_one_class_are_refused(value):
    labels, source, _, blurred = world()
    collapsed = value + 1e-3 * np.random.default_rng(1).normal(size=blurred.size)
    decision = decide(source, collapsed, labels=labels, source=source, blurred=blurred)
    assert decision.chosen == "source-only"
    assert any("InfoMax" in reason for reason in failed(decision))


def test_a_shifted_prevalence_is_refused_even_where_the_predictions_are_sure():
    labels, source, clear, blurred = world()
    shifted = np.where(np.argsort(np.argsort(clear)) < 50, clear - 4, clear + 6)
    decision = decide(source, shifted, labels=labels, source=source, blurred=blurred)
    assert decision.chosen == "source-only"
    assert [reason for reason in failed(decision) if "share predicted malignant" in reason]


def test_sure_predictions_that_contradict_source_only_are_refused():
    labels, source, clear, blurred = world()
    decision = decide(source, -clear, labels=labels, source=source, blurred=blurred)
    assert decision.chosen == "source-only"
    assert [reason for reason in failed(decision) if "agreement" in reason] == failed(decision)


def test_an_adaptation_that_changes_nothing_is_refused():
    labels, source, _, blurred = world()
    decision = decide(source, blurred, labels=labels, source=source, blurred=blurred)
    assert decision.chosen == "source-only"
    assert [reason for reason in failed(decision) if "InfoMax" in reason] == failed(decision)


def test_larger_logits_do_not_pass_for_certainty():
    labels, source, _, blurred = world()
    decision = decide(5 * source, 5 * blurred, labels=labels, source=source, blurred=blurred)
    gain = decision.figures["dann"]["infomax"] - decision.figures["source-only"]["infomax"]
    assert abs(gain) < 0.05


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("no labels", "no nodule with a label"),
        ("one class", "no malignant nodule"),
        ("no target", "no target nodule"),
        ("nan", "not a number"),
    ],
)
def test_what_cannot_be_judged_is_refused(broken, why):
    labels, source, clear, blurred = world()
    labels = labels.astype(float)
    if broken == "no labels":
        labels[:] = np.nan
    elif broken == "one class":
        labels[labels == 1] = np.nan
    elif broken == "no target":
        clear = blurred = np.array([])
    else:
        clear[0] = np.nan
    decision = decide(source, clear, labels=labels, source=source, blurred=blurred)
    assert decision.chosen == "source-only" and not decision.adapted
    assert why in decision.reasons[0]


def test_a_network_without_logits_is_an_error_that_names_it():
    with pytest.raises(ContractError, match="dann"):
        decide_adaptation("dann", [0, 1], {"source-only": [0, 1]}, {"source-only": [0], "dann": [0]}, PARAMS)


def test_infomax_is_highest_for_sure_and_balanced_predictions():
    assert infomax(np.array([0.0, 1.0])) == pytest.approx(np.log(2))
    assert infomax(np.array([1.0, 1.0])) == 0
    assert infomax(np.array([0.5, 0.5])) == pytest.approx(0, abs=1e-12)
    assert entropy([0.5, 0.0, 1.0]) == pytest.approx([np.log(2), 0, 0])


def test_agreement_does_not_see_a_shift_of_all_logits():
    logits = np.random.default_rng(0).normal(size=101)
    assert agreement_at_prevalence(logits, logits - 8, 0.3) == 1.0
    assert agreement_at_prevalence(logits, -logits, 0.5) < 0.05
