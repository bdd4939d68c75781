"""PatchTable: one row a patch; DatasetCard: what a dataset is and what it was made from."""

from __future__ import annotations

from typing import Literal

import pandera.pandas as pa
from pydantic import Field

from data_contracts.manifest import Split
from data_contracts.patch_kind import PatchKind
from data_contracts.records import Record
from data_contracts.tables import TableContract


class Shard(Record):
    """One patches-NNN.npy or masks-NNN.npy: shape (n, *patch shape), memory-mappable."""

    file: str
    n_patches: int
    sha256: str


class DatasetCard(Record):
    """dataset.json. `dataset_id` is a digest of inputs and parameters, so it names exactly these bytes.

    value_unit: "HU" (int16) or "grey" (uint8 0-255, scale unknown).
    spacing_mm: pixel distance of a patch, None where the source does not say.
    masks: masks-NNN.npy, row by row those of the patches: uint8, 255 times the share of a patch's readers whose outline
        covers the pixel, all 0 where nobody outlined; empty where the source has no outlines.
    """

    dataset_id: str
    name: str = ""
    kind: PatchKind
    patch_shape: tuple[int, ...]
    dtype: Literal["int16", "uint8"]
    value_unit: Literal["HU", "grey"]
    spacing_mm: float | None = None
    shards: tuple[Shard, ...]
    # Left out where empty: the card of a dataset without outlines keeps the bytes that it always had.
    masks: tuple[Shard, ...] = Field((), exclude_if=lambda masks: not masks)
    inputs: dict[str, str] = {}
    parameters: dict[str, object] = {}
    counts: dict[str, int] = {}
    warnings: tuple[str, ...] = ()


PATCH_TABLE = TableContract(
    "patches",
    pa.DataFrameSchema(
        {
            "patch_id": pa.Column(str, unique=True),
            "nodule_id": pa.Column(str),
            "series_key": pa.Column(str),
            "patient_key": pa.Column(str, pa.Check.str_length(min_value=1)),
            "site": pa.Column(str),
            "split": pa.Column(str, pa.Check.isin([split.value for split in Split])),
            "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
            # Mean of the readers' malignancy mapped from 1..5 to 0..1; NaN where no reader rated.
            "label_soft": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
            "n_readers": pa.Column("int64", pa.Check.ge(0)),
            "diameter_mm": pa.Column("float64", nullable=True),
            "shard": pa.Column("int64", pa.Check.ge(0)),
            "row": pa.Column("int64", pa.Check.ge(0)),
            "padded": pa.Column(bool),
        },
        coerce=True,
    ),
)
