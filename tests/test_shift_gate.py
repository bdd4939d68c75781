"""The gate: bad adaptations are refused, of good ones the one that fits the source is taken, doubt is source-only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_contracts.errors import ContractError
from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import AdaptationGateParams
from pipeline.scoring.shift.evidence import NetworkOutputs
from pipeline.scoring.shift.gate import decide_adaptation

LABELS = np.repeat([0.0, 1.0], 60)
TRUTH = np.repeat([0.0, 1.0], 100)


def _logits(labels: np.ndarray, seed: int, *, gap: float = 4.0) -> np.ndarray:
    return gap * (labels - 0.5) + np.random.default_rng(seed).normal(size=len(labels))


SOURCE = _logits(LABELS, 0)
CLEAR = _logits(TRUTH, 1)
#: what a shift of the images leaves of it: blurred, and all called more benign
BLURRED = 0.4 * CLEAR + 0.5 * np.random.default_rng(2).normal(size=200) - 1.5
#: representations by which the two sites can be told apart
VECTORS = (
    np.random.default_rng(7).normal(size=(120, 3)),
    np.random.default_rng(8).normal(size=(200, 3)) + np.array([3, 0, 0]),
)
SOURCE_ONLY = NetworkOutputs(SOURCE, BLURRED, *VECTORS)
GOOD = NetworkOutputs(SOURCE + 0.01, CLEAR)


def decide(
    *adapted: NetworkOutputs, base: NetworkOutputs = SOURCE_ONLY, labels: np.ndarray = LABELS, joinable: bool = False
) -> AdaptationDecision:
    networks = {"source-only": base} | dict(zip(("dann", "coral", "mcc"), adapted, strict=False))
    return decide_adaptation(labels, networks, AdaptationGateParams(), joinable=joinable)


def why(decision: AdaptationDecision, name: str = "dann") -> str:
    return next(reason for reason in decision.reasons if reason.startswith(f"{name}: "))


def test_a_good_adaptation_is_accepted_and_told_why():
    decision = decide(GOOD)
    assert decision.adapted and decision.chosen == "dann"
    assert decision.reasons[0].startswith(
        "Adapt: of the networks that pass every test, dann is nearest to a mix of the source's classes."
    )
    assert why(decision).startswith("dann: passes, its logits on target are")
    assert decision.figures["dann"]["infomax"] > decision.figures["source-only"]["infomax"]
    assert decision.figures["dann"]["n_target"] == 200


#: surer than CLEAR, but less like the source
FARTHER = NetworkOutputs(SOURCE, _logits(TRUTH, 1, gap=4.5))


def test_of_several_that_pass_the_one_nearest_to_a_mix_of_the_sources_classes_is_taken_and_each_is_told_why():
    nearest, refused = (
        NetworkOutputs(SOURCE, np.quantile(SOURCE, np.linspace(0, 1, 200))),
        NetworkOutputs(SOURCE, -CLEAR),
    )
    decision = decide(FARTHER, nearest, refused)
    excess = {name: decision.figures[name]["mixture_excess"] for name in ("dann", "coral")}
    assert excess["coral"] < excess["dann"]
    assert decision.chosen == "coral" and decision.method == "dann, coral, mcc"
    assert why(decision, "dann").startswith("dann: passes")
    assert why(decision, "coral").startswith("coral: passes")
    assert why(decision, "mcc").startswith("mcc: refused, agreement")


def test_the_order_in_which_networks_are_offered_does_not_matter():
    chosen = [decide(GOOD, FARTHER), decide(FARTHER, GOOD)]
    assert {one.chosen for one in chosen} == {"dann", "coral"} and chosen[0].figures["dann"] == chosen[1].figures[
        "coral"
    ]


def test_without_a_shift_nothing_is_adapted_however_sure_the_adapted_network_is():
    same = NetworkOutputs(SOURCE, _logits(TRUTH, 3))
    decision = decide(NetworkOutputs(SOURCE, _logits(TRUTH, 3, gap=8.0)), base=same)
    assert decision.chosen == "source-only"
    assert decision.reasons[0] == "Do not adapt: no shift is seen that a mix of classes does not explain."
    assert (decision.scale, decision.offset) == (1.0, 0.0)


def test_another_mix_of_classes_is_no_reason_to_adapt():
    few = np.repeat([0.0, 1.0], [180, 20])
    base = NetworkOutputs(SOURCE, _logits(few, 4))
    # what an alignment of marginals does: half of the benign ones called malignant
    aligned = NetworkOutputs(SOURCE, _logits((np.arange(200) % 2).astype(float), 4))
    assert decide(aligned, base=base).chosen == "source-only"


def test_a_shift_that_only_the_representations_show_is_seen():
    base, surer = _logits(TRUTH, 6, gap=3.0), NetworkOutputs(SOURCE, _logits(TRUTH, 6, gap=4.0), *VECTORS)
    blind = decide(surer, base=NetworkOutputs(SOURCE, base))
    seeing = decide(surer, base=NetworkOutputs(SOURCE, base, *VECTORS))
    assert blind.chosen == "source-only"
    assert seeing.chosen == "dann"
    assert seeing.figures["source-only"]["proxy_a_distance"] > 1.5
    assert {"snd", "dev"} <= set(seeing.figures["dann"])


def test_a_loss_on_the_source_is_refused_with_its_interval():
    worse = SOURCE + 3 * np.random.default_rng(1).normal(size=SOURCE.size)
    decision = decide(NetworkOutputs(worse, CLEAR))
    assert decision.chosen == "source-only"
    assert "AUC on source validation" in why(decision) and " to " in why(decision)


@pytest.mark.parametrize("value", [-6.0, 0.0, 6.0])
def test_predictions_that_collapse_to_one_class_are_refused(value):
    collapsed = value + 1e-3 * np.random.default_rng(1).normal(size=200)
    decision = decide(NetworkOutputs(SOURCE, collapsed))
    assert decision.chosen == "source-only"
    assert "InfoMax" in why(decision)


def test_sure_predictions_that_contradict_source_only_are_refused():
    decision = decide(NetworkOutputs(SOURCE, -CLEAR))
    assert decision.chosen == "source-only"
    assert why(decision).startswith("dann: refused, agreement")


def test_an_adaptation_that_changes_nothing_is_refused():
    decision = decide(SOURCE_ONLY)
    assert decision.chosen == "source-only"
    assert decision.reasons[0].startswith("Do not adapt: no adapted network passes every test.")


def test_larger_logits_do_not_pass_for_certainty():
    decision = decide(NetworkOutputs(5 * SOURCE, 5 * BLURRED))
    gain = decision.figures["dann"]["infomax"] - decision.figures["source-only"]["infomax"]
    assert abs(gain) < 0.05


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("no labels", "no nodule with a label"),
        ("one class", "no malignant nodule"),
        ("no target", "no target nodule"),
        ("nan", "dann gives a value that is not a number"),
    ],
)
def test_what_cannot_be_judged_is_refused(broken, said):
    labels, good, base = LABELS.copy(), GOOD, SOURCE_ONLY
    if broken == "no labels":
        labels[:] = np.nan
    elif broken == "one class":
        labels[labels == 1] = np.nan
    elif broken == "no target":
        good, base = (replace(network, target_logits=np.array([])) for network in (good, base))
    else:
        good = replace(good, target_logits=np.where(np.arange(200) == 3, np.nan, CLEAR))
    decision = decide(good, base=base, labels=labels)
    assert decision.chosen == "source-only" and not decision.adapted
    assert said in decision.reasons[0]


def test_a_missing_network_is_an_error():
    with pytest.raises(ContractError, match="source-only"):
        decide_adaptation(LABELS, {"dann": GOOD}, AdaptationGateParams())
    with pytest.raises(ContractError, match="adapted network"):
        decide_adaptation(LABELS, {"source-only": GOOD}, AdaptationGateParams())


def test_networks_that_can_be_joined_are_joined_with_source_only_where_each_passes():
    refused = NetworkOutputs(SOURCE, -CLEAR)
    decision = decide(GOOD, FARTHER, refused, joinable=True)
    assert (decision.chosen, decision.adapted) == ("joined", True)
    assert decision.members == ("source-only", "dann", "coral")
    assert decision.weights == (0.5, 0.25, 0.25)
    assert decision.reasons[0].startswith(
        "Adapt: the mean of source-only and of those that pass every test together (dann, coral) is kept."
    )
    assert decide(refused, joinable=True).members == ("source-only",)


def moved(logits: np.ndarray) -> NetworkOutputs:
    """Source-only where another scanner has moved and stretched its logits."""
    return NetworkOutputs(SOURCE, 0.7 * logits - 1.0, *VECTORS)


def test_logits_that_a_scanner_moved_are_moved_back_and_their_order_stays():
    decision = decide(NetworkOutputs(SOURCE, -CLEAR), base=moved(CLEAR))
    assert decision.chosen == "source-only" and not decision.adapted
    assert decision.reasons[0].startswith("Do not adapt: no adapted network passes every test. Logits on the target")
    aligned = decision.scale * (0.7 * CLEAR - 1.0) + decision.offset
    assert decision.scale > 1.0
    assert np.abs(aligned - CLEAR).mean() < 0.3 * np.abs(0.3 * CLEAR + 1.0).mean()


@pytest.mark.parametrize("malignant", [20, 100, 180])
def test_logits_are_moved_back_whatever_the_mix_of_classes(malignant):
    truth = np.repeat([0.0, 1.0], [200 - malignant, malignant])
    logits = _logits(truth, 5)
    decision = decide(NetworkOutputs(SOURCE, -logits), base=moved(logits))
    aligned = decision.scale * (0.7 * logits - 1.0) + decision.offset
    wrong = [((values > 0) != (truth == 1)).mean() for values in (logits, 0.7 * logits - 1.0, aligned)]
    assert wrong[2] <= wrong[0] + 0.05


@pytest.mark.parametrize("seed", range(4, 10))
def test_another_mix_of_classes_alone_turns_hardly_any_call(seed):
    logits = _logits(np.repeat([0.0, 1.0], [180, 20]), seed)
    decision = decide(NetworkOutputs(SOURCE, -logits), base=NetworkOutputs(SOURCE, logits))
    aligned = decision.scale * logits + decision.offset
    assert ((aligned > 0) != (logits > 0)).mean() <= 0.05
