"""Every promotion gate holds for a sound version, and refuses its own fault with a sentence and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.evaluation import AdaptationDecision, Figure, SubgroupFigures
from data_contracts.params import EvaluateParams
from data_contracts.promotion import PromotionPolicy
from pipeline.scoring.evaluation import build_report
from pipeline.scoring.gates import Evidence, promotion_gates

POLICY = PromotionPolicy()
GATES = {
    "report_matches_predictions",
    "no_leak",
    "test_nodules",
    "auc",
    "size_baseline",
    "size_matched_auc",
    "calibration",
    "calibration_slope",
    "worst_subgroup",
    "not_worse_than_champion",
    "pretrained",
    "warnings",
}


def held_out(n=200, strength=3.0, size_strength=0.4, seed=0):
    """Predictions whose `score` is calibrated and as good as `strength` says."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    latent = strength * (label - 0.5) + rng.normal(size=n)
    diameter = np.exp(2.1 + size_strength * (label - 0.5) + 0.4 * rng.normal(size=n))
    return pd.DataFrame(
        {
            "patch_id": [f"patch{i}" for i in range(n)],
            "nodule_id": [f"nodule{i}" for i in range(n)],
            "patient_key": [f"patient{i // 2}" for i in range(n)],
            "split": "test",
            "fold": 0,
            "site": "a",
            "label": pd.array(label, dtype="Int8"),
            "score": 1 / (1 + np.exp(-strength * latent)),
            "score_size": diameter / (diameter + 10),
            "score_image": 1 / (1 + np.exp(-strength * latent)),
            "diameter_mm": diameter,
        }
    )


def report_of(table, pretrained=True):
    return build_report(
        table,
        run_id="run",
        dataset_id="dataset",
        backbone="resnet18",
        weights="auto" if pretrained else "none",
        pretrained=pretrained,
        protocol="held out",
        thresholds={},
        params=EvaluateParams(bootstrap=100),
    )


def refused(table, champion=None, policy=POLICY, report=None, **more):
    """The gates that refuse, by name; each must say why in a sentence."""
    gates = promotion_gates(report or report_of(table), table, champion, policy, **more)
    assert {gate.gate for gate in gates} == GATES
    for gate in gates:
        assert len(gate.detail.split()) > 3 and gate.detail.endswith("."), gate
    return {gate.gate: gate for gate in gates if not gate.passed}


def test_a_sound_first_version_passes_every_gate():
    assert not refused(held_out())


def test_a_sound_version_passes_beside_an_equal_champion():
    assert not refused(held_out(), held_out())


def test_too_few_test_nodules_are_refused():
    gate = refused(held_out(18))["test_nodules"]
    assert (gate.figure, gate.bound) == (18, 20)
    assert "18 held-out nodules" in gate.detail


def test_an_auc_at_chance_is_refused_with_its_interval():
    gate = refused(held_out(strength=0.01))["auc"]
    assert gate.figure < 0.6 == gate.bound
    assert "[" in gate.detail and "200 nodules" in gate.detail


def test_a_network_worse_than_the_diameter_is_refused():
    gate = refused(held_out(strength=0.8, size_strength=2.0))["size_baseline"]
    assert gate.figure < gate.bound == -0.05


def test_probabilities_that_lie_are_refused():
    table = held_out()
    table["score"] = 0.98 + 0.02 * table["score"]
    gates = refused(table)
    assert set(gates) == {"calibration"}
    assert gates["calibration"].figure > 0.2 == gates["calibration"].bound


def test_a_version_worse_than_the_champion_is_refused():
    table, champion = held_out(strength=1.0), held_out(strength=3.0)
    gate = refused(table, champion)["not_worse_than_champion"]
    assert gate.figure < gate.bound == -0.02
    assert "same 200 nodules" in gate.detail


def test_a_version_as_good_on_paper_but_not_surely_is_refused():
    table, champion = held_out(40, seed=1), held_out(40, seed=2)
    gates = refused(table, champion)
    assert set(gates) == {"not_worse_than_champion"}


def test_a_champion_that_scored_other_nodules_cannot_be_compared():
    champion = held_out()
    champion["patch_id"] += "x"
    champion["nodule_id"] += "x"
    gate = refused(held_out(), champion)["not_worse_than_champion"]
    assert gate.figure is None and "No paired comparison" in gate.detail


def test_a_handful_of_nodules_in_common_with_the_champion_is_no_comparison():
    gate = refused(held_out(), held_out().iloc[:6])["not_worse_than_champion"]
    assert "only 6 of the same nodules" in gate.detail


def test_a_patient_in_two_splits_is_found():
    table = held_out()
    table.loc[0, "split"] = "validation"
    gates = refused(table)
    assert set(gates) == {"no_leak"}
    assert gates["no_leak"].figure == 1
    assert gates["no_leak"].detail.startswith("1 of 100 held-out patients")


def test_a_patient_in_two_folds_is_found():
    table = held_out()
    table.loc[[1, 5], "fold"] = 3
    assert refused(table)["no_leak"].figure == 2


def test_a_patient_the_version_was_fitted_on_is_found():
    gates = refused(held_out(), fitted_patients=["patient7", "patient8", "someone else"])
    assert set(gates) == {"no_leak"} and gates["no_leak"].figure == 2
    assert "patient7" not in gates["no_leak"].detail


def test_a_report_of_other_predictions_is_refused():
    gate = refused(held_out(seed=1), report=report_of(held_out()))["report_matches_predictions"]
    assert "The report states AUC" in gate.detail


