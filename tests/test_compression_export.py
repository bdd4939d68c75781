"""A version is written for other runtimes: whole or not at all, with what each form costs, and a change is noticed."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from compression_cohort import FolderRegistry, discs, write_run

from data_contracts.errors import UsageError, WeightsDigestError, WeightsError
from data_contracts.export_card import EXACT_FORMS, EXPORT_FORMS, ExportCard
from data_contracts.manifest import Split
from flows.learning import compression
from flows.learning.compression import export_forms, export_text, export_version
from flows.workspace import Workspace
from models.checkpoint import load_network
from models.compression.forms import Exporter
from models.compression.package import open_export, read_export
from models.compression.runners import check_no_pickle, run_all
from models.predict import predict_logits
from pipeline.cohort.dataset import PatchReader

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")


@dataclass
class Exported:
    """A workspace, the folder of an export of every form, its card, and the test patches with their logits."""

    workspace: Workspace
    folder: Path
    card: ExportCard
    patches: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    root = tmp_path_factory.mktemp("export")
    workspace = Workspace(root / "workspace").create()
    dataset = discs(workspace, root)
    card = write_run(workspace, dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "Registry", FolderRegistry)
        export, made = export_version(workspace, "m", "1", root / "out", forms=EXPORT_FORMS, rounds=3)
    assert made
    reader = PatchReader(workspace.dataset("discs"))
    rows = reader.index[reader.index["split"] == Split.TEST.value]
    patches = reader.load(list(rows["patch_id"]))
    logits = predict_logits(load_network(workspace.runs_root / "run", card), patches, card.input)
    return Exported(workspace, root / "out", export, patches, logits)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


@pytest.fixture
def registry(monkeypatch) -> None:
    monkeypatch.setattr(compression, "Registry", FolderRegistry)


@pytest.mark.parametrize("form", EXPORT_FORMS)
def test_every_form_takes_patches_as_they_are_stored_and_gives_the_logits_of_the_network(exported, form):
    out = run_all(open_export(exported.folder, form, 5), exported.patches, 5)
    atol = 1e-4 if form in EXACT_FORMS else 0.1 * np.ptp(exported.logits)
    np.testing.assert_allclose(out[:, 0], exported.logits, atol=atol)
    np.testing.assert_allclose(out[:, 1], 1 / (1 + np.exp(0.3 - 1.7 * out[:, 0])), atol=1e-4 if atol < 1e-3 else 0.02)


def test_the_card_says_of_each_form_its_size_speed_and_cost(exported):
    card = exported.card
    assert [form.form for form in card.forms] == list(EXPORT_FORMS)
    for form in card.forms:
        files = [exported.folder / name for name in form.files]
        assert form.size_bytes == sum(path.stat().st_size for path in files)
        assert form.auc_difference.low <= form.auc_difference.value <= form.auc_difference.high
        assert form.auc_difference_fused.value is not None
        assert (form.tolerance is not None) == (form.form in EXACT_FORMS)
        assert form.tolerance is None or form.largest_logit_difference <= form.tolerance
        assert [ratio.batch for ratio in form.speed] == ([] if form.form == "safetensors" else [1, 16])
        assert all(0 < ratio.low <= ratio.ratio <= ratio.high for ratio in form.speed)
    sizes = {form.form: form.size_bytes for form in card.forms}
    assert sizes["openvino-bf16"] < 0.6 * sizes["openvino-fp32"]
    assert sizes["openvino-int8"] < 0.4 * sizes["openvino-fp32"]
    assert card.n_test == len(exported.patches)
    assert "Not for diagnostic use" in card.intended_use
    text = export_text(card, Path("out"), True)
    assert all(form in text for form in EXPORT_FORMS)


def test_int8_scales_come_from_training_patients_only(exported):
    said = exported.card.int8_calibration
    index = PatchReader(exported.workspace.dataset("discs")).index
    train = index[index["split"] == Split.TRAIN.value]
    assert said.split == "train"
    assert said.n_patches == len(train)
    assert said.n_patients == train["patient_key"].nunique()


def test_exporting_again_does_nothing_and_says_so(exported, registry, monkeypatch):
    monkeypatch.setattr(compression, "_Subject", None)  # nothing is computed
    before = {path: path.stat().st_mtime_ns for path in exported.folder.rglob("*")}
    card, made = export_version(exported.workspace, "m", "1", exported.folder, forms=EXPORT_FORMS)
    assert not made
    assert card == exported.card
    assert {path: path.stat().st_mtime_ns for path in exported.folder.rglob("*")} == before
    assert "is there already" in export_text(card, exported.folder, made)


def test_what_stands_in_the_folder_is_never_overwritten(exported, registry, tmp_path):
    with pytest.raises(UsageError, match="holds something else"):
        export_version(exported.workspace, "m", "1", exported.folder, forms=("safetensors",))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        export_version(exported.workspace, "m", "1", tmp_path, forms=("safetensors",))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("form", EXPORT_FORMS)
def test_one_changed_byte_is_noticed_before_anything_is_loaded(copy, form):
    largest = max((copy / form).iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(WeightsDigestError, match="missing or was changed"):
        open_export(copy, form, 1)


def test_a_missing_file_a_stranger_and_a_changed_figure_are_noticed(copy):
    (copy / "onnx" / "more.bin").write_bytes(b"")
    with pytest.raises(WeightsDigestError, match="does not name"):
        read_export(copy)
    (copy / "onnx" / "more.bin").unlink()
    read_export(copy)
    body = json.loads((copy / "card.json").read_text())
    body["forms"][-1]["auc_difference"]["value"] = 0.0
    (copy / "card.json").write_text(json.dumps({**body, "intended_use": "anything"}))
    with pytest.raises(WeightsDigestError, match="card of the export was changed"):
        read_export(copy)
    shutil.rmtree(copy / "pt2")
    with pytest.raises(WeightsDigestError):
        read_export(copy)


def test_a_form_whose_logits_are_not_those_of_the_network_is_not_written(exported, registry, monkeypatch, tmp_path):
    def wrong(self, form, folder):
        for parameter in self.network.head.parameters():
            parameter.data += 0.05
        write(self, form, folder)

    write = Exporter.write
    monkeypatch.setattr(Exporter, "write", wrong)
    with pytest.raises(WeightsError, match="differs from the network by up to"):
        export_version(exported.workspace, "m", "1", tmp_path / "out", forms=("safetensors",))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_network_is_run(exported, registry, monkeypatch, tmp_path):
    monkeypatch.setattr(compression, "_Subject", lambda *_: 1 / 0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt is no folder"):
        export_version(exported.workspace, "m", "1", tmp_path / "notes.txt" / "out")
    with pytest.raises(UsageError, match="holds something else"):
        export_version(exported.workspace, "m", "1", tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_fails_half_way_leaves_nothing(exported, registry, monkeypatch, tmp_path):
    monkeypatch.setattr(compression, "speed_ratio", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_version(exported.workspace, "m", "1", tmp_path / "out", forms=("safetensors", "pt2"), rounds=1)
    assert list(tmp_path.iterdir()) == []


def test_the_pt2_archive_holds_no_pickle_and_one_that_does_is_refused(exported, tmp_path):
    path = exported.folder / "pt2" / "model.pt2"
    check_no_pickle(path)
    with zipfile.ZipFile(path) as archive:
        payloads = [archive.read(entry) for entry in archive.infolist() if not entry.filename.endswith(".json")]
    assert not any(payload.startswith((b"\x80\x02}", b"PK\x03\x04")) for payload in payloads)
    poisoned = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),)), poisoned)
    with pytest.raises(WeightsError, match="pickle"):
        check_no_pickle(poisoned)
    poisoned.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match=r"not a torch\.export archive"):
        check_no_pickle(poisoned)


def test_forms_are_named_with_commas_and_an_unknown_one_is_refused():
    assert export_forms("") == EXACT_FORMS
    assert export_forms("all") == EXPORT_FORMS
    assert export_forms("openvino-int8, pt2") == ("pt2", "openvino-int8")
    with pytest.raises(UsageError, match="unknown form 'tflite'"):
        export_forms("tflite")
