"""Flipped labels are counted, their batch is named, and hard nodules are not taken for flipped ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from data_contracts.cohort_audit import CohortAudit, LabelAudit, SamePicture
from pipeline.scoring.label_check import contradictions
from pipeline.scoring.label_noise import audit_labels, judge_labels


def cohort(seed: int, n: int = 400, difficulty: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and patients; the labels of nodules near the border are as uncertain as `difficulty` says."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3))
    logit = (3 * features[:, 0] + 1.5 * features[:, 1]) / difficulty
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    patients = np.array([f"patient {row // 2}" for row in range(n)], dtype=object)
    return features, labels, patients


def audit(features: np.ndarray, labels: np.ndarray, patients: np.ndarray, **batches: np.ndarray) -> LabelAudit:
    return audit_labels(features, labels, patients, batches, [str(row) for row in range(len(labels))])


def imports(n: int) -> np.ndarray:
    """Ten imports of whole patients."""
    return np.array([f"import {row // 2 % 10}" for row in range(n)], dtype=object)


@pytest.mark.parametrize("difficulty", [1.0, 3.0])
def test_labels_that_are_only_difficult_are_not_called_flipped(difficulty: float) -> None:
    """Where hardly anything is clear, flips and difficulty look alike: one alarm in ten is what the level allows."""
    verdicts = [audit(*cohort(seed, difficulty=difficulty), batch=imports(400)).verdict for seed in range(10)]
    assert verdicts.count("alert") <= (0 if difficulty == 1.0 else 1)


def test_a_flipped_import_is_named_and_its_share_is_near_all_of_it() -> None:
    features, labels, patients = cohort(1)
    batch = imports(400)
    found = audit(features, np.where(batch == "import 3", 1 - labels, labels), patients, batch=batch)
    assert found.verdict == "alert"
    blamed = [one for one in found.batches if one.verdict == "alert"]
    assert [one.level for one in blamed] == ["import 3"]
    assert blamed[0].flipped.value > 0.8
    assert any("'import 3' contradict the others" in reason for reason in found.reasons)


def test_a_tenth_of_the_labels_flipped_anywhere_is_counted_and_its_nodules_are_named() -> None:
    features, labels, patients = cohort(2, n=800)
    flipped = np.random.default_rng(0).random(800) < 0.1
    found = audit(features, np.where(flipped, 1 - labels, labels), patients)
    assert found.verdict == "alert"
    assert found.flipped is not None
    assert found.flipped.low < 0.1 < found.flipped.high + 0.02
    assert np.mean([flipped[int(one.patch_id)] for one in found.suspicious]) > 0.8


def test_a_reader_among_several_is_a_batch_of_the_nodules_he_read() -> None:
    features, labels, patients = cohort(3)
    reader = np.array(["anna;berta" if row // 2 % 4 == 0 else "berta" for row in range(400)], dtype=object)
    wrong = np.char.find(reader.astype(str), "anna") >= 0
    found = audit(features, np.where(wrong, 1 - labels, labels), patients, readers=reader)
    assert [one.level for one in found.batches if one.verdict == "alert"] == ["anna"]


def test_nobody_is_judged_by_a_fit_on_his_own_labels() -> None:
    features, labels, patients = cohort(4)
    before = judge_labels(features, labels, patients).p
    other = labels.copy()
    other[:2] = 1 - other[:2]
    np.testing.assert_allclose(judge_labels(features, other, patients).p[:2], before[:2], atol=0.1)


def test_labels_that_contradict_their_own_readers_are_counted_whatever_the_threshold() -> None:
    soft = np.array([0.0, 0.2, 0.4, 0.6, 0.8, np.nan])
    assert contradictions(np.array([0, 0, 0, 1, 1, 1]), soft) == 0
    assert contradictions(np.array([0, 1, 1, 1, 1, 0]), soft) == 0
    assert contradictions(np.array([1, 0, 0, 1, 0, 1]), soft) == 2
    assert contradictions(np.array([0, 1]), np.array([np.nan, np.nan])) == 0


def test_too_few_labels_or_nothing_to_compare_them_with_is_said() -> None:
    features, labels, patients = cohort(5, n=40)
    assert audit(features, labels, patients).reasons[0].startswith("too few labels")
    features, labels, patients = cohort(5)
    assert audit(features[:, :0], labels, patients).verdict == "too few"


def test_unknown_values_and_columns_without_spread_cost_nothing() -> None:
    features, labels, patients = cohort(6)
    features[::3, 1] = np.nan
    features = np.column_stack([features, np.ones(400), np.full(400, np.nan)])
    found = audit(features, labels, patients)
    assert found.verdict == "ok"
    assert found.auc is not None
    assert found.auc > 0.8


def test_an_audit_goes_to_json_and_back_and_warns_of_both_faults() -> None:
    features, labels, patients = cohort(7)
    batch = imports(400)
    labels = np.where(batch == "import 0", 1 - labels, labels)
    pairs = (SamePicture(first="a1", second="b2", likeness=0.99),)
    one = CohortAudit(same_pictures=pairs, labels=audit(features, labels, patients, batch=batch))
    again = CohortAudit.from_json(one.to_json())
    assert again == one
    assert "a1 and b2" in again.warnings()[0]
    assert len(again.warnings()) >= 2


@pytest.mark.parametrize("kind", ["batch", "tenth of all", "clean"])
def test_flips_among_the_lidc_labels_are_found(shared_data: Path, kind: str) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from surveillance import flip_trial, lidc_nodules

    found = flip_trial(lidc_nodules(shared_data), np.random.default_rng(5), kind)
    assert (found.verdict == "alert") == (kind != "clean")
