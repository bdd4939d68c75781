"""What the workspace knows of held-out nodules, joined to their predictions."""

from __future__ import annotations

import pandas as pd

from data_contracts.series import SERIES_TABLE
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.facts import nodule_facts


def held_out_facts(workspace: Workspace, reader: PatchReader, rows: pd.DataFrame) -> pd.DataFrame:
    """Texture, acquisition, sex and age of rows of a dataset, in order, from its index and the workspace's tables.

    A file of crops has no series in the workspace; its table may give texture and thickness, and calls the scanner's
    maker the site.
    """
    return nodule_facts(
        rows,
        SERIES_TABLE.read(workspace.series_table) if workspace.series_table.is_file() else None,
        workspace.nodules(),
        site_is_manufacturer=reader.card.parameters.get("importer") == "crops",
    )
