"""Published patches as a dataset: MedMNIST files, and LIDC crops with a table of their readers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import ContractError, UsageError
from data_contracts.manifest import Split
from data_contracts.params import LabelParams, SplitParams
from data_contracts.patch_kind import PatchKind
from data_contracts.patches import DatasetCard
from data_contracts.records import digest_of, sha256_file
from pipeline.cohort.crop_table import read_crop_table
from pipeline.cohort.dataset import assemble_dataset
from pipeline.cohort.npz_file import array_names, read_arrays
from pipeline.cohort.split import split_patients

#: how the warning of a dataset begins whose patients nobody named
NAMES_NO_PATIENTS = "MedMNIST names no patients"
_MEDMNIST_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}
#: (n, H, W, 3) is colour; no volume is three voxels wide.
_COLOURS = 3


@dataclass(frozen=True)
class _Import:
    """What a file gave: patches (n, *patch_shape) uint8, their index rows, and masks of the same shape if any."""

    patches: NDArray[np.uint8]
    rows: pd.DataFrame
    kind: PatchKind
    warnings: tuple[str, ...]
    masks: NDArray[np.uint8] | None = None


def import_npz(
    path: Path,
    *,
    name: str,
    table: Path | None = None,
    datasets_root: Path,
    split: SplitParams,
    label: LabelParams,
    exclude_patients: Iterable[str] = (),
    votes: str = "",
) -> DatasetCard:
    """An .npz file as a finished dataset; the same files and parameters give the same one, written once.

    Without `table`: the MedMNIST format, arrays {train,val,test}_images uint8 (n, H, W), (n, H, W, 3) or (n, D, H, W)
    and {train,val,test}_labels (n, 1) of 0 and 1; the file's own split is kept.
    With `table`: one array `image` uint8 (n, C, H, W) and a CSV whose row n describes it (`read_crop_table`); the
    split is by patient, every row is kept, and its label is that of the readers or missing.

    Parameters
    ----------
    name: what people call the dataset.
    exclude_patients: patient_id of the table that must not come in.
    votes: array beside `image`, of its shape: how many of a crop's readers outlined the pixel. They become the masks of
        the dataset, a target for `mask_weight`; a crop without a vote has none. Empty leaves outlines out.

    Raises
    ------
    UsageError: wrong arrays, shapes, columns, labels of more than two classes, or a torn file.
    ContractError: the rows of the table contradict the crops or each other.
    """
    if not name:
        raise UsageError("a dataset needs a name", todo="Give one with --name.")
    inputs = {"npz": sha256_file(path)} if path.is_file() else {}
    excluded = frozenset(exclude_patients)
    parameters: dict[str, object] = {"importer": "medmnist"}
    if table is None:
        if votes:
            raise UsageError(
                "outlines are counted against the readers of a table", where=path.name, todo="Give it with --table."
            )
        if excluded:
            raise UsageError("a MedMNIST file names no patients, so none can be excluded", where=path.name)
        found = _medmnist(path, name)
    else:
        found = _crops(path, table, split, label, excluded, votes)
        inputs["table"] = sha256_file(table)
        parameters = {
            "importer": "crops",
            "split": split.model_dump(mode="json"),
            "label": label.model_dump(mode="json"),
            "excluded_patients": digest_of(sorted(excluded)) if excluded else "",
            **({"votes": votes} if votes else {}),
        }
    return assemble_dataset(
        datasets_root,
        [found.patches],
        found.rows,
        kind=found.kind,
        value_unit="grey",
        inputs=inputs,
        parameters=parameters,
        name=name,
        warnings=(*found.warnings, *_same_pixels_in_two_splits(found)),
        masks=found.masks,
    )


def _medmnist(path: Path, name: str) -> _Import:
    if "image" in array_names(path):
        raise UsageError("crops without a table of their labels", where=path.name, todo="Give it with --table.")
    keys = [f"{prefix}_{what}" for prefix in _MEDMNIST_SPLITS for what in ("images", "labels")]
    arrays = read_arrays(path, keys)
    patches, rows = [], []
    for prefix, split in _MEDMNIST_SPLITS.items():
        images, labels = arrays[f"{prefix}_images"], arrays[f"{prefix}_labels"]
        patches.append(_channel_first(images, path, f"{prefix}_images"))
        rows.append(_medmnist_rows(_binary(labels, len(images), path, f"{prefix}_labels"), prefix, split, name))
    if len({part.shape[1:] for part in patches}) != 1:
        raise UsageError("train, val and test images have different shapes", where=path.name)
    volumetric = arrays["train_images"].ndim == 4 and arrays["train_images"].shape[3] != _COLOURS
    warning = f"{NAMES_NO_PATIENTS}: that one patient is in two splits cannot be excluded, only trusted"
    return _Import(np.concatenate(patches), pd.concat(rows), "3d" if volumetric else "2d", (warning,))


def _channel_first(images: NDArray[np.generic], path: Path, key: str) -> NDArray[np.uint8]:
    """(n, H, W) to (n, 1, H, W); (n, H, W, 3) to (n, 3, H, W); (n, D, H, W) stays."""
    _need_uint8(images, path, key)
    pixels = images.view(np.uint8)
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[3] == _COLOURS:
        return np.moveaxis(pixels, 3, 1)
    if pixels.ndim == 4:
        return pixels
    raise UsageError(
        f"array {key!r} has shape {images.shape}",
        where=path.name,
        todo="Wanted: (n, H, W), (n, H, W, 3) or (n, D, H, W).",
    )


def _need_uint8(images: NDArray[np.generic], path: Path, key: str) -> None:
    if images.dtype != np.uint8 or images.ndim < 3 or 0 in images.shape:
        raise UsageError(
            f"array {key!r} is {images.dtype} {images.shape}, not a stack of uint8 images", where=path.name
        )


def _binary(labels: NDArray[np.generic], n_images: int, path: Path, key: str) -> NDArray[np.int64]:
    if labels.shape not in ((n_images,), (n_images, 1)):
        raise UsageError(
            f"array {key!r} has shape {labels.shape} for {n_images} images",
            where=path.name,
            todo="One label of one class an image is wanted; multi-label files are not taken.",
        )
    if labels.dtype.kind not in "biuf":
        raise UsageError(f"array {key!r} holds {labels.dtype}, not numbers", where=path.name)
    values = labels.reshape(-1).astype(np.float64)
    classes = np.unique(values)
    if not np.isin(classes, (0.0, 1.0)).all():
        shown = ", ".join(f"{value:g}" for value in classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise UsageError(
            f"labels of {len(classes)} classes ({shown}) in {key!r}; only 0 and 1 are taken",
            where=path.name,
            todo="Choose the two classes of your question and save them as 0 and 1.",
        )
    return values.astype(np.int64)


def _medmnist_rows(labels: NDArray[np.int64], prefix: str, split: Split, name: str) -> pd.DataFrame:
    keys = [f"{prefix}-{row:06d}" for row in range(len(labels))]
    return pd.DataFrame(
        {
            "patch_id": keys,
            "nodule_id": keys,
            "series_key": "",
            "patient_key": [f"{prefix}-{row}" for row in range(len(labels))],
            "site": name,
            "split": split.value,
            "label": pd.array(labels, dtype="Int8"),
            "label_soft": np.nan,
            "n_readers": 0,
            "diameter_mm": np.nan,
            "padded": False,
        }
    )


def _crops(
    path: Path, table: Path, split: SplitParams, label: LabelParams, excluded: frozenset[str], votes: str
) -> _Import:
    arrays = read_arrays(path, ["image", votes] if votes else ["image"])
    images = arrays["image"]
    _need_uint8(images, path, "image")
    if images.ndim != 4 or images.shape[1] > images.shape[2]:
        raise UsageError(f"array 'image' has shape {images.shape}", where=path.name, todo="Wanted: (n, C, H, W).")
    rows, kept = read_crop_table(table, len(images), label, excluded)
    manifest = split_patients(rows["patient_key"], split)
    rows["split"] = [manifest.patients[key].value for key in rows["patient_key"]]
    warnings = (
        [f"{len(images) - len(rows)} crops of excluded patients were left out"] if len(rows) < len(images) else []
    )
    masks = None
    if votes:
        if arrays[votes].shape != images.shape:
            raise UsageError(f"array {votes!r} has shape {arrays[votes].shape}, not that of 'image'", where=path.name)
        masks = _shares(arrays[votes][kept], rows, path, votes)
    return _Import(images.view(np.uint8)[kept], rows, "2d", tuple(warnings), masks)


def _shares(votes: NDArray[np.generic], rows: pd.DataFrame, path: Path, key: str) -> NDArray[np.uint8]:
    """255 times the share of each crop's readers, uint8 (n, C, H, W), of how many outlined a pixel."""
    if votes.dtype.kind not in "biu" or votes.min() < 0:
        raise UsageError(f"array {key!r} is {votes.dtype}, no counts of readers", where=path.name)
    readers = rows["n_readers"].to_numpy()
    more = votes.reshape(len(votes), -1).max(axis=1).astype(np.int64) > readers
    if more.any():
        first = rows["patch_id"].iloc[int(more.argmax())]
        raise ContractError(f"array {key!r} has more votes than the crop has readers", where=f"{path.name}, {first}")
    per_vote = 255 / np.maximum(readers, 1)
    shares: NDArray[np.uint8] = np.rint(votes * per_vote[:, None, None, None]).astype(np.uint8)
    return shares


def _same_pixels_in_two_splits(found: _Import) -> list[str]:
    digests = [hashlib.sha256(patch.tobytes()).hexdigest() for patch in found.patches]
    splits = pd.Series(found.rows["split"].to_numpy()).groupby(digests).nunique()
    n_leaked = int((splits > 1).sum())
    return [f"{n_leaked} patches have identical pixels in two splits"] if n_leaked else []
