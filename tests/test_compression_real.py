"""MobileNetV2 on real nodules in fewer bits: smaller, and in nearly the same order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from compression_cohort import CALIBRATION
from sklearn.linear_model import LogisticRegression

from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from data_contracts.params import LabelParams, SplitParams, TrainParams
from flows.learning.compression import export_run
from flows.workspace import Workspace
from models.checkpoint import save_network
from models.compression.package import open_export
from models.compression.runners import run_all
from models.networks.backbones import build_backbone
from models.networks.inputs import input_spec, to_images
from models.networks.network import NetworkPlan, build_network
from models.weights.zoo import load_weights
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz

pytest.importorskip("openvino")
_N_CROPS = 260


@pytest.mark.slow
@pytest.mark.realdata
def test_mobilenet_in_int8_and_bf16_orders_real_nodules_nearly_as_float32_does(shared_data, tmp_path):
    folder = shared_data / "lidc-nodules"
    with np.load(folder / "crops_3x64x64_uint8.npz") as archive:
        np.savez(tmp_path / "some.npz", **{name: archive[name][:_N_CROPS] for name in archive.files})
    pd.read_csv(folder / "nodules.csv", dtype=str).head(_N_CROPS).to_csv(tmp_path / "some.csv", index=False)
    workspace = Workspace(tmp_path / "workspace").create()
    dataset = import_npz(
        tmp_path / "some.npz",
        name="some",
        table=tmp_path / "some.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(train=0.5, validation=0.1),
        label=LabelParams(min_readers=1),
    )
    params = TrainParams(backbone="mobilenet_v2", input_size_px=64, head="linear")
    spec = input_spec(dataset, params)
    backbone = build_backbone("mobilenet_v2", seed=0)
    weights = load_weights(backbone, str(shared_data / "weights" / "mobilenet_v2_imagenet_features.pt"), "")
    network = build_network(backbone, NetworkPlan("linear"), seed=0)
    reader = PatchReader(workspace.dataset("some"))
    index = reader.index

    def features(rows):
        with torch.inference_mode():
            parts = torch.split(to_images(reader.load(list(rows["patch_id"])), spec), 16)
            return torch.cat([network.features(part) for part in parts]).numpy()

    train = index[(index["split"] == Split.TRAIN.value) & index["label"].notna()]
    fit = LogisticRegression(C=1e-2, max_iter=500).fit(features(train), train["label"].to_numpy(dtype=int))
    network.head.logit.weight.data = torch.tensor(fit.coef_, dtype=torch.float32)
    network.head.logit.bias.data = torch.tensor(fit.intercept_, dtype=torch.float32)
    run = workspace.runs_root / "run"
    run.mkdir(parents=True)
    ModelCard(
        name="real", run_id="run", backbone="mobilenet_v2", weights=weights.source, weights_sha256=weights.sha256,
        pretrained=True, head="linear", input=spec, calibration=CALIBRATION,
        checkpoint_sha256=save_network(run, network), dataset_id=dataset.dataset_id,
    ).write(run / "model_card.json")  # fmt: skip

    out = tmp_path / "out"
    forms = ("safetensors", "openvino-fp32", "openvino-bf16", "openvino-int8")
    card, _ = export_run(workspace, run, ("real", "1"), out, forms=forms, rounds=3)
    test = reader.load(list(index.loc[index["split"] == Split.TEST.value, "patch_id"]))
    logits = {form: run_all(open_export(out, form, 16), test, 16)[:, 0] for form in forms}
    size = {form.form: form.size_bytes for form in card.forms}
    assert size["openvino-int8"] < 0.35 * size["openvino-fp32"]
    # A linear probe on ImageNet features leans on small differences: what fewer bits cost shows here more than after
    # fine-tuning.
    least = {"safetensors": 0.9999, "openvino-fp32": 0.9999, "openvino-bf16": 0.97, "openvino-int8": 0.9}
    most = {"safetensors": 0.0, "openvino-fp32": 0.001, "openvino-bf16": 0.03, "openvino-int8": 0.06}
    for form in card.forms:
        assert np.corrcoef(logits[form.form], logits["safetensors"])[0, 1] > least[form.form], form.form
        assert abs(form.auc_difference.value) <= most[form.form], form.form
