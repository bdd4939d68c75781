"""A dataset without a single diameter trains, is evaluated, and says that there is no size baseline."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.params import ImageParams, SplitParams, TrainParams
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.promotion import PromotionPolicy
from flows.intake.images import import_folder
from flows.learning.network_fits import fit_network
from flows.learning.training import choose_and_evaluate
from flows.workspace import Workspace
from models.predict import Predictor
from models.weights.zoo import WeightsInfo
from pipeline.cohort.patch_reader import PatchReader
from pipeline.scoring.gates import promotion_gates

RUN = "run-without-diameters"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace with one run on 120 images: the malignant ones have a larger bright square."""
    root = tmp_path_factory.mktemp("no-diameters")
    rng = np.random.default_rng(0)
    for name, half in (("benign", 3), ("malignant", 9)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(60):
            image = rng.integers(0, 60, (40, 40)).astype(np.uint8)
            image[20 - half : 20 + half, 20 - half : 20 + half] += 150
            Image.fromarray(image).save(root / "images" / name / f"{number}.png")
    workspace = Workspace(root / "workspace").create()
    split = SplitParams(train=0.5, validation=0.25)
    images = ImageParams(size_px=40)
    record = import_folder(workspace, root / "images", "squares", None, "", False, images, split)
    dataset = record["dataset_id"]
    params = TrainParams(
        backbone="small_cnn", weights="none", input_size_px=32, unfreeze=4, batchnorm="adaptive", epochs=4,
        augmentations=1, auxiliary_weight=0.3, lr_backbone=1e-3, threads=1,
    )  # fmt: skip
    fit_network.fn(workspace, RUN, dataset, params, "source-only", None)
    choose_and_evaluate.fn(workspace, RUN, dataset, params, WeightsInfo("none", "", False), ["source-only"])
    return workspace, workspace.datasets_root / dataset


def test_the_report_has_figures_of_the_image_and_reasons_in_place_of_the_others(trained):
    folder = trained[0].runs_root / RUN
    report = EvaluationReport.read(folder / "evaluation.json")
    assert report.find("score_image").auc.value > 0.8
    assert report.find("score").auc.value == report.find("score_image").auc.value
    size = report.find("score_size")
    assert size.auc.value is None and size.auc.note and size.brier.value is None
    assert report.find("score").size_matched_auc.value is None
    assert report.size_auc_difference.value is None
    table = PREDICTION_TABLE.read(folder / "predictions.parquet")
    assert table["score_size"].isna().all() and table["diameter_mm"].isna().all()


def test_the_missing_baseline_and_the_missing_patients_stand_in_card_report_and_page(trained):
    folder = trained[0].runs_root / RUN
    card, report = ModelCard.read(folder / "model_card.json"), EvaluationReport.read(folder / "evaluation.json")
    page = (folder / "report.html").read_text()
    assert any(warning.startswith("NO PATIENT IS KNOWN") for warning in card.warnings)
    assert any(warning.startswith("NO PATIENT IS KNOWN") for warning in report.warnings)
    assert any(warning.startswith("NO SIZE BASELINE") for warning in report.warnings)
    assert "NO PATIENT IS KNOWN" in page and "NO SIZE BASELINE" in page


def test_the_network_predicts_such_images_again(trained):
    workspace, dataset = trained
    rows = PREDICTION_TABLE.read(workspace.runs_root / RUN / "predictions.parquet")
    reader = PatchReader(dataset)
    logits = Predictor.load(workspace.runs_root / RUN).logits(reader.load(list(rows["patch_id"])))
    order = np.argsort(logits)
    assert (np.diff(rows["score_image"].to_numpy()[order]) >= -1e-9).all()


def test_a_gate_does_not_pass_what_it_cannot_compare_with_size(trained):
    folder = trained[0].runs_root / RUN
    report, table = (
        EvaluationReport.read(folder / "evaluation.json"),
        PREDICTION_TABLE.read(folder / "predictions.parquet"),
    )
    gates = {gate.gate: gate for gate in promotion_gates(report, table, None, PromotionPolicy())}
    assert not gates["size_baseline"].passed
