"""The nodule table of a workspace out of what each run of annotate brought."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from data_contracts.nodules import NODULE_TABLE

#: what an evaluation takes from the row of its segment
_OF_SEGMENT = ["nodule_id", "reader", "series_key", "x_mm", "y_mm", "z_mm"]


def merge_tables(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a nodule a reader: of two, the later part speaks where it has a value, the earlier one elsewhere.

    parts: by age, the oldest first. An evaluation of a segment goes with the segment as it was read last.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return NODULE_TABLE.empty()
    table = pd.concat(parts, ignore_index=True)
    if "segment_key" in table:
        table["segment_key"] = table["segment_key"].fillna("")
        segments = table[(table["segment_key"] != "") & (table["source"] == "dicom-seg")]
        segments = segments.drop_duplicates("segment_key", keep="last").set_index("segment_key")
        evaluated = table["segment_key"].isin(segments.index)
        table.loc[evaluated, _OF_SEGMENT] = segments.loc[table.loc[evaluated, "segment_key"], _OF_SEGMENT].to_numpy()
        # what a report states is taken before what was measured
        table = table.sort_values("source", kind="stable", key=lambda source: source == "dicom-seg+sr")
    table = table.groupby(["nodule_id", "reader"], sort=False, as_index=False).last()
    return table.sort_values(["series_key", "nodule_id", "reader"], ignore_index=True)
