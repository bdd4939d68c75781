"""From two trained versions to a champion and back: gates, compare-and-set, seals, audit. All of it real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from data_contracts.errors import GateRefusedError, StaleExpectationError, UsageError, WeightsDigestError
from data_contracts.params import LabelParams, SplitParams
from data_contracts.promotion import PromotionPolicy
from flows.registry.audit import append_audit, read_audit, verify_audit
from flows.settings import Settings, apply_environment
from flows.workspace import Workspace

pytestmark = [pytest.mark.server, pytest.mark.slow]

OPEN = PromotionPolicy(max_auc_drop_vs_champion=1.0, min_auc=0.0, min_auc_minus_size=-1.0, max_ece=1.0)
SMALL = {
    "backbone": "resnet18",
    "weights": "none",
    "unfreeze": 1,
    "epochs": 2,
    "augmentations": 1,
    "input_size_px": 32,
}


@dataclass
class Trained:
    """A workspace with two registered versions of the same data, fitted from different seeds."""

    workspace: Workspace
    settings: Settings
    records: list[dict[str, str]]


def write_crops(folder: Path) -> None:
    """Crops with a table: malignant discs are brighter, and a little larger, than benign ones; a patient a nodule."""
    random = np.random.default_rng(0)
    n = 240
    labels = np.arange(n) % 2
    diameter_mm = np.round(random.uniform(8, 18, n) + 3 * labels, 2)
    j, i = np.mgrid[:64, :64]
    disc = (j - 31.5) ** 2 + (i - 31.5) ** 2 < (diameter_mm[:, None, None] / 2) ** 2 * 2
    grey = np.where(labels == 1, 190, 120)[:, None, None] * disc + random.normal(30, 12, (n, 64, 64))
    crops = np.clip(grey, 0, 255).astype(np.uint8)
    np.savez(folder / "discs.npz", image=np.repeat(crops[:, None], 3, axis=1))
    table = pd.DataFrame(
        {
            "patient_id": [f"disc-{row:03d}" for row in range(n)],
            "diameter_mm": diameter_mm,
            "malignancy": np.where(labels == 1, "4;4;5", "2;1;2"),
            "n_readers": 3,
        }
    )
    table.to_csv(folder / "discs.csv", index=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("registry")
    write_crops(folder)
    settings = Settings(workspace=folder / "ws", _env_file=None)
    before = dict(os.environ)
    apply_environment(settings)
    from flows.engine import engine
    from flows.learning.training import train_flow
    from flows.presets import train_params
    from pipeline.cohort.importers import import_npz

    workspace = Workspace(settings.workspace).create()
    card = import_npz(
        folder / "discs.npz",
        name="discs",
        table=folder / "discs.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    with engine(workspace):
        records = [
            train_flow(
                str(workspace.root),
                card.dataset_id,
                train_params("probe", {**SMALL, "seed": seed}),
                settings.model_name,
            )
            for seed in (0, 1, 0)
        ]
    yield Trained(workspace, settings, records)
    os.environ.clear()
    os.environ.update(before)


def aliases(trained: Trained) -> tuple[str | None, str | None, str | None]:
    from flows.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry

    registry = Registry(trained.workspace, trained.settings.model_name)
    return registry.alias(CHAMPION), registry.alias(CHALLENGER), registry.alias(PREVIOUS)


def test_the_same_training_again_gives_the_same_version(trained: Trained) -> None:
    assert [record["version"] for record in trained.records] == ["1", "2", "1"]
    assert trained.records[0]["run_id"] == trained.records[2]["run_id"]


def test_the_life_of_a_champion(trained: Trained) -> None:
    from flows.registry.promotion import promote, rollback

    def ask(version: str, expect: str, policy: PromotionPolicy) -> str | None:
        promote(trained.workspace, trained.settings, version, expect=expect, policy=policy)
        return aliases(trained)[0]

    assert aliases(trained) == (None, "2", None)
    with pytest.raises(StaleExpectationError, match="the champion is none, not 7"):
        ask("1", "7", OPEN)
    assert ask("1", "none", OPEN) == "1"
    with pytest.raises(GateRefusedError, match="is not promoted"):
        ask("challenger", "1", OPEN.model_copy(update={"min_test_nodules": 1000}))
    assert aliases(trained) == ("1", "2", None), "a refusal moves nothing"
    assert ask("2", "1", OPEN) == "2"
    assert rollback(trained.workspace, trained.settings) == {"champion": "1", "previous_champion": "2"}
    assert aliases(trained) == ("1", "2", "2")
    assert verify_audit(trained.workspace) == []
    assert [record.action for record in read_audit(trained.workspace)] == [
        "promote_refused",
        "promote_intent",
        "promote_done",
        "promote_refused",
        "promote_intent",
        "promote_done",
        "rollback_intent",
        "rollback_done",
    ]


def test_a_promotion_cut_off_between_intent_and_done_is_ended_by_the_next_one(trained: Trained) -> None:
    from flows.registry.promotion import promote, rollback

    before = aliases(trained)[0] or "none"
    other = "2" if before == "1" else "1"
    detail = {"champion_before": before}
    append_audit(
        trained.workspace,
        actor="killed",
        action="promote_intent",
        subject=other,
        detail=detail,
        model_name=trained.settings.model_name,
    )
    decision = promote(trained.workspace, trained.settings, other, expect=other, policy=OPEN)
    assert decision.promoted
    assert aliases(trained)[0] == other
    assert read_audit(trained.workspace)[-1].detail["reconciled"] is True
    rollback(trained.workspace, trained.settings)
    assert aliases(trained)[0] == before


def test_a_refusal_ends_with_status_4_and_an_unknown_policy_key_with_2(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text("min_test_nodules = 1000\n")
    (tmp_path / "wrong.toml").write_text("min_acu = 0.9\n")
    champion = aliases(trained)[0] or "none"
    other = "2" if champion == "1" else "1"
    for policy, status, words in (("strict", 4, "is not promoted"), ("wrong", 2, "unknown parameter 'min_acu'")):
        command = [sys.executable, "-m", "flows", "--workspace", str(trained.workspace.root), "promote", other]
        command += ["--expect", champion, "--policy", str(tmp_path / f"{policy}.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == status
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_figures_can_be_computed_again_from_the_predictions(trained: Trained) -> None:
    run_folder = Path(trained.records[0]["folder"])
    predictions = pd.read_parquet(run_folder / "predictions.parquet")
    labels = predictions["label"].astype(int)
    report = json.loads((run_folder / "evaluation.json").read_text())
    figures = {(row["score"], row["site"]): row["auc"]["value"] for row in report["figures"]}
    assert figures["score_image", "all"] == pytest.approx(roc_auc_score(labels, predictions["score_image"]), abs=1e-9)
    assert figures["score_size", "all"] == pytest.approx(roc_auc_score(labels, predictions["diameter_mm"]), abs=1e-9)
    assert set(predictions["split"]) == {"test"}
    assert report["pretrained"] is False


def test_versions_are_compared_on_the_nodules_both_scored_and_evaluated_by_name(trained: Trained) -> None:
    from flows.engine import engine
    from flows.versions.evaluation import compare_versions, evaluate_flow

    name = trained.settings.model_name
    compared = compare_versions(trained.workspace, name, "1", "2")
    assert compared["n"] > 40
    assert compared["difference"]["value"] == pytest.approx(compared["auc_a"] - compared["auc_b"])
    with engine(trained.workspace):
        evaluated = evaluate_flow(str(trained.workspace.root), "2", "", name)
        with pytest.raises(UsageError, match="no version '99'"):
            evaluate_flow(str(trained.workspace.root), "99", "", name)
    again = pd.read_parquet(Path(evaluated["folder"]) / "predictions.parquet")
    registered = pd.read_parquet(Path(trained.records[1]["folder"]) / "predictions.parquet")
    np.testing.assert_allclose(again["score"], registered["score"], atol=1e-6)


def test_a_changed_checkpoint_is_refused(trained: Trained) -> None:
    from flows.registry import Registry

    checkpoint = Path(trained.records[1]["folder"]) / "checkpoint.safetensors"
    original = checkpoint.read_bytes()
    try:
        checkpoint.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(WeightsDigestError, match="is not what was registered"):
            Registry(trained.workspace, trained.settings.model_name).verified_folder("2")
    finally:
        checkpoint.write_bytes(original)


def test_mlflow_serves_a_version_without_pickle_and_nothing_leaves_the_machine(
    trained: Trained, tmp_path: Path, watched: Callable[[Path], dict[str, str]]
) -> None:
    code = (
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri('sqlite:///{trained.workspace.mlflow_database}')\n"
        f"model = mlflow.pyfunc.load_model('models:/{trained.settings.model_name}/1')\n"
        "said = np.asarray(model.predict(np.zeros((3, 3, 64, 64), dtype=np.float32)))\n"
        "print(said.shape, bool(((said > 0) & (said < 1)).all()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=watched(tmp_path / "hosts.txt"),
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.splitlines()[-1] == "(3, 1) True", "a probability a patch"
    assert (tmp_path / "hosts.txt").read_text() == ""
