"""What a run keeps where its gate joins networks or aligns logits: one network that says what was decided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from two_sites import NARROW, make_workspace

from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import TrainParams
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.kept import KEPT, joinable, keep_network
from flows.learning.network_fits import fit_network, fitted_sha256, plan_of
from models.checkpoint import restore_network
from models.networks.inputs import input_spec
from models.networks.joined import build_backbones
from models.networks.network import build_network
from models.predict import predict_logits
from pipeline.scoring.shift.gate import weights_of

PARAMS = TrainParams(
    **NARROW, source_site="A", target_site="B", adaptation=("coral", "adabn"), batchnorm="adaptive", views=1
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingCohort]:
    """The folder of a run's networks and its cohort."""
    workspace, dataset_id = make_workspace(tmp_path_factory.mktemp("kept"), n=80)
    for name in ("source-only", "coral", "adabn"):
        fit_network.fn(workspace, "run", dataset_id, PARAMS, name, None)
    return workspace.runs_root / "run" / "networks", TrainingCohort(workspace.datasets_root / dataset_id, PARAMS)


def decision(*members: str, scale: float = 1.0, offset: float = 0.0) -> AdaptationDecision:
    chosen = members[0] if len(members) == 1 else "joined"
    return AdaptationDecision(
        method="coral, adabn",
        chosen=chosen,
        adapted=chosen != "source-only",
        members=members,
        weights=weights_of(members),
        scale=scale,
        offset=offset,
        reasons=("",),
        figures={},
    )


def logits(networks: Path, name: str) -> pd.Series:
    table = pd.read_parquet(networks / name / "logits.parquet")
    return table.set_index(["part", "patch_id"])["logit"]


@pytest.mark.parametrize("members", [("source-only",), ("source-only", "coral", "adabn")])
def test_the_kept_network_says_the_aligned_mean_of_its_members(
    run: tuple[Path, TrainingCohort], members: tuple[str, ...]
) -> None:
    networks, cohort = run
    (networks / KEPT / "logits.parquet").unlink(missing_ok=True)
    assert keep_network(networks, cohort, PARAMS, decision(*members, scale=1.25, offset=-0.5)) == KEPT
    mean = sum(weight * logits(networks, name) for name, weight in zip(members, weights_of(members), strict=True))
    kept = logits(networks, KEPT)
    np.testing.assert_allclose(kept["validation"], mean["validation"])
    np.testing.assert_allclose(kept["target"], 1.25 * mean["target"] - 0.5)
    network = build_network(build_backbones(PARAMS.backbone, len(members), seed=1), plan_of(cohort, PARAMS), seed=1)
    restore_network(networks / KEPT, network, fitted_sha256(networks / KEPT))
    rows = cohort.test()
    said = predict_logits(network.eval(), cohort.patches(rows), input_spec(cohort.reader.card, PARAMS))
    np.testing.assert_allclose(said, kept["test"].loc[list(rows["patch_id"])], atol=1e-5)


def test_a_network_that_was_fitted_so_is_kept_as_it_is(run: tuple[Path, TrainingCohort]) -> None:
    networks, cohort = run
    assert keep_network(networks, cohort, PARAMS, decision("coral")) == "coral"


def test_what_a_kill_left_unfinished_is_made_again(run: tuple[Path, TrainingCohort]) -> None:
    networks, cohort = run
    told = decision("source-only", "coral")
    (networks / KEPT / "logits.parquet").unlink(missing_ok=True)
    keep_network(networks, cohort, PARAMS, told)
    whole = (networks / KEPT / "checkpoint.safetensors").read_bytes()
    (networks / KEPT / "logits.parquet").unlink()
    (networks / KEPT / "checkpoint.safetensors").write_bytes(whole[:100])
    (networks / KEPT / "network.json").write_text(json.dumps({}))
    keep_network(networks, cohort, PARAMS, told)
    assert (networks / KEPT / "checkpoint.safetensors").read_bytes() == whole


def test_heads_whose_mean_is_no_head_are_not_joined(run: tuple[Path, TrainingCohort]) -> None:
    _, cohort = run
    assert joinable(cohort, PARAMS)
    assert not joinable(cohort, PARAMS.model_copy(update={"head": "mlp"}))
    assert not joinable(cohort, PARAMS.model_copy(update={"pooling": "attention"}))
