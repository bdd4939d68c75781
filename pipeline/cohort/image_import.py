"""A folder of images as a dataset, one file in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.manifest import Split
from data_contracts.params import ImageParams, SplitParams
from data_contracts.patches import DatasetCard
from data_contracts.reasons import ReasonCode
from data_contracts.records import digest_of, sha256_file
from data_contracts.series import Rejection
from pipeline.cohort.dataset import assemble_dataset, dataset_id_of, finished_dataset
from pipeline.cohort.image_files import ImageRefusedError, read_image
from pipeline.cohort.image_folders import ClassFolders, ImageFile, RefusedFile, scan_class_folders
from pipeline.cohort.image_pixels import PixelFile
from pipeline.cohort.patient_table import PatientTable, read_patient_table
from pipeline.cohort.split import split_of, split_patients
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: Patches of a shard together, so that a dataset of large images is written in as little memory as one of small ones.
_SHARD_BYTES = 32 * 2**20
NO_PATIENTS = (
    "NO PATIENT IS KNOWN: every image counts as a patient of its own, so images of one patient may be in training and "
    "in test, and every held-out figure may be too good. Name the patients with --patients TABLE"
)


@dataclass(frozen=True)
class ImageImport:
    """card: of the dataset. refused: items that were not taken. made: False where the dataset was there already."""

    card: DatasetCard
    refused: tuple[Rejection, ...]
    made: bool


def import_images(
    folder: Path,
    *,
    name: str,
    datasets_root: Path,
    scratch: Path,
    images: ImageParams,
    split: SplitParams,
    pseudonymizer: Pseudonymizer,
    patients: Path | None = None,
    positive: str = "",
    on_refused: Callable[[Rejection], None] = lambda rejection: None,
) -> ImageImport:
    """Class folders of PNG, JPEG and TIFF files as a finished dataset of uint8 patches (1 or 3, S, S).

    The label is the folder's class. Without split folders the split follows from the patient, or from the pixels where
    no patient is known; with them it is theirs, and validation patients are taken from train where they have none.
    No table holds a file's name: patch_id is a digest of its path. The same files and parameters give the same bytes.

    Parameters
    ----------
    patients: CSV with file, patient and optional site, diameter_mm and ratings. Its patients get the keys that ingest
        gives them. A file without a row is refused.
    scratch: an empty folder for pixels on their way; its content is the caller's to remove.
    on_refused: called for each item that is not taken.

    Raises
    ------
    UsageError: no two classes, or a wrong table.
    LeakError: a patient of the table is in two split folders.
    NothingUsableError: no image could be used; every refusal was handed to `on_refused` before.
    """
    if not name:
        raise UsageError("a dataset needs a name", todo="Give one with --name.")
    found = scan_class_folders(folder, positive)
    job = _Import(found, images, pseudonymizer, on_refused)
    table = None if patients is None else read_patient_table(patients, [file.relative for file in found.files])
    inputs = {"images": digest_of([(file.relative, job.digest(file)) for file in found.files], length=64)}
    if table is not None:
        # The keys of patients depend on the workspace's secret, and the rows with them.
        keys = [pseudonymizer.patient_key(patient) for patient in table.patients]
        inputs["patients"] = digest_of([keys, table.columns.to_json(), table.known], length=64)
    parameters: dict[str, object] = {
        "importer": "images",
        "images": images.model_dump(mode="json"),
        "split": split.model_dump(mode="json"),
        "classes": {"0": ascii(found.negative)[1:-1], "1": ascii(found.positive)[1:-1]},
        "patients_known": table is not None,
    }
    finished = finished_dataset(datasets_root, dataset_id_of(name, "2d", inputs, parameters))
    if finished is not None:
        return ImageImport(finished, (), made=False)
    rows, patches = job.read(table, scratch)
    _add_patients(rows, table, split, pseudonymizer, name)
    card = assemble_dataset(
        datasets_root,
        [patches],
        rows.drop(columns=["pixels", "file"]),
        kind="2d",
        value_unit="grey",
        inputs=inputs,
        parameters=parameters,
        name=name,
        warnings=[*([NO_PATIENTS] if table is None else []), *job.warnings(rows, table)],
        patches_per_shard=min(max(_SHARD_BYTES // patches[0].nbytes, 1), 1024),
    )
    return ImageImport(card, tuple(job.refused), made=True)


class _Import:
    """One folder being read."""

    def __init__(
        self,
        found: ClassFolders,
        images: ImageParams,
        pseudonymizer: Pseudonymizer,
        on_refused: Callable[[Rejection], None],
    ) -> None:
        self.refused: list[Rejection] = []
        self._found = found
        self._images = images
        self._pseudonymizer = pseudonymizer
        self._on_refused = on_refused
        self._digests: dict[str, str] = {}
        self.greys = (0.0, 255.0)
        self.n_deep = 0

    def digest(self, file: ImageFile) -> str:
        """sha256 of a file's bytes, or "" where it cannot be read; once more when it is decoded tells of a change."""
        try:
            self._digests[file.relative] = sha256_file(file.path)
        except OSError:
            self._digests[file.relative] = ""
        return self._digests[file.relative]

    def read(self, table: PatientTable | None, scratch: Path) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
        """Index rows (file: position among the files; pixels: digest) and patches (n, C, S, S), mapped from disk."""
        for item in self._found.refused:
            self._refuse(item)
        rows: list[dict[str, object]] = []
        pixels = PixelFile(scratch, self._images.size_px)
        with pixels:
            for number, file in enumerate(self._found.files):
                try:
                    if table is not None and not table.known[number]:
                        raise ImageRefusedError(ReasonCode.PATIENT_UNKNOWN, "has no row in the table of patients")
                    image = read_image(self._bytes(file), self._images)
                except ImageRefusedError as error:
                    self._refuse(RefusedFile(file.relative, error.reason, error.detail))
                    continue
                pixels.append(image)
                rows.append(self._row(number, file, image.padded))
        if not rows:
            raise NothingUsableError(
                f"no usable image among {len(self.refused)} files and folders",
                todo="rejected.parquet lists each with its reason. Wanted: DIR/<class>/*.png, .jpg or .tif.",
            )
        if pixels.n_deep:
            self.greys = self._stated_greys() or pixels.deep_range
            pixels.fill_deep(*self.greys)
        self.n_deep = pixels.n_deep
        three = pixels.coloured if self._images.channels == "auto" else self._images.channels == "rgb"
        return pd.DataFrame(rows).assign(pixels=pixels.digests), pixels.mapped(3 if three else 1)

    def _bytes(self, file: ImageFile) -> bytes:
        try:
            body = file.path.read_bytes()
        except OSError as error:
            raise ImageRefusedError(ReasonCode.UNREADABLE, f"cannot be read ({error.strerror})") from None
        if hashlib.sha256(body).hexdigest() != self._digests[file.relative]:
            raise ImageRefusedError(ReasonCode.UNREADABLE, "changed while it was read")
        return body

    def _row(self, number: int, file: ImageFile, padded: bool) -> dict[str, object]:
        relative = file.relative.encode("utf-8", "surrogateescape")
        patch_id = hashlib.sha256(b"noduleflow import image\0" + relative).hexdigest()[:16]
        return {
            "file": number,
            "patch_id": patch_id,
            "nodule_id": patch_id,
            "series_key": "",
            "split": "" if file.split is None else file.split.value,
            "label": int(file.label_name == self._found.positive),
            "label_soft": np.nan,
            "n_readers": 0,
            "padded": padded,
        }

    def _stated_greys(self) -> tuple[float, float] | None:
        low, high = self._images.grey_low, self._images.grey_high
        return None if low is None or high is None else (low, high)

    def _refuse(self, item: RefusedFile) -> None:
        rejection = Rejection(path=self._pseudonymizer.path(item.relative), reason=item.reason, detail=item.detail)
        self.refused.append(rejection)
        self._on_refused(rejection)

    def warnings(self, rows: pd.DataFrame, table: PatientTable | None) -> list[str]:
        """What a user of the dataset must know."""
        found = []
        if self.refused:
            found.append(f"{len(self.refused)} files or folders were refused; rejected.parquet has their reasons")
        if self.n_deep:
            low, high = self.greys
            found.append(f"{self.n_deep} images are deeper than 8 bits: {low:g} became 0 and {high:g} became 255")
        if 0 < self.n_deep < len(rows):
            found.append("images of 8 bits and deeper ones stand side by side: their greys may mean different things")
        if table is not None and table.n_unused:
            found.append(f"{table.n_unused} rows of the table of patients name no image of the folder")
        pixels = rows.groupby("pixels")
        leaked, torn = int((pixels["split"].nunique() > 1).sum()), int((pixels["label"].nunique() > 1).sum())
        found += [f"{leaked} images have identical pixels in two splits"] if leaked else []
        found += [f"{torn} images have identical pixels and both labels"] if torn else []
        return found


