"""A registered version gives the first weights of another run, unless it knows whom that run is judged on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from two_sites import make_workspace, run, train_command

from data_contracts.model_card import ModelCard
from data_contracts.params import LabelParams, SplitParams
from models.predict import Predictor
from pipeline.cohort.importers import import_npz

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_a_version_gives_its_weights_by_number_and_never_where_its_patients_are_judged(
    tmp_path: Path,
) -> None:
    workspace, dataset_id = make_workspace(tmp_path)
    first = run(train_command(workspace, dataset=dataset_id, epochs=1))
    assert first.returncode == 0, first.stderr[-3000:]
    parent = Path(json.loads(first.stdout)["folder"])

    # a rate so small that the weights stay those they began with
    second = run(train_command(workspace, dataset=dataset_id, epochs=1, weights=1, lr_backbone=1e-12, lr_head=1e-3))
    assert second.returncode == 0, second.stderr[-3000:]
    folder = Path(json.loads(second.stdout)["folder"])
    card = ModelCard.read(folder / "model_card.json")
    assert card.weights == "noduleflow-nodule version 1"
    assert card.weights_sha256 == ModelCard.read(parent / "model_card.json").checkpoint_sha256
    bodies = [Predictor.load(place).network.backbone.state_dict() for place in (parent, folder)]
    assert all(torch.allclose(bodies[0][name].float(), bodies[1][name].float(), atol=1e-5) for name in bodies[0])

    other = import_npz(
        tmp_path / "sites.npz",
        name="another-split",
        table=tmp_path / "sites.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(salt="another"),
        label=LabelParams(min_readers=3),
    )
    for settings, words in (
        ({"dataset": other.dataset_id}, "patients of the test split"),
        ({"dataset": dataset_id, "backbone": "resnet34"}, "gives no weights to a plane network of resnet34"),
        ({"dataset": dataset_id, "weights": 9}, "no version '9'"),
    ):
        refused = run(train_command(workspace, **{"weights": 1, **settings}))
        assert refused.returncode in (1, 2), refused.stderr[-3000:]
        assert words in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
