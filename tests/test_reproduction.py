"""A registered version trained once more gives its figures again; what is not as then is named or refused before."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from two_sites import NARROW, make_workspace

from data_contracts.errors import ContractError, UsageError, WeightsError
from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.params import EvaluateParams, ExplainParams
from data_contracts.records import digest_of
from data_contracts.reproduction import ReproducedFigure, Reproduction
from flows.datasets import features
from flows.datasets.retraining import retrained
from flows.datasets.training_cohort import TrainingCohort
from flows.learning import reproduction, training
from flows.learning.reproduction import plan_reproduction, reproduce_flow, reproduction_text, verdict
from flows.presets import train_params
from flows.workspace import Workspace
from models.networks.backbones import build_backbone
from models.weights.zoo import load_weights
from pipeline.scoring.repetition import compare_figures, named_figures

TINY = {**NARROW, "backbone": "small_cnn", "epochs": 1}
#: parameters of each kind of network that training can end with
KINDS: dict[str, dict[str, Any]] = {
    "fine-tuned": {},
    "probe on the feature table": {"unfreeze": 0, "augmentations": 1, "epochs": 2},
    "members": {"members": 2, "unfreeze": 4, "auxiliary_weight": 0.5, "blend_concepts": True},
    "concepts": {"auxiliary_weight": 0.5},
    "mask target": {"mask_weight": 1.0},
    "statistics of the target": {"source_site": "A", "target_site": "B", "adaptation": "adabn"},
    "mutual": {"source_site": "A", "target_site": "B", "adaptation": "mutual", "head": "mlp"},
    "joint": {"source_site": "A", "target_site": "B", "target_label_weight": 1.0},
}
_QUICK = ("fine-tuned",)


class OneVersion:
    """Stands for the registry of MLflow: every name is version 1, the folder `run_id`."""

    run_id = ""

    def __init__(self, workspace: Workspace, model_name: str) -> None:
        self.workspace = workspace

    def resolve(self, version: str) -> str:
        """Every name is version 1."""
        return "1"

    def verified_folder(self, version: str) -> tuple[Path, ModelCard]:
        """The run folder and its card."""
        folder = self.workspace.runs_root / self.run_id
        return folder, ModelCard.read(folder / "model_card.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """(workspace, run id) of a run of a kind, trained once without Prefect and MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fit_network", "choose_and_evaluate", "feature_table"):
            patch.setattr(training, name, getattr(training, name).fn)
        patch.setattr(reproduction, "Registry", OneVersion)
        patch.setattr(training, "EvaluateParams", partial(EvaluateParams, bootstrap=100))
        workspace, dataset_id = make_workspace(tmp_path_factory.mktemp("reproduced"), votes="votes")
        made: dict[str, str] = {}

        def run_of(kind: str) -> tuple[Workspace, str]:
            if kind not in made:
                params = train_params("finetune", {**TINY, **KINDS[kind]})
                weights = load_weights(build_backbone(params.backbone, seed=0), params.weights)
                run_id = digest_of([kind])
                training.fit_run(workspace, run_id, dataset_id, params, weights)
                made[kind] = run_id
            OneVersion.run_id = made[kind]
            return workspace, made[kind]

        yield run_of


def reproduced(workspace: Workspace, **options: Any) -> Reproduction:
    return Reproduction.model_validate(reproduce_flow.fn(str(workspace.root), "1", "m", **options))


@pytest.fixture
def changed(trained, tmp_path: Path):
    """A copy of the workspace of the fine-tuned run, to be changed."""
    workspace, run_id = trained("fine-tuned")
    copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy")))
    return copy, copy.runs_root / run_id


