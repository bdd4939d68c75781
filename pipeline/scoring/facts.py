"""What is known of held-out nodules beside their labels, for figures of subgroups: texture, acquisition, sex, age."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: column of a PredictionTable <- column of series.parquet
_OF_SERIES = {
    "slice_thickness_mm": "slice_thickness_mm",
    "kernel": "kernel",
    "manufacturer": "manufacturer",
    "sex": "patient_sex",
    "age_years": "patient_age_years",
}
_NUMBERS = ("texture", "slice_thickness_mm", "age_years")
#: columns in the order of the PredictionTable
FACTS = ("texture", *_OF_SERIES)


def nodule_facts(
    rows: pd.DataFrame,
    series: pd.DataFrame | None = None,
    nodules: pd.DataFrame | None = None,
    *,
    site_is_manufacturer: bool = False,
) -> pd.DataFrame:
    """FACTS of patch rows (n), in their order with index 0..n-1; missing where nobody says.

    Parameters
    ----------
    rows: of a PATCH_TABLE; a fact that stands in them (texture, slice_thickness_mm) is taken from there first.
    series: SERIES_TABLE, joined by series_key. nodules: NODULE_TABLE, joined by nodule_id (the readers' mean).
    site_is_manufacturer: the dataset calls its sites by the makers of their scanners.
    """
    found = pd.DataFrame(index=pd.RangeIndex(len(rows)))
    by_series = None
    if series is not None and "series_key" in rows:
        by_series = series.drop_duplicates("series_key").set_index("series_key").reindex(list(rows["series_key"]))
    for name in FACTS:
        column = pd.Series(np.nan if name in _NUMBERS else None, index=found.index, dtype="object")
        if name in rows:
            column = rows[name].reset_index(drop=True).astype("object")
        other = None
        if name in _OF_SERIES and by_series is not None and _OF_SERIES[name] in by_series:
            other = by_series[_OF_SERIES[name]]
        elif name == "texture" and nodules is not None and "nodule_id" in rows:
            other = nodules.groupby("nodule_id")["texture"].mean().reindex(list(rows["nodule_id"]))
        if other is not None:
            column = column.where(column.notna(), other.reset_index(drop=True).astype("object"))
        found[name] = column
    if site_is_manufacturer and found["manufacturer"].isna().all():
        sites = [None if site == "unknown" else site for site in rows["site"]]
        found["manufacturer"] = pd.Series(sites, index=found.index, dtype="object")
    for name in FACTS:
        if name in _NUMBERS:
            found[name] = pd.to_numeric(found[name], errors="coerce").astype("float64")
        else:
            words = [value if isinstance(value, str) and value.strip() else None for value in found[name]]
            found[name] = pd.Series(words, index=found.index, dtype="object")
    return found
