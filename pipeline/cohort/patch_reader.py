"""Reading a finished dataset: its card, its index, and patches out of the memory-mapped shards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import ContractError, UsageError
from data_contracts.patches import PATCH_TABLE, DatasetCard, Shard
from data_contracts.records import sha256_file


class PatchReader:
    """A dataset folder, opened for reading; nothing is read before it is asked for."""

    def __init__(self, dataset_dir: Path) -> None:
        self._dir = dataset_dir

    @cached_property
    def card(self) -> DatasetCard:
        """dataset.json; raises ContractError where the dataset is not finished."""
        return DatasetCard.read(self._dir / "dataset.json")

    @cached_property
    def index(self) -> pd.DataFrame:
        """index.parquet (PATCH_TABLE), one row a patch, in the order of the shards."""
        return PATCH_TABLE.read(self._dir / "index.parquet")

    def load(
        self, select: Sequence[str] | pd.Series | NDArray[np.bool_] | None = None
    ) -> NDArray[np.int16] | NDArray[np.uint8]:
        """Patches (n, *patch_shape): all, those of a boolean mask over `index`, or those of patch_ids in their order.

        Raises
        ------
        ContractError: a patch_id is not in the dataset, the mask has another length, or a shard is not what the
            card says.
        """
        return self._taken(self.card.shards, self.card.dtype, select)

    def load_masks(self, select: Sequence[str] | pd.Series | NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Masks (n, *patch_shape) of the same patches as `load`: 255 times the share of readers, all 0 where unknown.

        Raises
        ------
        UsageError: the dataset was made without the readers' outlines.
        ContractError: as for `load`.
        """
        if not self.card.masks:
            raise UsageError(
                "the dataset holds no outlines of readers",
                where=self.card.name or self.card.dataset_id,
                todo="Import it with `import-npz --votes ARRAY`.",
            )
        masks: NDArray[np.uint8] = self._taken(self.card.masks, "uint8", select)
        return masks

    def verify(self) -> None:
        """Raises ContractError where the bytes of a shard are not those the card was written for."""
        for shard in (*self.card.shards, *self.card.masks):
            path = self._dir / shard.file
            if not path.is_file() or sha256_file(path) != shard.sha256:
                raise ContractError("a shard is missing or was changed", where=shard.file, todo="Prepare it again.")

    def _rows(self, select: Sequence[str] | pd.Series | NDArray[np.bool_] | None) -> NDArray[np.intp]:
        if select is None:
            return np.arange(len(self.index))
        if isinstance(select, pd.Series) and str(select.dtype) == "boolean":
            select = select.fillna(False).to_numpy(dtype=np.bool_)  # as pandas: NA does not select
        wanted = np.asarray(select)
        if wanted.dtype == np.bool_:
            if len(wanted) != len(self.index):
                raise ContractError(f"a mask of {len(wanted)} for {len(self.index)} patches")
            return np.flatnonzero(wanted)
        rows = pd.Index(self.index["patch_id"]).get_indexer(pd.Index(wanted.astype(object)))
        if (rows < 0).any():
            raise ContractError(f"{int((rows < 0).sum())} patches are not in the dataset", where=self.card.dataset_id)
        return np.asarray(rows, dtype=np.intp)

    def _taken(
        self, shards: Sequence[Shard], dtype: str, select: Sequence[str] | pd.Series | NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        rows = self._rows(select)
        shard_of = self.index["shard"].to_numpy()[rows]
        row_of = self.index["row"].to_numpy()[rows]
        patches = np.empty((len(rows), *self.card.patch_shape), dtype=dtype)
        for shard in np.unique(shard_of):
            wanted = shard_of == shard
            patches[wanted] = self._shard(shards[int(shard)], dtype)[row_of[wanted]]
        return patches

    def _shard(self, shard: Shard, dtype: str) -> NDArray[np.int16] | NDArray[np.uint8]:
        try:
            patches: NDArray[np.int16] | NDArray[np.uint8] = np.load(
                self._dir / shard.file, mmap_mode="r", allow_pickle=False
            )
        except (OSError, ValueError) as error:
            raise ContractError("a shard cannot be read", where=shard.file, todo="Prepare it again.") from error
        if patches.shape != (shard.n_patches, *self.card.patch_shape) or patches.dtype != dtype:
            raise ContractError("a shard is not what its card says", where=shard.file, todo="Prepare it again.")
        return patches
