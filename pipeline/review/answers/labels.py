"""Rows of the nodule table out of cases: one a reader, with its standing; what is settled is told from what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from data_contracts.nodules import NODULE_TABLE, RATINGS, READER_SOURCE, TEXTURE_OF_TYPE
from pipeline.review.answers.cases import Case
from pipeline.review.answers.opinions import Opinion

#: columns that stand beside those of the nodule table
ANSWER_COLUMNS = ("answer", "standing", "corrected")


def label_rows(cases: Iterable[Case], reader_name: Callable[[str], str]) -> pd.DataFrame:
    """A NODULE_TABLE with ANSWER_COLUMNS, one row a nodule a reader; the words of a silent reader give none.

    standing: single, differs, agreed, adjudicated, or overruled: a reading that an adjudicator's word replaces.
    corrected: the figures that the reader stated, with ";" between them. A figure that the reader did not state is the
    report's. reader_name: what stands in a table for a reader, by `reader_key`.
    """
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for case in cases:
        for opinion in case.opinions:
            if opinion.said != "absent" and not opinion.abstains:
                row = _row(case, opinion, reader_name)
                # of two readings of one reader the later one, but none replaces a word that counts
                key = case.nodule_id, str(row["reader"])
                if key not in rows or rows[key]["standing"] != "adjudicated":
                    rows[key] = row
    if not rows:
        return NODULE_TABLE.empty().assign(**{name: pd.Series([], dtype="object") for name in ANSWER_COLUMNS})
    table = pd.DataFrame(list(rows.values())).sort_values(["series_key", "nodule_id", "reader"], ignore_index=True)
    return NODULE_TABLE.validate(table)


def _row(case: Case, opinion: Opinion, reader_name: Callable[[str], str]) -> dict[str, object]:
    report = opinion.report
    place = opinion.lps_mm or (report.lps_mm if report else _place_of(case))
    diameter_mm = opinion.diameter_mm
    if diameter_mm is None and report is not None and "diameter_mm" not in opinion.wrong:
        diameter_mm = report.diameter_mm
    standing: str = case.standing
    if standing == "adjudicated" and opinion not in case.decided:
        standing = "overruled"
    texture = TEXTURE_OF_TYPE.get(opinion.nodule_type or "") if "nodule_type" in opinion.stated else None
    return {
        "nodule_id": case.nodule_id,
        "series_key": case.series_key,
        "reader": reader_name(opinion.reader_key),
        **dict(zip(("x_mm", "y_mm", "z_mm"), place, strict=True)),
        "diameter_mm": np.nan if diameter_mm is None else diameter_mm,
        **dict.fromkeys(RATINGS, np.nan),
        "texture": np.nan if texture is None else texture,
        "label": pd.NA if opinion.malignant is None else int(opinion.malignant),
        "source": READER_SOURCE,
        "answer": opinion.said,
        "standing": standing,
        "corrected": ";".join(sorted(opinion.stated)),
    }


def _place_of(case: Case) -> tuple[float, float, float]:
    """Where the nodule is, from a reader who says it."""
    return next(item.lps_mm for item in case.opinions if item.lps_mm is not None)
