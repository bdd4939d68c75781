"""Stored series whose volume was deleted, emptied or cut behind our back, by one look at each file's size."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flows.remote.opening import bucket_of
from flows.workspace import Workspace
from pipeline.intake.volume_file import least_volume_bytes

MEND = "Ingest their source again: a folder as before, a study of a PACS with --dicomweb URL --study UID"


def lacking_volumes(workspace: Workspace) -> list[str]:
    """Keys of the series of series.parquet whose volume is not there, or smaller than its voxels.

    None for a working copy of a bucket, which has only the volumes that something asked for. Raises what pyarrow raises
    where the table cannot be read.
    """
    if not workspace.series_table.exists() or bucket_of(workspace):
        return []
    import pyarrow.parquet as pq

    rows = pq.read_table(workspace.series_table, columns=["series_key", "volume_path", "shape_kji"]).to_pydict()
    return [
        key
        for key, path, shape in zip(rows["series_key"], rows["volume_path"], rows["shape_kji"], strict=True)
        if not _is_there(f"{workspace.root}/{path}", shape)
    ]


def _is_there(path: str, shape_kji: Sequence[int]) -> bool:
    try:
        return os.stat(path).st_size >= least_volume_bytes(path, shape_kji)  # noqa: PTH116 - ten thousand of them
    except OSError:
        return False


def told(keys: Sequence[str]) -> str:
    """What is wrong, with the first of the keys."""
    names = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return f"{len(keys)} series lack their volume, or it is cut ({names})"
