"""Datasets of patches: a pure function of volumes, nodules and parameters, written whole or not at all.

    datasets/<dataset_id>/patches-NNN.npy   (n, *patch_shape) int16 HU or uint8 grey, C order, memory-mappable
                          masks-NNN.npy     the same shape, uint8: what the readers outlined, where that is known
                          index.parquet     PATCH_TABLE: one row a patch, sorted by patch_id
                          contact-sheet.png a look at up to 64 patches
                          dataset.json      DatasetCard; written last, so its presence says that all is there

The id is a digest of the inputs' digests and the parameters, so the same inputs give the same folder with the same
bytes, whatever the order or the number of processes the parts came from.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray

from data_contracts.errors import ContractError
from data_contracts.manifest import Manifest, Split
from data_contracts.params import PatchParams
from data_contracts.patch_kind import PatchKind
from data_contracts.patches import PATCH_TABLE, DatasetCard, Shard
from data_contracts.records import digest_of, sha256_file
from data_contracts.volume import CTVolume
from pipeline.cohort.contact_sheet import contact_sheet_png
from pipeline.cohort.patch_reader import PatchReader
from pipeline.cohort.split import check_no_leak
from pipeline.imaging.patches import extract_patch, patch_shape

__all__ = [
    "PatchReader",
    "assemble_dataset",
    "count_patches",
    "dataset_id_of",
    "extract_series_patches",
    "finished_dataset",
    "patch_rows",
]

#: Raised by one whenever the same inputs would give other bytes.
_FORMAT = 1

PatchArray = NDArray[np.int16] | NDArray[np.uint8]


def extract_series_patches(
    volume: CTVolume, nodules_of_series: pd.DataFrame, params: PatchParams
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Patches (n, *patch_shape) int16 HU around the nodules of one series, in their order, and which are padded (n,).

    Raises GeometryError where a nodule lies outside the volume.
    """
    patches = np.empty((len(nodules_of_series), *patch_shape(params)), dtype=np.int16)
    padded = np.zeros(len(nodules_of_series), dtype=np.bool_)
    centers_mm = nodules_of_series[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    for row, center_mm in enumerate(centers_mm):
        patches[row], padded[row] = extract_patch(volume, center_mm, params)
    return patches, padded


def patch_rows(
    nodules: pd.DataFrame, padded: NDArray[np.bool_], *, patient_key: str, site: str, manifest: Manifest
) -> pd.DataFrame:
    """Index rows of the patches of one series (PATCH_TABLE without shard and row).

    Parameters
    ----------
    nodules: rows of `nodules_by_consensus` or `series_places` of one series, in the order of the patches; centres
        and mean ratings stay as further columns.
    padded: (n,) as `extract_series_patches` gives it.
    """
    if patient_key not in manifest.patients:
        raise ContractError("a patient is not in the manifest", where=patient_key, todo="Split all patients first.")
    rows = nodules.reset_index(drop=True).copy()
    if "patch_id" not in rows:
        rows.insert(0, "patch_id", rows["nodule_id"])  # one patch a nodule, and nodule_id is unique in a workspace
    rows["patient_key"] = patient_key
    rows["site"] = site
    rows["split"] = manifest.patients[patient_key].value
    rows["padded"] = padded
    return rows


def dataset_id_of(name: str, kind: PatchKind, inputs: Mapping[str, str], parameters: Mapping[str, object]) -> str:
    """The id of the dataset that these inputs (digests) and parameters give."""
    return digest_of([_FORMAT, name, kind, dict(inputs), dict(parameters)])


def finished_dataset(datasets_root: Path, dataset_id: str) -> DatasetCard | None:
    """The card of a dataset that is already there, else None."""
    path = datasets_root / dataset_id / "dataset.json"
    return DatasetCard.read(path) if path.exists() else None


def assemble_dataset(
    datasets_root: Path,
    parts: Sequence[PatchArray | Path],
    index_rows: pd.DataFrame,
    *,
    kind: PatchKind,
    value_unit: Literal["HU", "grey"],
    inputs: Mapping[str, str],
    parameters: Mapping[str, object],
    name: str = "",
    spacing_mm: float | None = None,
    warnings: Iterable[str] = (),
    patches_per_shard: int = 1024,
    masks: NDArray[np.uint8] | None = None,
) -> DatasetCard:
    """Write the dataset, or return the finished one untouched.

    Parameters
    ----------
    parts: arrays (n, *patch_shape), or .npy files of such; together as many patches as `index_rows` has rows, in its
        order. Their order does not matter: patches are stored sorted by patch_id.
    index_rows: PATCH_TABLE without shard and row; more columns may stand beside.
    inputs: digests of everything the patches were made from (volumes, nodules, manifest or files).
    parameters: every parameter that shaped them.
    masks: (n, *patch_shape) as DatasetCard.masks says, in the order of `index_rows`; whatever gave them is among
        `inputs` and `parameters`.

    Raises
    ------
    LeakError: a patient, series or nodule is in two splits.
    ContractError: the parts do not fit the rows or each other.
    """
    dataset_id = dataset_id_of(name, kind, inputs, parameters)
    datasets_root.mkdir(parents=True, exist_ok=True)
    with FileLock(datasets_root / f".{dataset_id}.lock"):
        card = finished_dataset(datasets_root, dataset_id)
        if card is not None:
            return card
        check_no_leak(index_rows)
        for remains in datasets_root.glob(f".{dataset_id}.*.tmp"):
            shutil.rmtree(remains)
        folder = Path(tempfile.mkdtemp(prefix=f".{dataset_id}.", suffix=".tmp", dir=datasets_root))
        try:
            order = index_rows["patch_id"].argsort(kind="stable").to_numpy()
            patches = _Parts(parts, len(index_rows))
            index = index_rows.iloc[order].reset_index(drop=True)
            position = np.arange(len(index))
            index["shard"], index["row"] = position // patches_per_shard, position % patches_per_shard
            index = PATCH_TABLE.validate(index, where="index.parquet")
            shards = [
                _write_shard(folder, "patches", number, patches.take(order[first : first + patches_per_shard]))
                for number, first in enumerate(range(0, len(order), patches_per_shard))
            ]
            outlined = [] if masks is None else _write_masks(folder, patches, masks[order], patches_per_shard)
            PATCH_TABLE.write(folder / "index.parquet", index)
            shown = np.unique(np.linspace(0, len(order) - 1, 64).astype(int))
            sheet = contact_sheet_png(patches.take(order[shown]), index["label"].iloc[shown], kind, value_unit)
            (folder / "contact-sheet.png").write_bytes(sheet)
            card = DatasetCard(
                dataset_id=dataset_id,
                name=name,
                kind=kind,
                patch_shape=patches.patch_shape,
                dtype="int16" if patches.dtype == np.int16 else "uint8",
                value_unit=value_unit,
                spacing_mm=spacing_mm,
                shards=tuple(shards),
                masks=tuple(outlined),
                inputs=dict(inputs),
                parameters=dict(parameters),
                counts=count_patches(index),
                warnings=(*warnings, *_empty_splits(index)),
            )
            card.write(folder / "dataset.json")
            folder.chmod(0o755)
            final = datasets_root / dataset_id
            if final.exists():  # a copy by hand without its card
                shutil.rmtree(final)
            folder.replace(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return card


def count_patches(index: pd.DataFrame) -> dict[str, int]:
    """Number of patches, patients and padded patches, and of patches by split, site, label, and split with label."""
    label = index["label"].map({0: "0", 1: "1"}).astype("object").fillna("none")
    counts = {
        "patches": len(index),
        "patients": int(index["patient_key"].nunique()),
        "padded": int(index["padded"].sum()),
    }
    for prefix, column in (("split", index["split"]), ("site", index["site"]), ("label", label)):
        for value, n in column.value_counts().sort_index().items():
            counts[f"{prefix}:{value}"] = int(n)
    pairs = "split:" + index["split"] + " label:" + label
    counts |= {str(value): int(n) for value, n in pairs.value_counts().sort_index().items()}
    return counts


def _empty_splits(index: pd.DataFrame) -> list[str]:
    labelled = index[index["label"].notna()]
    return [
        f"split {split.value} has no patch with label {label}"
        for split in Split
        for label in (0, 1)
        if not ((labelled["split"] == split.value) & (labelled["label"] == label)).any()
    ]


def _write_masks(folder: Path, patches: _Parts, masks: NDArray[np.uint8], patches_per_shard: int) -> list[Shard]:
    if masks.shape[1:] != patches.patch_shape or masks.dtype != np.uint8:
        raise ContractError("the masks of a dataset are uint8 and shaped as its patches")
    return [
        _write_shard(folder, "masks", number, masks[first : first + patches_per_shard])
        for number, first in enumerate(range(0, len(masks), patches_per_shard))
    ]


def _write_shard(folder: Path, what: str, number: int, patches: PatchArray) -> Shard:
    path = folder / f"{what}-{number:03d}.npy"
    np.save(path, patches, allow_pickle=False)
    return Shard(file=path.name, n_patches=len(patches), sha256=sha256_file(path))


class _Parts:
    """Arrays and .npy files read as one long array (n, *patch_shape)."""

    def __init__(self, parts: Sequence[PatchArray | Path], n_rows: int) -> None:
        opened = [
            np.load(part, mmap_mode="r", allow_pickle=False) if isinstance(part, Path) else part for part in parts
        ]
        self._arrays = [array for array in opened if len(array)]
        kinds = {(array.dtype, array.shape[1:]) for array in self._arrays}
        n_patches = sum(len(array) for array in self._arrays)
        if n_patches != n_rows or n_rows == 0:
            raise ContractError(f"a dataset of {n_patches} patches and {n_rows} index rows")
        if len(kinds) != 1 or self._arrays[0].dtype not in (np.dtype(np.int16), np.dtype(np.uint8)):
            raise ContractError("the patches of a dataset have one shape and are all int16 or all uint8")
        self.dtype = self._arrays[0].dtype
        self.patch_shape = tuple(int(size) for size in self._arrays[0].shape[1:])
        self._stops = np.cumsum([len(array) for array in self._arrays])

    def take(self, positions: NDArray[np.integer]) -> PatchArray:
        out = np.empty((len(positions), *self.patch_shape), dtype=self.dtype)
        owners = np.searchsorted(self._stops, positions, side="right")
        for owner in np.unique(owners):
            array = self._arrays[owner]
            mine = owners == owner
            out[mine] = array[positions[mine] - (self._stops[owner] - len(array))]
        return out
