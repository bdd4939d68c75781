"""FeatureTable: feature vectors of patches, one row a plane and one pooled row (plane -1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from data_contracts.records import Record
from data_contracts.tables import TableContract

#: the `plane` of a row that holds the mean over all planes of a patch
POOLED = -1


class FeatureCard(Record):
    """What made the vectors: written beside the table; a change of any field is a new table.

    engine, precision, device: what computed them; another one gives other last digits.
    why: one line on how these were chosen.
    cosine_to_fp32: smallest cosine to float32 over the first images; None where they are float32 of torch itself.
    """

    dataset_id: str
    backbone: str
    weights: str
    weights_sha256: str
    n_features: int
    input_size_px: int
    device: str
    engine: str = "torch"
    precision: str = "fp32"
    why: str = ""
    cosine_to_fp32: float | None = None


FEATURE_TABLE = TableContract(
    "features",
    pa.DataFrameSchema(
        {
            "patch_id": pa.Column(str),
            "plane": pa.Column("int64", pa.Check.ge(POOLED)),
            "vector": pa.Column(object),
            # sha256 of the patch's bytes: where it is known, another dataset with this patch need not compute it again
            "patch_sha256": pa.Column(str, required=False),
        },
        unique=["patch_id", "plane"],
        coerce=True,
    ),
)


def pooled_matrix(table: pd.DataFrame, patch_ids: list[str]) -> NDArray[np.float32]:
    """Pooled vectors, float32 (n, n_features), in the order of `patch_ids`."""
    pooled = table[table["plane"] == POOLED].set_index("patch_id")["vector"]
    return np.stack([np.asarray(vector, dtype=np.float32) for vector in pooled.loc[patch_ids]])
