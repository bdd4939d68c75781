"""Parts of a feature table on a worker, which keeps the network it has opened for the next part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_contracts.params import FeatureParams
from flows.datasets.features import FeatureJob
from flows.running.elsewhere import one_at_a_time
from flows.workspace import Workspace
from models.engines.plan import plan_engine

#: one network: those of two tables may not fit
_open: dict[tuple[Path, Path, str], FeatureJob] = {}


def computed_part(
    workspace: Workspace, dataset_dir: Path, params: FeatureParams, rows: Sequence[int], number: int
) -> int:
    """Write a part of a table; returns how many vectors were computed.

    rows: of the dataset's index. number: of the part.
    """
    key = workspace.root, dataset_dir, params.digest()
    with one_at_a_time():
        if key not in _open:
            _open.clear()
            _open[key] = FeatureJob(workspace, dataset_dir, params)
        return _open[key].write_part(plan_engine(params.device, params.engine, params.precision), rows, number)
