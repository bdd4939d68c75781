"""A dataset in the formats that others read: a MedMNIST .npz, and NIfTI or .npy patches with a MONAI datalist.

Only labelled patches go out, in the dataset's own split. Both are written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.manifest import Split
from data_contracts.model_card import Window
from data_contracts.params import PatchParams
from data_contracts.patches import DatasetCard
from data_contracts.place import check_place
from data_contracts.records import atomic_path
from data_contracts.volume import CTVolume
from pipeline.cohort.patch_reader import PatchReader
from pipeline.imaging.nifti import write_nifti
from pipeline.imaging.patches import patch_grids
from pipeline.imaging.window import apply_window_uint8

_MEDMNIST = {Split.TRAIN: "train", Split.VALIDATION: "val", Split.TEST: "test"}
_DECATHLON = {Split.TRAIN: "training", Split.VALIDATION: "validation", Split.TEST: "test"}
_COLOURS = 3
_AT_ONCE = 256


def export_npz(dataset: PatchReader, target: Path, window: Window) -> dict[str, int]:
    """Write a MedMNIST-format file and return how many patches of each split are in it.

    {train,val,test}_images uint8: (n, H, W, 3) where a patch is three slices or planes, (n, D, H, W) where it is a
    cube; {train,val,test}_labels uint8 (n, 1). HU are windowed to 0..255; grey stays as it is.

    Raises
    ------
    UsageError: patches that the format cannot hold (nine planes); something else stands at `target`, or nothing can be
        written there.
    NothingUsableError: no patch has a label.
    """
    check_place(target)
    if target.exists() and not zipfile.is_zipfile(target):
        what = "a folder" if target.is_dir() else "a file that is no .npz"
        raise UsageError(f"{what} stands there", where=str(target), todo="Name another; it is not overwritten.")
    card = dataset.card
    index = _labelled(dataset)
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, prefix in _MEDMNIST.items():
        rows = index[index["split"] == split.value]
        images = np.empty((len(rows), *card.patch_shape), dtype=np.uint8)
        for first in range(0, len(rows), _AT_ONCE):
            patches = dataset.load(rows["patch_id"].iloc[first : first + _AT_ONCE])
            images[first : first + _AT_ONCE] = (
                patches if card.value_unit == "grey" else apply_window_uint8(patches, window)
            )
        arrays[f"{prefix}_images"] = _channel_last(images, card)
        arrays[f"{prefix}_labels"] = rows["label"].to_numpy(dtype=np.uint8)[:, None]
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    return {prefix: len(arrays[f"{prefix}_labels"]) for prefix in _MEDMNIST.values()}


def export_datalist(dataset: PatchReader, folder: Path) -> dict[str, int]:
    """Write patches and `datalist.json` to a new folder; return how many of each list are in it.

    The lists `training`, `validation` and `test` are those of the Medical Segmentation Decathlon, which MONAI's
    `load_decathlon_datalist` reads (is_segmentation=False). Cubes and neighbouring slices are NIfTI with the affine of
    the patient; planes at angles and imported crops, which have none, are .npy (C, H, W).

    Raises
    ------
    UsageError: the folder is there already, or cannot be written.
    NothingUsableError: no patch has a label.
    """
    check_place(folder)
    if folder.exists():
        raise UsageError("the folder to export to is there already", where=str(folder), todo="Name one that is not.")
    index = _labelled(dataset)
    params = _patch_params(dataset.card)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        (temporary / "images").mkdir()
        lists: dict[str, list[dict[str, Any]]] = {name: [] for name in _DECATHLON.values()}
        for first in range(0, len(index), _AT_ONCE):
            rows = index.iloc[first : first + _AT_ONCE]
            for patch, row in zip(dataset.load(rows["patch_id"]), rows.to_dict("records"), strict=True):
                name = _write_patch(temporary / "images", patch, row, params)
                entry = {"image": f"images/{name}", "label": int(row["label"]), "patch_id": row["patch_id"]}
                lists[_DECATHLON[Split(row["split"])]].append({**entry, "patient_key": row["patient_key"]})
        counts = {name: len(entries) for name, entries in lists.items()}
        head = {"name": dataset.card.name or dataset.card.dataset_id, "labels": {"0": "negative", "1": "positive"}}
        (temporary / "datalist.json").write_text(json.dumps({**head, **lists}, indent=1) + "\n")
        temporary.chmod(0o755)
        temporary.replace(folder)
        return counts
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _labelled(dataset: PatchReader) -> pd.DataFrame:
    index = dataset.index[dataset.index["label"].notna()]
    if index.empty:
        raise NothingUsableError("no patch of the dataset has a label", where=dataset.card.dataset_id)
    return index


def _channel_last(images: NDArray[np.uint8], card: DatasetCard) -> NDArray[np.uint8]:
    if card.kind == "3d" or images.ndim == 3:
        return images
    if images.shape[1] == 1:
        return images[:, 0]
    if images.shape[1] != _COLOURS:
        raise UsageError(
            f"{images.shape[1]} planes do not fit a MedMNIST file", todo="Export the MONAI datalist in its place."
        )
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def _patch_params(card: DatasetCard) -> PatchParams | None:
    """How the patches were cut; None for imported crops."""
    stored = card.parameters.get("patch")
    return PatchParams.from_mapping(stored, where="dataset.json") if isinstance(stored, dict) else None


def _write_patch(
    folder: Path, patch: NDArray[np.int16] | NDArray[np.uint8], row: dict[Hashable, Any], params: PatchParams | None
) -> str:
    if params is None or params.kind == "2.5d":
        name = f"{row['patch_id']}.npy"
        np.save(folder / name, patch, allow_pickle=False)
        return name
    name = f"{row['patch_id']}.nii.gz"
    center_mm = np.array([row["x_mm"], row["y_mm"], row["z_mm"]], dtype=np.float64)
    (grid,) = patch_grids(center_mm, params)
    write_nifti(folder / name, CTVolume(patch.astype(np.int16), grid.affine))
    return name
