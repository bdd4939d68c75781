"""Parts of a feature table while it is made, and vectors of the same patches in tables of other datasets.

features/<table>.parts/part-00000.parquet   rows of FEATURE_TABLE; never changed, so a kill costs one part
features/<table>.parquet                    all rows of one dataset, written from the parts, which then go
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from data_contracts.errors import ContractError
from data_contracts.features import FEATURE_TABLE, POOLED

Vectors = dict[str, NDArray[np.float32]]


def patch_sha256(patch: NDArray[np.generic]) -> str:
    """Digest of a patch's bytes; its shape and dtype are the dataset's and stand in the table's name."""
    return hashlib.sha256(np.ascontiguousarray(patch).tobytes()).hexdigest()


class FeatureParts:
    """The parts of one table; `path` is the table they become.

    Parameters
    ----------
    siblings: tables of other datasets by the same network, engine and input.
    """

    def __init__(self, path: Path, siblings: Iterable[Path] = ()) -> None:
        self.path = path
        self.folder = path.with_suffix(".parts")
        self._siblings = [sibling for sibling in siblings if sibling != path]

    def known(self, wanted: set[str]) -> Vectors:
        """Planes (P, F) by digest of the patch, of those `wanted` that are there; a torn part is not."""
        found: Vectors = {}
        for source in [*sorted(self.folder.glob("part-*.parquet")), *self._siblings]:
            missing = wanted - found.keys()
            if missing and (missing := missing & _digests(source)):
                found.update(_planes(source, missing))
        return found

    def next_number(self) -> int:
        """Number of the first part that is not there yet."""
        return max((int(part.stem.rpartition("-")[2]) for part in self.folder.glob("part-*.parquet")), default=-1) + 1

    def append(self, vectors: Vectors, number: int | None = None) -> None:
        """Write one more part. number: of a part that nobody else writes."""
        number = self.next_number() if number is None else number
        rows = _rows([(digest, digest, planes) for digest, planes in vectors.items()])
        FEATURE_TABLE.write(self.folder / f"part-{number:05d}.parquet", rows)

    def finish(self, patches: Iterable[tuple[str, str]], vectors: Vectors) -> None:
        """Write the table of (patch_id, digest), then remove the parts."""
        FEATURE_TABLE.write(self.path, _rows([(patch, digest, vectors[digest]) for patch, digest in patches]))
        shutil.rmtree(self.folder, ignore_errors=True)


def _rows(patches: list[tuple[str, str, NDArray[np.float32]]]) -> pd.DataFrame:
    """One row a plane, and one of the mean over planes."""
    rows = [
        (patch, plane, vector, digest)
        for patch, digest, planes in patches
        for plane, vector in [*enumerate(planes), (POOLED, planes.mean(axis=0))]
    ]
    return pd.DataFrame(rows, columns=["patch_id", "plane", "vector", "patch_sha256"])


def _digests(table: Path) -> set[str]:
    """Digests of the patches in a table; none where it keeps none or cannot be read."""
    try:
        if "patch_sha256" not in parquet.read_schema(table).names:
            return set()
        return set(parquet.read_table(table, columns=["patch_sha256"])["patch_sha256"].to_pylist())
    except (OSError, arrow.ArrowInvalid):
        return set()


def _planes(table: Path, wanted: set[str]) -> Vectors:
    try:
        rows = FEATURE_TABLE.read(table)
    except ContractError:
        return {}
    rows = rows[rows["patch_sha256"].isin(wanted) & (rows["plane"] != POOLED)].sort_values("plane")
    # Two patches of a table may have the same bytes; either's rows are the vectors of both.
    rows = rows.drop_duplicates(["patch_sha256", "plane"])
    return {
        str(digest): np.stack([np.asarray(vector, dtype=np.float32) for vector in part["vector"]])
        for digest, part in rows.groupby("patch_sha256", sort=False)
    }
