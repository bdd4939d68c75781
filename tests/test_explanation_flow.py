"""What a run writes of concepts, what a report says of maps, and what a second training learns from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from data_contracts.concepts import CONCEPT_TABLE
from data_contracts.errors import NothingUsableError
from data_contracts.evaluation import EvaluationReport
from data_contracts.explanation import SIGNED_AS, ExplanationReport
from data_contracts.model_card import Calibration, InputSpec, ModelCard
from data_contracts.params import EvaluateParams, ExplainParams, ReviewParams, TrainParams
from flows.datasets.retraining import _with_shuffled_labels, training_params
from flows.registry.keys import sign_record
from flows.reviewing.review_maps import map_verdict
from flows.versions.concepts import card_figures, concept_table, concepts_in_own_units
from flows.versions.evaluation import predictions_of, write_evaluation
from flows.versions.explanation import explanation_text, off_centre
from models.fitting.data import FitData, LabelledPatches
from models.networks.backbones import Backbone
from models.networks.network import NetworkPlan, build_network

N = 40


@pytest.fixture
def card() -> ModelCard:
    params = TrainParams(backbone="resnet18", common_spacing_mm=0.0, auxiliary_weight=0.5, epochs=7)
    return ModelCard(
        name="test",
        run_id="run",
        backbone="resnet18",
        weights="none",
        weights_sha256="",
        pretrained=False,
        head="linear",
        input=InputSpec(kind="2d", patch_shape=(1, 32, 32), value_unit="grey", spacing_mm=1.0, input_size_px=32),
        calibration=Calibration(
            bias=0,
            image_weight=1,
            size_weight=0,
            image_only_bias=0,
            image_only_weight=1,
            size_only_bias=0,
            size_only_weight=1,
        ),
        checkpoint_sha256="ab" * 32,
        dataset_id="d",
        concepts=("log_diameter", "spiculation"),
        training={**params.model_dump(mode="json", exclude={"weights", "weights_sha256", "backbone"}), "n_train": 3},
    )


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = [f"p{number}" for number in range(N)]
    return pd.DataFrame(
        {
            "patch_id": names,
            "nodule_id": names,
            "patient_key": [f"k{number // 2}" for number in range(N)],
            "split": "test",
            "site": "a",
            "label": pd.array(np.arange(N) % 2, dtype="Int8"),
            "diameter_mm": rng.uniform(4, 11, N),
            "spiculation": rng.uniform(1, 5, N),
        }
    )


def patches(n: int = N) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (n, 1, 32, 32), dtype=np.uint8)


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = [[("conv", nn.Conv2d(3, 6, 3, stride=2)), ("relu", nn.ReLU())]]
    plan = NetworkPlan("linear", concepts=("log_diameter", "spiculation"))
    return build_network(Backbone("tiny", stages, 6), plan, seed=0)


def test_concepts_are_written_beside_the_predictions_and_scored_in_the_report(card, rows, network, tmp_path):
    predicted = concepts_in_own_units(network, patches(), card)
    assert ((predicted["spiculation"] > 1) & (predicted["spiculation"] < 5)).all()
    assert ((predicted["log_diameter"] > 3) & (predicted["log_diameter"] < 50)).all()
    table = concept_table(predicted, rows)
    write_evaluation(
        tmp_path,
        predictions_of(rows, np.zeros(N), card.calibration),
        card,
        protocol="held out",
        params=EvaluateParams(bootstrap=100),
        concepts=table,
    )
    kept = CONCEPT_TABLE.read(tmp_path / "concepts.parquet")
    spiculation = kept[kept["concept"] == "spiculation"]
    assert spiculation["patch_id"].tolist() == rows["patch_id"].tolist()
    assert spiculation["predicted"].to_numpy() == pytest.approx(predicted["spiculation"])
    assert spiculation["readers"].to_numpy() == pytest.approx(rows["spiculation"].to_numpy())
    report = EvaluationReport.read(tmp_path / "evaluation.json")
    assert [row.concept for row in report.concepts] == ["log_diameter", "spiculation"]
    error = np.abs(predicted["spiculation"] - rows["spiculation"]).mean()
    assert card_figures(report.concepts)["spiculation"]["mae"] == pytest.approx(error)
    assert "Predicted concepts" in (tmp_path / "report.html").read_text()


def test_a_network_without_concepts_has_no_table_of_them(card, rows, network, tmp_path):
    plain = card.model_copy(update={"concepts": ()})
    table = concept_table(concepts_in_own_units(network, patches(), plain), rows)
    assert table is None


def test_concepts_are_the_mean_over_the_views_of_a_prediction(card, network):
    eight = card.model_copy(update={"input": card.input.model_copy(update={"views": 8})})
    turned = np.rot90(patches(4), axes=(2, 3))
    one, other = (concepts_in_own_units(network, values, eight)["spiculation"] for values in (patches(4), turned))
    assert one == pytest.approx(other, abs=1e-5)


KEY = b"key of the audit"


def verdict_of(card: ModelCard, **changes: object) -> ExplanationReport:
    facts = {
        "run_id": "run", "checkpoint_sha256": card.checkpoint_sha256, "dataset_id": "d", "method": "grad-cam",
        "stage": 2, "n_nodules": 60, "n_patients": 40, "reliable": True, "reason": "all held", "tests": (),
    }  # fmt: skip
    report = ExplanationReport.model_validate({**facts, **changes})
    return report.model_copy(update={"mac": sign_record(KEY, SIGNED_AS, report)})


def test_a_report_shows_maps_only_where_they_were_asked_for_tested_for_these_weights_and_held(card, tmp_path):
    on, off = ReviewParams.from_mapping({"maps": "on"}), ReviewParams()
    assert not off.maps
    untested = map_verdict(tmp_path, card, "3", on, KEY)
    assert untested.report is None
    assert untested.sentence.startswith("No reliable explanation: the maps of this version were not tested")
    assert "noduleflow explain 3" in untested.sentence
    verdict_of(card).write(tmp_path / "explanation.json")
    held = map_verdict(tmp_path, card, "3", off, KEY)
    assert held.report is None
    assert held.sentence.startswith("The maps of this version passed 0 sanity tests on 60 held-out nodules; none is")
    assert "--set maps=on" in held.sentence
    assert map_verdict(tmp_path, card, "3", on, KEY).report is not None
    verdict_of(card, checkpoint_sha256="other").write(tmp_path / "explanation.json")
    assert map_verdict(tmp_path, card, "3", on, KEY) == map_verdict(tmp_path, card, "3", off, KEY) == untested
    verdict_of(card, reliable=False, reason="failed: localisation").write(tmp_path / "explanation.json")
    refused = map_verdict(tmp_path, card, "3", on, KEY)
    assert refused.report is None
    assert refused == map_verdict(tmp_path, card, "3", off, KEY), "the verdict is told with maps off too"
    assert refused.sentence == "No reliable explanation. Sanity tests of this version's maps: failed: localisation."


def test_a_verdict_that_was_changed_after_it_was_written_shows_no_map(card, tmp_path):
    failed = verdict_of(card, reliable=False, reason="failed: localisation")
    on = ReviewParams.from_mapping({"maps": "on"})
    for forged in (failed.model_copy(update={"reliable": True}), failed.model_copy(update={"mac": ""})):
        forged.write(tmp_path / "explanation.json")
        verdict = map_verdict(tmp_path, card, "3", on, KEY)
        assert verdict.report is None
        assert verdict.sentence.endswith("is not what `noduleflow explain` wrote.")


def test_held_out_nodules_of_known_size_are_moved_and_large_ones_left_out(card, rows):
    rows.loc[0, "diameter_mm"] = 25.0
    rows.loc[1, "diameter_mm"] = np.nan
    rows.loc[2, "split"] = "train"
    asked: list[str] = []

    def load(ids: list[str]) -> np.ndarray:
        asked.extend(ids)
        return patches(len(ids))

    reader = SimpleNamespace(index=rows, card=SimpleNamespace(spacing_mm=1.0, dataset_id="d"), load=load)
    nodules = off_centre(reader, card, ExplainParams(nodules=20))
    assert len(asked) == 20
    assert not {"p0", "p1", "p2"} & set(asked)
    assert nodules.labels.sum() == 10
    assert nodules.images.shape == (20, 1, 3, 32, 32)
    assert nodules.masks.shape == (20, 1, 32, 32)
    assert not nodules.masks[:, :, 15:17, 15:17].any()
    with pytest.raises(NothingUsableError, match="can be moved off the centre"):
        off_centre(reader, card, ExplainParams(nodules=20, shift=0.12))


def test_shuffled_labels_go_with_what_belongs_to_them_and_leave_the_patches(card):
    soft, auxiliary = np.linspace(0, 1, N), np.linspace(0, 1, N)[:, None]
    train = LabelledPatches(patches(), np.arange(N) % 2.0, soft_labels=soft, auxiliary=auxiliary)
    shuffled = _with_shuffled_labels(FitData(train, train, concepts=("spiculation",)), seed=0)
    assert np.array_equal(shuffled.train.patches, train.patches)
    assert not np.array_equal(shuffled.train.labels, train.labels)
    assert shuffled.train.labels.sum() == train.labels.sum()
    assert np.array_equal(shuffled.train.soft_labels, shuffled.train.auxiliary[:, 0])
    assert len(shuffled.validation) == 0


def test_a_version_is_trained_again_with_its_own_parameters(card):
    params = training_params(card, "")
    assert (params.backbone, params.epochs, params.auxiliary_weight, params.weights) == ("resnet18", 7, 0.5, "none")
    started = card.model_copy(update={"weights": "file.pt", "weights_sha256": "cd" * 32})
    assert training_params(started, "elsewhere.pt").weights == "elsewhere.pt"
    assert training_params(started, "").weights_sha256 == "cd" * 32


def test_the_answer_on_the_command_line_names_every_test_and_the_verdict(card):
    tests = [{"name": "skill", "passed": False, "rule": "", "figures": {"auc": 0.51}, "note": ""}]
    record = {**verdict_of(card, reliable=False, reason="failed: skill", tests=tests).model_dump(), "version": "3"}
    text = explanation_text(record)
    assert "FAILED    skill                   auc 0.510" in text
    assert text.endswith("no reliable explanation: failed: skill")
