"""Datasets: the same inputs give the same bytes, whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_contracts.errors import ContractError, GeometryError, LeakError
from data_contracts.params import PatchParams, SplitParams
from data_contracts.volume import CTVolume
from pipeline.cohort.dataset import (
    PatchReader,
    assemble_dataset,
    extract_series_patches,
    finished_dataset,
    patch_rows,
)
from pipeline.cohort.split import split_patients

PARAMS = PatchParams(kind="2.5d", size_mm=12, spacing_mm=1.0)
MANIFEST = split_patients([f"patient-{number}" for number in range(6)], SplitParams())


def nodules_of(series: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "nodule_id": [f"{series:016x}-n{number}" for number in range(3)],
            "series_key": f"{series:016x}",
            "x_mm": [10.0, 15.0, 1.0],
            "y_mm": 12.0,
            "z_mm": [10.0, 11.0, 12.0],
            "diameter_mm": 6.0,
            "malignancy": [1.0, 5.0, 3.0],
            "n_readers": 2,
            "label": pd.array([0, 1, pd.NA], dtype="Int8"),
            "label_soft": [0.0, 1.0, 0.5],
        }
    )


def part(series: int) -> tuple[np.ndarray, pd.DataFrame]:
    hu = np.random.default_rng(series).integers(-1000, 400, (25, 30, 30), dtype=np.int16)
    volume = CTVolume(hu, np.eye(4)[[2, 1, 0, 3]])
    patches, padded = extract_series_patches(volume, nodules_of(series), PARAMS)
    rows = patch_rows(nodules_of(series), padded, patient_key=f"patient-{series}", site="site-a", manifest=MANIFEST)
    return patches, rows


def assemble(root: Path, series=range(6), **changes):
    arrays, rows = zip(*map(part, series), strict=True)
    arguments = {
        "kind": "2.5d",
        "value_unit": "HU",
        "inputs": {"volumes": "1", "nodules": "2", "manifest": "3"},
        "parameters": PARAMS.model_dump(mode="json"),
        "spacing_mm": 1.0,
        "patches_per_shard": 7,
    } | changes
    return assemble_dataset(root, arrays, pd.concat(rows), **arguments)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_inputs_give_the_same_bytes_in_any_order_of_parts(tmp_path):
    first = assemble(tmp_path / "one")
    second = assemble(tmp_path / "two", series=[3, 1, 5, 0, 2, 4])
    assert first == second
    assert digests(tmp_path / "one" / first.dataset_id) == digests(tmp_path / "two" / second.dataset_id)


def test_parts_from_files_give_the_same_bytes_as_arrays(tmp_path):
    arrays, rows = zip(*map(part, range(6)), strict=True)
    files = [tmp_path / f"{number}.npy" for number in range(6)]
    for file, array in zip(files, arrays, strict=True):
        np.save(file, array)
    arguments = {"kind": "2.5d", "value_unit": "HU", "inputs": {}, "parameters": {}}
    one = assemble_dataset(tmp_path / "one", arrays, pd.concat(rows), **arguments)
    two = assemble_dataset(tmp_path / "two", files, pd.concat(rows), **arguments)
    assert digests(tmp_path / "one" / one.dataset_id) == digests(tmp_path / "two" / two.dataset_id)


def test_other_parameters_inputs_or_names_are_another_dataset(tmp_path):
    cards = [
        assemble(tmp_path),
        assemble(tmp_path, inputs={"volumes": "other"}),
        assemble(tmp_path, parameters={"kind": "2.5d"}),
        assemble(tmp_path, name="named"),
    ]
    assert len({card.dataset_id for card in cards}) == 4


def test_a_finished_dataset_is_returned_untouched(tmp_path):
    card = assemble(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / card.dataset_id).iterdir()}
    assert assemble(tmp_path, series=[0]) == card
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / card.dataset_id).iterdir()} == before
    assert finished_dataset(tmp_path, card.dataset_id) == card
    assert finished_dataset(tmp_path, "0" * 16) is None


def test_what_a_kill_left_is_cleared_and_the_dataset_is_written_whole(tmp_path):
    wanted = assemble(tmp_path / "good")
    remains = tmp_path / "killed" / f".{wanted.dataset_id}.abc.tmp"
    unfinished = tmp_path / "killed" / wanted.dataset_id
    for folder in (remains, unfinished):
        folder.mkdir(parents=True)
        (folder / "patches-000.npy").write_bytes(b"torn")
    assert assemble(tmp_path / "killed") == wanted
    assert not remains.exists()
    assert digests(unfinished) == digests(tmp_path / "good" / wanted.dataset_id)


def test_two_processes_at_once_write_one_dataset(tmp_path):
    code = "import pathlib, runpy, sys; runpy.run_path(sys.argv[1])['assemble'](pathlib.Path(sys.argv[2]))"
    workers = [subprocess.Popen([sys.executable, "-c", code, __file__, str(tmp_path)]) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(folders) == 1
    PatchReader(folders[0]).verify()
    assert digests(folders[0]) == digests(tmp_path / assemble(tmp_path).dataset_id)


def test_the_reader_gives_patches_by_id_by_mask_and_whole(tmp_path):
    card = assemble(tmp_path)
    reader = PatchReader(tmp_path / card.dataset_id)
    reader.verify()
    assert reader.card == card
    whole = reader.load()
    assert whole.shape == (18, 3, 12, 12)
    assert whole.dtype == np.int16
    for series in (2, 5):
        ids = [f"{series:016x}-n{number}" for number in (2, 0)]
        assert np.array_equal(reader.load(ids), part(series)[0][[2, 0]])
    assert np.array_equal(reader.load(reader.index["label"] == 1), whole[(reader.index["label"] == 1).fillna(False)])
    assert len(reader.load([])) == 0
    with pytest.raises(ContractError, match="1 patches are not in the dataset"):
        reader.load(["nobody"])
    with pytest.raises(ContractError, match="mask"):
        reader.load(np.ones(3, bool))


def test_the_index_keeps_centres_and_ratings_and_the_card_counts(tmp_path):
    card = assemble(tmp_path)
    index = PatchReader(tmp_path / card.dataset_id).index
    assert {"x_mm", "y_mm", "z_mm", "malignancy"} <= set(index.columns)
    assert card.counts["patches"] == 18
    assert card.counts["patients"] == 6
    assert card.counts["padded"] == 6 == index["padded"].sum()
    assert (card.counts["label:0"], card.counts["label:1"], card.counts["label:none"]) == (6, 6, 6)
    assert sum(card.counts.get(f"split:{split}", 0) for split in ("train", "validation", "test")) == 18
    assert card.counts["site:site-a"] == 18
    assert [shard.n_patches for shard in card.shards] == [7, 7, 4]


def test_an_empty_split_is_warned_of(tmp_path):
    card = assemble(tmp_path, series=[0])
    assert any("has no patch with label 1" in warning for warning in card.warnings)


def test_the_contact_sheet_is_a_picture_of_the_patches(tmp_path):
    card = assemble(tmp_path)
    with Image.open(tmp_path / card.dataset_id / "contact-sheet.png") as sheet:
        assert sheet.size[0] >= 400
        assert len(sheet.getcolors(maxcolors=10**6)) > 50


def test_a_leak_is_refused_before_anything_is_written(tmp_path):
    patches, rows = part(0)
    rows["split"] = ["train", "test", "train"]
    with pytest.raises(LeakError):
        assemble_dataset(tmp_path, [patches], rows, kind="2.5d", value_unit="HU", inputs={}, parameters={})
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_parts_that_do_not_fit_the_rows_are_refused(tmp_path):
    patches, rows = part(0)
    for wrong in ([patches[:2]], [patches.astype(np.float32)], [patches[:1], patches[1:, :, :6]]):
        with pytest.raises(ContractError):
            assemble_dataset(tmp_path, wrong, rows, kind="2.5d", value_unit="HU", inputs={}, parameters={})
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_changed_shard_is_noticed(tmp_path):
    card = assemble(tmp_path)
    shard = tmp_path / card.dataset_id / "patches-001.npy"
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.write_bytes(body)
    with pytest.raises(ContractError, match=r"patches-001\.npy"):
        PatchReader(tmp_path / card.dataset_id).verify()
    shard.write_bytes(body[:200])
    with pytest.raises(ContractError, match="cannot be read"):
        PatchReader(tmp_path / card.dataset_id).load()


def test_a_dataset_without_its_card_is_not_a_dataset(tmp_path):
    with pytest.raises(ContractError):
        _ = PatchReader(tmp_path).card


def test_a_nodule_outside_its_volume_and_an_unknown_patient_are_refused():
    volume = CTVolume(np.zeros((5, 5, 5), np.int16), np.eye(4))
    with pytest.raises(GeometryError):
        extract_series_patches(volume, nodules_of(0), PARAMS)
    with pytest.raises(ContractError, match="not in the manifest"):
        patch_rows(nodules_of(0), np.zeros(3, bool), patient_key="nobody", site="a", manifest=MANIFEST)
