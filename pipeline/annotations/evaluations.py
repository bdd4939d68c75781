"""Evaluations whose segment was read in an earlier run: its row of the nodule table with what the report says."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from data_contracts.nodules import NoduleAnnotation
from data_contracts.reasons import ReasonCode
from pipeline.annotations.places import equivalent_diameter_mm
from pipeline.annotations.refusals import Refusals
from pipeline.deidentify.pseudonyms import Pseudonymizer


def evaluated_rows(
    evaluations: Sequence[NoduleAnnotation],
    known: pd.DataFrame | None,
    pseudonymizer: Pseudonymizer,
    refusals: Refusals,
) -> list[dict[str, object]]:
    """A row for each evaluation of a segment that `known` has once; the others, and second ones, are refused."""
    by_segment: dict[str, list[dict[str, object]]] = {}
    if known is not None and "segment_key" in known:
        for row in known[known["segment_key"] != ""].to_dict("records"):
            by_segment.setdefault(str(row["segment_key"]), []).append({str(name): cell for name, cell in row.items()})
    rows: dict[str, dict[str, object]] = {}
    for mark in evaluations:
        key = pseudonymizer.key("segment", mark.segment)
        own = by_segment.get(key, [])
        if len(own) != 1 or key in rows:
            words = (
                "its segment is evaluated twice" if own else "its segmentation was not read; give SEG and SR together"
            )
            refusals.add(mark, ReasonCode.ANNOTATION_MALFORMED if own else ReasonCode.ANNOTATION_UNMATCHED, [], words)
            continue
        stated = {"diameter_mm": mark.diameter_mm, "volume_mm3": mark.volume_mm3, **mark.ratings}
        said = {name: value for name, value in stated.items() if value is not None}
        rows[key] = {**own[0], **said, "source": "dicom-seg+sr", "file_numbers": [mark.file_number]}
        if mark.volume_mm3 is not None:
            rows[key]["equivalent_diameter_mm"] = equivalent_diameter_mm(mark.volume_mm3)
    return list(rows.values())