def test_a_report_that_counts_more_nodules_than_there_are_predictions_is_refused():
    report = report_of(held_out()).model_copy(update={"n_nodules": 5000})
    gates = refused(held_out(), report=report)
    assert set(gates) == {"report_matches_predictions"}
    assert "on 5000 nodules" in gates["report_matches_predictions"].detail


@pytest.mark.parametrize("asked", [True, False])
def test_random_weights_are_refused_only_where_the_policy_asks_for_pretrained_ones(asked):
    table = held_out()
    gates = refused(table, policy=PromotionPolicy(require_pretrained=asked), report=report_of(table, pretrained=False))
    assert set(gates) == ({"pretrained"} if asked else set())


@pytest.mark.parametrize("kept", [[], [0], [1]], ids=["no rows", "benign only", "malignant only"])
def test_predictions_without_both_classes_are_refused_and_raise_nothing(kept):
    table = held_out()
    table = table[table["label"].isin(kept)]
    gates = refused(table, held_out())
    assert {"report_matches_predictions", "auc", "size_baseline", "not_worse_than_champion"} <= set(gates)
    assert gates["auc"].figure is None


def test_a_report_without_the_fused_score_is_refused():
    report = report_of(held_out()).model_copy(update={"figures": ()})
    assert {"report_matches_predictions", "auc", "calibration"} <= set(refused(held_out(), report=report))


def with_subgroup(report, name, auc, n):
    figure = Figure(value=auc, n=n)
    row = SubgroupFigures(
        variable="texture", level=name, n=n, n_positive=n // 2, n_patients=n, flagged=n < 30, auc=figure,
        size_auc=figure, sensitivity=figure, specificity=figure, ece=figure,
    )  # fmt: skip
    return report.model_copy(update={"subgroups": (row,)})


def test_a_subgroup_that_is_served_worse_than_chance_is_refused_by_name():
    table = held_out()
    gate = refused(table, report=with_subgroup(report_of(table), "ground glass", 0.41, 30))["worst_subgroup"]
    assert (gate.figure, gate.bound) == (0.41, 0.5)
    assert "texture ground glass: AUC 0.410 on 30" in gate.detail
    assert not refused(table, report=with_subgroup(report_of(table), "ground glass", 0.41, 29))


def test_a_subgroup_that_the_report_is_silent_about_is_computed_from_the_predictions():
    table = held_out()
    table["manufacturer"] = np.where(np.arange(200) < 60, "A", "B")
    swapped = table["manufacturer"] == "A"
    table.loc[swapped, "score"] = 1 - table.loc[swapped, "score"]
    gate = refused(table)["worst_subgroup"]
    assert "manufacturer A" in gate.detail and gate.figure < 0.1


def test_the_size_matched_floor_and_the_slope_are_asked_where_the_policy_does():
    table = held_out()
    policy = PromotionPolicy(min_size_matched_auc=0.999, min_calibration_slope=50.0)
    gates = refused(table, policy=policy)
    assert set(gates) == {"size_matched_auc", "calibration_slope"}
    assert gates["size_matched_auc"].bound == 0.999


@pytest.mark.parametrize("asked", [True, False])
def test_swapped_labels_are_refused_unless_the_policy_lets_them_pass(asked):
    table = held_out()
    report = report_of(table).model_copy(
        update={"warnings": ("Malignant nodules are the smaller ones: benign and malignant look swapped.",)}
    )
    gates = refused(table, report=report, policy=PromotionPolicy(refuse_severe_warnings=asked))
    assert set(gates) == ({"warnings"} if asked else set())


def test_a_run_that_does_not_say_whom_it_learned_from_is_refused():
    assert "a leak cannot be ruled out" in refused(held_out(), fitted_patients=None)["no_leak"].detail


def evidence_gates(report=None, policy=POLICY, **evidence):
    table = held_out()
    report = report or report_of(table)
    gates = promotion_gates(report, table, None, policy, evidence=Evidence(**evidence))
    return {gate.gate: gate for gate in gates if not gate.passed}


def test_a_version_without_disclosure_seal_or_sign_offs_is_refused_where_they_are_asked():
    gates = evidence_gates(policy=PromotionPolicy(signoffs=2), sealed=False, signed=("Ada",))
    assert set(gates) == {"card_complete", "sealed", "signoff"}
    assert "1 people signed the version off (Ada); 2 are asked" in gates["signoff"].detail


def test_readers_who_overrode_too_much_refuse_a_version_once_enough_of_them_answered():
    policy = PromotionPolicy(require_card=False, max_override_rate=0.25)
    assert set(evidence_gates(policy=policy, overrides=(6, 20))) == {"override_rate"}
    assert not evidence_gates(policy=policy, overrides=(5, 20))
    assert not evidence_gates(policy=policy, overrides=(19, 19))


def test_a_network_that_the_adaptation_did_not_choose_or_that_lost_too_much_is_refused():
    table = held_out(strength=1.0)
    better = report_of(held_out(strength=3.0))
    decision = AdaptationDecision(method="coral", chosen="coral", adapted=True, reasons=("yes",), figures={})
    report = report_of(table).model_copy(
        update={"adaptation": decision, "alternatives": {"source-only": better.figures}}
    )
    policy = PromotionPolicy(require_card=False)
    assert "chose coral, the version holds dann" in evidence_gates(report, policy, network="dann")["adaptation"].detail
    assert evidence_gates(report, policy, network="coral")["adaptation"].figure < -0.02
    sound = report.model_copy(update={"alternatives": {"source-only": report.figures}})
    assert "adaptation" not in evidence_gates(sound, policy, network="coral")
