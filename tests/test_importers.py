"""Published patches as datasets: MedMNIST files, LIDC crops, and what is wrong with a file in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import ContractError, NoduleflowError, UsageError
from data_contracts.params import LabelParams, SplitParams
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz

SIZES = {"train": 12, "val": 5, "test": 7}


def medmnist(path: Path, shape=(28, 28), **changes) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, n in SIZES.items():
        arrays[f"{prefix}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{prefix}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    arrays |= changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def crops(folder: Path, n=6, shape=(3, 16, 16), **columns) -> tuple[Path, Path]:
    npz, table = folder / "crops.npz", folder / "nodules.csv"
    np.savez(npz, image=np.random.default_rng(1).integers(0, 256, (n, *shape), dtype=np.uint8))
    cells = {
        "row": range(n),
        "patient_id": [f"LIDC-IDRI-{number // 2:04d}" for number in range(n)],
        "series_instance_uid": [f"1.2.3.{number // 2}" for number in range(n)],
        "n_readers": [4, 3, 3, 2, 3, 1][:n],
        "malignancy": ["5;5;5;4", "2;3;4", "1;2;2", "5;5", "3;3;4", "1"][:n],
        "texture": ["5;5;4;4", "1;1;1", "5;5;5", "5;5", "3;3;3", "2"][:n],
        "diameter_mm": [32.5, 5.0, 6.0, 9.0, 7.5, 4.0][:n],
        "slice_thickness": 2.5,
        "pixel_spacing": [0.7 + 0.01 * number for number in range(n)],
        "manufacturer": ["GE MEDICAL SYSTEMS", "SIEMENS", "", "Philips", "TOSHIBA", "SIEMENS"][:n],
    } | columns
    pd.DataFrame({key: values for key, values in cells.items() if values is not None}).to_csv(table, index=False)
    return npz, table


def run(path: Path, root: Path, table: Path | None = None, **options):
    options = {"name": "benchmark", "split": SplitParams(), "label": LabelParams(min_readers=3)} | options
    return import_npz(path, table=table, datasets_root=root / "datasets", **options)


def opened(root: Path, card) -> PatchReader:
    return PatchReader(root / "datasets" / card.dataset_id)


@pytest.mark.parametrize(
    ("shape", "kind", "patch_shape"),
    [((28, 28), "2d", (1, 28, 28)), ((28, 28, 3), "2d", (3, 28, 28)), ((28, 28, 28), "3d", (28, 28, 28))],
)
def test_medmnist_files_keep_their_own_split_and_pixels(tmp_path, shape, kind, patch_shape):
    file = medmnist(tmp_path / "nodulemnist.npz", shape)
    card = run(file, tmp_path)
    assert (card.kind, card.patch_shape, card.dtype, card.value_unit) == (kind, patch_shape, "uint8", "grey")
    reader = opened(tmp_path, card)
    index = reader.index
    for prefix, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = index[index["split"] == split]
        assert len(rows) == SIZES[prefix]
        assert rows["label"].tolist() == [number % 2 for number in range(SIZES[prefix])]
        with np.load(file) as arrays:
            images = arrays[f"{prefix}_images"]
        stored = reader.load(rows["patch_id"])
        assert np.array_equal(stored.squeeze(), np.moveaxis(images, 3, 1) if shape[-1] == 3 else images)
    assert index["patient_key"].iloc[-1] == "val-4"
    assert any("names no patients" in warning for warning in card.warnings)


def test_the_same_file_gives_the_same_dataset_once(tmp_path):
    file = medmnist(tmp_path / "a.npz")
    card = run(file, tmp_path)
    moved = file.rename(tmp_path / "b.npz")
    assert run(moved, tmp_path) == card
    assert card.inputs == {"npz": hashlib.sha256(moved.read_bytes()).hexdigest()}
    assert run(medmnist(tmp_path / "c.npz", (14, 14)), tmp_path).dataset_id != card.dataset_id


def test_pixels_that_stand_in_two_splits_are_warned_of(tmp_path):
    same = np.zeros((5, 28, 28), np.uint8)
    card = run(medmnist(tmp_path / "a.npz", val_images=same, test_images=np.zeros((7, 28, 28), np.uint8)), tmp_path)
    assert "1 patches have identical pixels in two splits" in card.warnings


def test_crops_are_labelled_by_their_readers_and_split_by_patient(tmp_path):
    card = run(*[(paths := crops(tmp_path))[0], tmp_path, paths[1]])
    index = opened(tmp_path, card).index
    assert [None if pd.isna(label) else int(label) for label in index["label"]] == [1, None, 0, None, 1, None]
    assert index["label_soft"].tolist() == pytest.approx([0.9375, 0.5, 1 / 6, 1.0, 7 / 12, 0.0])
    assert index["texture"].iloc[0] == 4.5
    assert index["site"].tolist()[:3] == ["GE MEDICAL SYSTEMS", "SIEMENS", "unknown"]
    assert index["pixel_spacing_mm"].iloc[3] == pytest.approx(0.73)
    assert index["slice_thickness_mm"].unique().tolist() == [2.5]
    assert index["patient_key"].nunique() == 3
    assert (index.groupby("patient_key")["split"].nunique() == 1).all()
    with np.load(paths[0]) as arrays:
        assert np.array_equal(opened(tmp_path, card).load(), arrays["image"])


def test_no_file_of_the_dataset_holds_a_patient_or_series_identifier(tmp_path):
    npz, table = crops(tmp_path)
    card = run(npz, tmp_path, table)
    for file in (tmp_path / "datasets" / card.dataset_id).iterdir():
        assert b"LIDC-IDRI" not in file.read_bytes()
        assert b"1.2.3." not in file.read_bytes()


def test_excluded_patients_stay_out_and_are_counted(tmp_path):
    npz, table = crops(tmp_path)
    card = run(npz, tmp_path, table, exclude_patients=["LIDC-IDRI-0001"])
    index = opened(tmp_path, card).index
    assert index["patch_id"].tolist() == ["000000", "000001", "000004", "000005"]
    with np.load(npz) as arrays:
        assert np.array_equal(opened(tmp_path, card).load(), arrays["image"][[0, 1, 4, 5]])
    assert any(warning.startswith("2 crops of excluded patients") for warning in card.warnings)
    assert card.dataset_id != run(npz, tmp_path, table).dataset_id
    with pytest.raises(UsageError, match="names no patients"):
        run(medmnist(tmp_path / "m.npz"), tmp_path, exclude_patients=["x"])


@pytest.mark.parametrize("value", [0.0, -0.7])
def test_a_pixel_spacing_that_is_no_distance_is_refused(tmp_path, value):
    path, table = crops(tmp_path, pixel_spacing=[0.7, value, 0.7, 0.7, 0.7, 0.7])
    with pytest.raises(ContractError, match="'pixel_spacing' is no distance in mm on line 3"):
        run(path, tmp_path, table)


def test_an_empty_cell_of_a_number_that_may_be_missing_is_a_missing_number(tmp_path):
    path, table = crops(tmp_path, pixel_spacing=[0.7, "", 0.7, 0.7, 0.7, 0.7])
    spacing = opened(tmp_path, run(path, tmp_path, table)).index["pixel_spacing_mm"]
    assert spacing.isna().tolist() == [False, True, False, False, False, False]


@pytest.mark.realdata
def test_the_lidc_crops_have_838_labelled_nodules(shared_data, tmp_path):
    folder = shared_data / "lidc-nodules"
    card = run(folder / "crops_3x64x64_uint8.npz", tmp_path, folder / "nodules.csv")
    assert card.counts["patches"] == 1837
    assert card.counts["patients"] == 607
    assert card.counts["label:0"] + card.counts["label:1"] == 838
    index = opened(tmp_path, card).index
    table = pd.read_csv(folder / "nodules.csv")
    assert np.allclose(index["malignancy"], table["mal_mean"])
    assert np.array_equal(index["diameter_mm"], table["diameter_mm"])


def test_labels_of_more_classes_are_refused_by_what_was_found(tmp_path):
    labels = np.array([[0], [1], [2], [3], [4]])
    with pytest.raises(UsageError, match=r"5 classes \(0, 1, 2, 3, 4\) in 'val_labels'"):
        run(medmnist(tmp_path / "a.npz", val_labels=labels), tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"val_images": None}, "no array 'val_images'"),
        ({"val_images": np.zeros((4, 28, 28), np.uint8)}, "'val_labels' has shape"),
        ({"val_images": np.zeros((5, 28, 28), np.float32)}, "not a stack of uint8"),
        ({"val_images": np.zeros((5, 14, 14), np.uint8)}, "different shapes"),
        ({"val_images": np.zeros((5, 2, 9, 9, 9), np.uint8)}, "Wanted"),
        ({"val_images": np.zeros((0, 28, 28), np.uint8)}, "not a stack"),
        ({"val_labels": np.zeros((5, 14), np.uint8)}, "multi-label"),
        ({"val_labels": np.array(["a"] * 5)}, "not numbers"),
        ({"val_labels": np.array([[0.0], [np.nan], [1], [1], [1]])}, "only 0 and 1"),
        ({"val_images": np.array([object()] * 5, dtype=object)}, "pickles are not opened"),
    ],
)
def test_a_wrong_medmnist_file_is_refused_in_one_line(tmp_path, changes, word):
    with pytest.raises(UsageError) as refused:
        run(medmnist(tmp_path / "wrong.npz", **changes), tmp_path)
    assert word in refused.value.line()
    assert not [path for path in tmp_path.glob("datasets/*") if path.is_dir()]


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"malignancy": None}, "no column 'malignancy'"),
        ({"patient_id": ["LIDC-IDRI-0001"] * 5 + [""]}, "column 'patient_id' is empty on line 7"),
        ({"diameter_mm": [3, 3, -1, 3, 3, 3]}, "column 'diameter_mm' is no diameter in mm on line 4"),
        ({"diameter_mm": [3, "wide", 4, 3, 3, 3]}, "column 'diameter_mm' is not a number on line 3"),
        ({"malignancy": ["5;5;5;9", "2;3;4", "1;2;2", "5;5", "3;3;4", "1"]}, "'malignancy' holds no ratings on line 2"),
        ({"n_readers": [4, 3, 3, 3, 3, 1]}, "'n_readers' is not the number of malignancy ratings on line 5"),
        ({"row": [0, 1, 2, 3, 5, 4]}, "'row' does not count the crops on line 6"),
    ],
)
def test_a_wrong_table_is_refused_by_column_and_line_but_never_by_its_values(tmp_path, columns, word):
    npz, table = crops(tmp_path, **columns)
    with pytest.raises(NoduleflowError) as refused:
        run(npz, tmp_path, table)
    assert isinstance(refused.value, UsageError | ContractError)
    assert word in refused.value.line()
    assert "LIDC-IDRI" not in refused.value.line()


def test_a_table_with_another_number_of_rows_is_refused(tmp_path):
    npz, table = crops(tmp_path)
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="5 rows for 6 crops"):
        run(npz, tmp_path, table)


@pytest.mark.parametrize("size", [0, 10, 300, -40])
def test_a_file_cut_short_is_refused(tmp_path, size):
    npz, table = crops(tmp_path)
    npz.write_bytes(npz.read_bytes()[:size])
    for arguments in ((npz, tmp_path), (npz, tmp_path, table)):
        with pytest.raises(UsageError, match=r"crops\.npz"):
            run(*arguments)


def test_flipped_bytes_inside_a_compressed_file_are_refused(tmp_path):
    npz, table = crops(tmp_path)
    with np.load(npz) as arrays:
        np.savez_compressed(npz, image=arrays["image"])
    body = bytearray(npz.read_bytes())
    body[len(body) // 2] ^= 255
    npz.write_bytes(body)
    with pytest.raises(UsageError):
        run(npz, tmp_path, table)


def test_missing_files_folders_and_strangers_are_refused(tmp_path):
    npz, table = crops(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "folder.npz").mkdir()
    for arguments in (
        (tmp_path / "none.npz", tmp_path),
        (tmp_path / "text.npz", tmp_path),
        (tmp_path / "folder.npz", tmp_path),
        (npz, tmp_path, tmp_path / "none.csv"),
        (npz, tmp_path, npz),
        (npz, tmp_path),
        (medmnist(tmp_path / "m.npz"), tmp_path, table),
    ):
        with pytest.raises(UsageError):
            run(*arguments)
    with pytest.raises(UsageError, match="needs a name"):
        run(npz, tmp_path, table, name="")


def with_votes(folder: Path, **changes) -> tuple[Path, Path]:
    """The crops with an array `votes`: two readers outline a corner of the first crop, everybody one of the third."""
    npz, table = crops(folder)
    with np.load(npz) as arrays:
        image = arrays["image"]
    votes = np.zeros(image.shape, np.uint8)
    votes[0, 1, :4, :4], votes[2, :, 8:, 8:] = 2, 3
    np.savez(npz, image=image, votes=changes.get("votes", votes))
    return npz, table


def test_votes_become_the_share_of_readers_that_outline_a_pixel(tmp_path):
    npz, table = with_votes(tmp_path)
    card = run(npz, tmp_path, table, votes="votes", exclude_patients=["LIDC-IDRI-0002"])
    reader = opened(tmp_path, card)
    masks = reader.load_masks()
    assert masks.shape == (4, 3, 16, 16) and masks.dtype == np.uint8
    assert (masks[0, 1, :4, :4] == 128).all() and masks[0].sum() == 128 * 16
    assert (masks[2, :, 8:, 8:] == 255).all() and not masks[[1, 3]].any()
    assert np.array_equal(reader.load_masks(["000002"])[0], masks[2])
    reader.verify()
    shard = tmp_path / "datasets" / card.dataset_id / card.masks[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ContractError, match="was changed"):
        opened(tmp_path, card).verify()


def test_a_dataset_without_votes_is_the_one_that_it_always_was(tmp_path):
    npz, table = with_votes(tmp_path)
    without, outlined = run(npz, tmp_path, table), run(npz, tmp_path, table, votes="votes")
    assert without.dataset_id != outlined.dataset_id
    assert "masks" not in (tmp_path / "datasets" / without.dataset_id / "dataset.json").read_text()
    with pytest.raises(UsageError, match="no outlines of readers"):
        opened(tmp_path, without).load_masks()


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        (np.full((6, 3, 16, 16), 4, np.uint8), "more votes than the crop has readers"),
        (np.zeros((6, 1, 16, 16), np.uint8), "not that of 'image'"),
        (np.zeros((6, 3, 16, 16)), "no counts of readers"),
    ],
    ids=["too many", "another shape", "no counts"],
)
def test_votes_that_cannot_be_are_refused_in_one_line(tmp_path, votes, words):
    npz, table = with_votes(tmp_path, votes=votes)
    with pytest.raises(NoduleflowError, match=words) as refused:
        run(npz, tmp_path, table, votes="votes")
    assert "\n" not in str(refused.value)


def test_votes_need_a_table_and_an_array_of_that_name(tmp_path):
    npz, table = with_votes(tmp_path)
    with pytest.raises(UsageError, match="no array 'outlines'"):
        run(npz, tmp_path, table, votes="outlines")
    with pytest.raises(UsageError, match="readers of a table"):
        run(medmnist(tmp_path / "a.npz"), tmp_path, votes="votes")
