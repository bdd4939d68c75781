"""A dataset goes out as others read it: MedMNIST files and MONAI datalists."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.manifest import Manifest, Split
from data_contracts.model_card import LUNG_WINDOW
from data_contracts.params import LabelParams, PatchParams, SplitParams
from data_contracts.volume import CTVolume
from pipeline.cohort.dataset import assemble_dataset, extract_series_patches, patch_rows
from pipeline.cohort.exporters import export_datalist, export_npz
from pipeline.cohort.importers import import_npz
from pipeline.cohort.patch_reader import PatchReader
from pipeline.imaging.window import apply_window_uint8

SPLITS = [Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.VALIDATION, Split.TEST, Split.TEST]


def ramp() -> CTVolume:
    """HU grow with the millimetre, differently along each axis."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag((2.0, 0.9, 0.8))[::-1]
    affine[:3, 3] = (-20.0, -22.0, -30.0)
    empty = CTVolume(np.zeros((30, 50, 50), np.int16), affine)
    points = empty.to_lps_mm(np.moveaxis(np.indices((30, 50, 50)), 0, -1))
    return CTVolume(np.rint(points @ np.array([10.0, 5.0, 12.0])).astype(np.int16), affine)


def dataset(root, **values) -> PatchReader:
    params = PatchParams(size_mm=8, spacing_mm=1.0, **values)
    fractions = {Split.TRAIN: 0.5, Split.VALIDATION: 0.2, Split.TEST: 0.3}
    manifest = Manifest(patients={f"p{n}": split for n, split in enumerate(SPLITS)}, salt="s", fractions=fractions)
    rows, parts = [], []
    for number in range(len(SPLITS)):
        row = {"nodule_id": f"n{number}", "series_key": f"series-{number}", "n_readers": 3, "diameter_mm": 7.0}
        nodules = pd.DataFrame([{**row, "x_mm": 1.0 + number, "y_mm": -3.0, "z_mm": 2.0, "label_soft": 0.5}])
        nodules["label"] = pd.array([pd.NA if number == 2 else number % 2], dtype="Int8")
        patches, padded = extract_series_patches(ramp(), nodules, params)
        rows.append(patch_rows(nodules, padded, patient_key=f"p{number}", site="a", manifest=manifest))
        parts.append(patches)
    card = assemble_dataset(
        root,
        parts,
        pd.concat(rows, ignore_index=True),
        kind=params.kind,
        value_unit="HU",
        inputs={"volumes": "x"},
        parameters={"patch": params.model_dump(mode="json")},
        spacing_mm=1.0,
    )
    return PatchReader(root / card.dataset_id)


@pytest.mark.parametrize(("kind", "shape"), [("2d", (8, 8, 3)), ("2.5d", (8, 8, 3)), ("3d", (8, 8, 8))])
def test_the_medmnist_file_holds_the_labelled_patches_of_each_split_and_comes_in_again(tmp_path, kind, shape):
    reader = dataset(tmp_path / "sets", kind=kind)
    counts = export_npz(reader, tmp_path / "out.npz", LUNG_WINDOW)
    assert counts == {"train": 2, "val": 1, "test": 2}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["test_images"].shape == (2, *shape)
        assert arrays["test_labels"].tolist() == [[0], [1]]
        first = apply_window_uint8(reader.load(["n4"])[0], LUNG_WINDOW)
        assert np.array_equal(arrays["test_images"][0], first if kind == "3d" else np.moveaxis(first, 0, -1))
    card = import_npz(
        tmp_path / "out.npz", name="again", datasets_root=tmp_path / "sets", split=SplitParams(), label=LabelParams()
    )
    assert card.counts["patches"] == 5
    before = (tmp_path / "out.npz").read_bytes()
    export_npz(reader, tmp_path / "out.npz", LUNG_WINDOW)
    assert (tmp_path / "out.npz").read_bytes() == before


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_patches_of_the_datalist_lie_at_their_millimetre_of_the_patient(tmp_path, kind):
    counts = export_datalist(dataset(tmp_path / "sets", kind=kind), tmp_path / "out")
    assert counts == {"training": 2, "validation": 1, "test": 2}
    lists = json.loads((tmp_path / "out" / "datalist.json").read_text())
    entry = lists["test"][0]
    assert (entry["patch_id"], entry["label"]) == ("n4", 0)
    image = nibabel.load(tmp_path / "out" / entry["image"])
    indices = np.moveaxis(np.indices(image.shape), 0, -1)
    lps = (indices @ image.affine[:3, :3].T + image.affine[:3, 3]) * [-1, -1, 1]
    assert np.abs(lps @ np.array([10.0, 5.0, 12.0]) - np.asarray(image.dataobj)).max() <= 1.0
    assert np.allclose(lps.reshape(-1, 3).mean(axis=0), [5.0, -3.0, 2.0], atol=1e-4)


@pytest.mark.slow
def test_monai_reads_the_datalist(tmp_path):
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImage

    export_datalist(dataset(tmp_path / "sets", kind="3d"), tmp_path / "out")
    training = load_decathlon_datalist(
        tmp_path / "out" / "datalist.json", is_segmentation=False, data_list_key="training", base_dir=tmp_path / "out"
    )
    assert [entry["label"] for entry in training] == [0, 1]
    assert LoadImage(image_only=True)(training[0]["image"]).shape == (8, 8, 8)


def test_nine_planes_go_into_a_datalist_and_not_into_a_medmnist_file(tmp_path):
    reader = dataset(tmp_path / "sets", kind="2.5d", planes=9)
    with pytest.raises(UsageError, match="9 planes"):
        export_npz(reader, tmp_path / "out.npz", LUNG_WINDOW)
    assert not (tmp_path / "out.npz").exists()
    export_datalist(reader, tmp_path / "out")
    entry = json.loads((tmp_path / "out" / "datalist.json").read_text())["training"][0]
    assert np.load(tmp_path / "out" / entry["image"], allow_pickle=False).shape == (9, 8, 8)


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    reader = dataset(tmp_path / "sets", kind="3d")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError):
        export_datalist(reader, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sets"]


@pytest.mark.parametrize("export", [lambda *args: export_npz(*args, LUNG_WINDOW), export_datalist])
@pytest.mark.parametrize("bad", ["notes.txt", "notes.txt/in/it", "notes.txt/it", "folder", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_line_and_keeps_what_is_there(tmp_path, export, bad):
    reader = dataset(tmp_path / "sets", kind="3d")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=re.escape(bad[:20])):
        export(reader, tmp_path / bad)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*") if "sets" not in str(path)) == ["folder", "notes.txt"]


def test_folders_that_are_missing_are_made(tmp_path):
    reader = dataset(tmp_path / "sets", kind="3d")
    assert sum(export_npz(reader, tmp_path / "a" / "b" / "out.npz", LUNG_WINDOW).values())
    assert sum(export_datalist(reader, tmp_path / "c" / "d").values())


def test_a_dataset_without_labels_has_nothing_to_export(tmp_path):
    reader = dataset(tmp_path / "sets", kind="3d")
    reader.index["label"] = pd.array([pd.NA] * len(reader.index), dtype="Int8")
    with pytest.raises(NothingUsableError):
        export_npz(reader, tmp_path / "out.npz", LUNG_WINDOW)