def repeat_as(kept: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the repetition find what stands in `kept`, without a fit; returns the numbers of threads it was done with."""
    used: list[int] = []

    def copy(scratch: Workspace, run_id: str, *_: Any) -> None:
        used.append(torch.get_num_threads())
        print("fit source-only", file=sys.stderr)
        shutil.copytree(kept, scratch.runs_root / run_id)

    monkeypatch.setattr(reproduction, "fit_run", copy)
    return used


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in _QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_every_figure_and_the_weights_come_out_again_and_nothing_is_left(kind: str, trained) -> None:
    workspace, run_id = trained(kind)
    run_folder = workspace.runs_root / run_id
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    runs, tables = sorted(workspace.runs_root.iterdir()), sorted(workspace.features_root.glob("*"))
    result = reproduced(workspace)
    assert result.same and result.same_checkpoint, verdict(result)
    assert len(result.figures) > 100 and all(figure.difference in (0.0, None) for figure in result.figures)
    assert {"all/score/auc/value", "predictions/score, farthest", "calibration/bias"} <= {
        f.name for f in result.figures
    }
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before
    assert sorted(workspace.runs_root.iterdir()) == runs
    assert sorted(workspace.features_root.glob("*")) == tables
    assert not list(workspace.scratch_root.iterdir())


def test_a_repetition_that_was_killed_goes_on_and_one_of_another_program_does_not(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run_id = trained("fine-tuned")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    choose = training.choose_and_evaluate
    monkeypatch.setattr(training, "choose_and_evaluate", killed)
    stale = workspace.scratch_root / f"reproduce-{run_id}-00000000"
    stale.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        reproduced(workspace)
    (scratch,) = workspace.scratch_root.iterdir()
    assert scratch != stale and list(scratch.glob("runs/*/networks/source-only/logits.parquet"))
    monkeypatch.setattr(training, "choose_and_evaluate", choose)
    monkeypatch.setattr(
        "flows.learning.network_fits.fit_classifier", lambda *_, **__: pytest.fail("it was fitted again")
    )
    assert reproduced(workspace).same
    assert not list(workspace.scratch_root.iterdir())


def test_a_figure_that_is_not_the_registered_one_is_named(
    changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run_folder = changed
    repeat_as(Path(shutil.copytree(run_folder, tmp_path / "kept")), monkeypatch)
    report = json.loads((run_folder / "evaluation.json").read_text())
    report["figures"][0]["auc"]["value"] += 2e-6
    report["figures"][0]["brier"]["value"] += 5e-7
    (run_folder / "evaluation.json").write_text(json.dumps(report))
    table = pd.read_parquet(run_folder / "predictions.parquet")
    table["score_image"] = (table["score_image"] - 1e-3).clip(0, 1)
    table.to_parquet(run_folder / "predictions.parquet", index=False)
    result = reproduced(workspace)
    assert not result.same
    row = report["figures"][0]
    wrong = {figure.name for figure in result.figures if not figure.same}
    assert wrong == {f"{row['site']}/{row['score']}/auc/value", "predictions/score_image, farthest"}
    assert f"{row['site']}/{row['score']}/auc/value" in verdict(result) and "is not reproduced" in verdict(result)
    assert f"DIFFERS  {row['site']}/{row['score']}/auc: " in reproduction_text(result)
    assert not list(workspace.scratch_root.iterdir())


def test_what_is_not_as_then_is_named_before_the_fit_and_the_threads_of_then_are_used(
    changed, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run_folder = changed
    used = repeat_as(Path(shutil.copytree(run_folder, tmp_path / "kept")), monkeypatch)
    noted = json.loads((run_folder / "environment.json").read_text())
    other = {"git_commit": "0" * 40, "lock_sha256": "1", "version_torch": "1.0", "threads": 3, "ranks": 2}
    (run_folder / "environment.json").write_text(json.dumps({**noted, **other}))
    card = json.loads((run_folder / "model_card.json").read_text())
    del card["training"]["fusion_balance"]
    (run_folder / "model_card.json").write_text(json.dumps(card))
    before = torch.get_num_threads()
    result = reproduced(workspace)
    assert used == [3] and torch.get_num_threads() == before
    facts = {fact.what: (fact.then, fact.now) for fact in result.changed}
    assert {"git_commit", "lock_sha256", "version_torch", "threads", "ranks", "parameter fusion_balance"} <= set(facts)
    assert facts["git_commit"][0] == "0" * 40 and facts["threads"] == ("3", str(before))
    told = capsys.readouterr().err
    assert all(f"beware: {what} was" in told for what in facts)
    assert told.index("beware: git_commit") < told.index("fit source-only")


def test_another_dataset_other_weights_and_a_missing_teacher_are_refused(changed) -> None:
    workspace, run_folder = changed
    card = ModelCard.read(run_folder / "model_card.json")
    weights = workspace.root / "other.safetensors"
    np.savez(weights, a=np.zeros(2))
    card.model_copy(update={"weights": "file.pth", "weights_sha256": "0" * 64}).write(run_folder / "model_card.json")
    with pytest.raises(WeightsError, match="--weights"):
        plan_reproduction(workspace, "m", "1", str(weights))
    with pytest.raises(WeightsError, match=r"file\.pth.*--weights"):
        plan_reproduction(workspace, "m", "1", "nowhere.pth")
    card.model_copy(update={"training": {**card.training, "teacher": "gone"}}).write(run_folder / "model_card.json")
    with pytest.raises(UsageError, match="taught the version is gone"):
        plan_reproduction(workspace, "m", "1")
    card.write(run_folder / "model_card.json")
    index = workspace.datasets_root / card.dataset_id / "index.parquet"
    table = pd.read_parquet(index)
    table.loc[0, "label"] = 1 - table.loc[0, "label"]
    table.to_parquet(index, index=False)
    assert TrainingCohort(index.parent, train_params("finetune", TINY)).digest() != card.training["dataset_sha256"]
    with pytest.raises(ContractError, match="not the one that the version learned from"):
        plan_reproduction(workspace, "m", "1")
    (index.parent / "dataset.json").unlink()
    with pytest.raises(UsageError, match="dataset of the version is gone"):
        plan_reproduction(workspace, "m", "1")
    assert not workspace.scratch_root.exists() or not list(workspace.scratch_root.iterdir())


def test_figures_are_named_by_what_they_are_of(trained) -> None:
    workspace, run_id = trained("fine-tuned")
    folder = workspace.runs_root / run_id
    report = EvaluationReport.read(folder / "evaluation.json")
    files = [json.loads((folder / name).read_text()) for name in ("evaluation.json", "model_card.json")]
    figures = named_figures(*files)
    del files[1]["calibration"]["size_weight"], files[0]["figures"][0]["ece"]
    older = named_figures(*files)
    assert "calibration/size_weight" in compare_figures(older, figures)[2] and compare_figures(older, figures)[1] == ()
    row = report.find("score")
    assert row is not None
    assert figures["all/score/auc/value"] == row.auc.value
    assert figures["all/score/net_benefit/0.01/model/value"] == row.net_benefit[0].model.value
    assert figures["n_nodules"] == report.n_nodules and figures["chosen/source-only"] == 1.0


def test_within_the_tolerance_is_the_same_and_what_only_one_has_is_said() -> None:
    then = {"a": 0.5, "b": 0.5, "c": None, "d": None, "e": float("nan"), "gone": 1.0, "empty": None}
    now = {"a": 0.5 + 9e-7, "b": 0.5 + 2e-6, "c": None, "d": 0.1, "e": float("nan"), "new": 1.0}
    figures, missing, new = compare_figures(then, now, 1e-6)
    assert [figure.same for figure in figures] == [True, False, True, False, True]
    assert isinstance(figures[0], ReproducedFigure) and figures[3].difference is None
    assert missing == ("gone",) and new == ("new",)


def test_features_of_the_first_training_are_not_used(trained) -> None:
    workspace, run_id = trained("fine-tuned")
    plan = plan_reproduction(workspace, "m", "1")
    scratch = reproduction.scratch_workspace(plan)
    assert scratch.features_root != workspace.features_root and not scratch.features_root.exists()
    assert scratch.dataset(plan.dataset_dir.name).resolve() == plan.dataset_dir.resolve()
    assert features.feature_params(plan.params) is None
    shutil.rmtree(plan.scratch)
    assert (plan.dataset_dir / "dataset.json").is_file() and (workspace.runs_root / run_id).is_dir()


@pytest.mark.slow
def test_one_network_of_a_version_of_several_is_trained_again_for_its_maps_and_read_again(trained) -> None:
    workspace, run_id = trained("members")
    card = ModelCard.read(workspace.runs_root / run_id / "model_card.json")
    params = ExplainParams(epochs=1)
    made, read = (retrained(workspace, card, params, "none", shuffled=True) for _ in range(2))
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], tensor, msg=name)