def _add_patients(
    rows: pd.DataFrame, table: PatientTable | None, split: SplitParams, pseudonymizer: Pseudonymizer, name: str
) -> None:
    """Add patient_key, site, diameter_mm and ratings, and the split where the folders have none."""
    rows["site"], rows["diameter_mm"] = name, np.nan
    if table is None:
        # Copies of one image are one patient, unless a split folder already parted them.
        rows["patient_key"] = "image-" + rows["split"] + rows["pixels"].str[:16]
    else:
        rows["patient_key"] = [pseudonymizer.patient_key(table.patients[file]) for file in rows["file"]]
        for column in table.columns:
            rows[column] = table.columns[column].to_numpy()[rows["file"]]
    rows["label"] = rows["label"].astype("Int8")
    given = rows["split"] != ""
    if not given.any():
        manifest = split_patients(rows["patient_key"], split)
        rows["split"] = [manifest.patients[key].value for key in rows["patient_key"]]
    elif not (rows["split"] == Split.VALIDATION.value).any():
        rest = 1 - split.validation / (split.train + split.validation)
        inner = SplitParams(train=rest, validation=(1 - rest) / 2, salt=split.salt)
        moved = [split_of(key, inner) is not Split.TRAIN for key in rows["patient_key"]]
        rows.loc[np.array(moved) & (rows["split"] == Split.TRAIN.value), "split"] = Split.VALIDATION.value
