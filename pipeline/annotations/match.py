"""Marks of annotation files to rows of the nodule table, each in its series and inside its volume, or refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.nodules import NODULE_TABLE, RATINGS, NoduleAnnotation
from data_contracts.reasons import ReasonCode
from data_contracts.records import digest_of
from data_contracts.series import Rejection, SeriesRecord
from pipeline.annotations.boxes import merge_boxes
from pipeline.annotations.clusters import cluster_marks
from pipeline.annotations.contours import Contour, contour_centroid, contour_diameter_mm
from pipeline.deidentify.pseudonyms import Pseudonymizer

_LARGEST_MM = 500.0


@dataclass(frozen=True)
class PlacedMark:
    """A mark in its series. center_mm: (3,) LPS."""

    annotation: NoduleAnnotation
    record: SeriesRecord
    center_mm: NDArray[np.float64]
    diameter_mm: float


def match_annotations(
    annotations: Sequence[NoduleAnnotation], series: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer
) -> tuple[pd.DataFrame, list[Rejection]]:
    """Find the series of every mark and place it there in LPS mm.

    A series is found by its key, or by the keyed digest of its original series or SOP Instance UID, so no
    identifier is needed in the workspace. Boxes on neighbouring slices become one nodule; marks without a nodule name
    are grouped by place, one a reader.

    Returns
    -------
    The table (NODULE_TABLE) and one rejection for each mark that has no series, lies outside it or cannot be read.
    """
    index = _SeriesIndex(series, pseudonymizer)
    placed: list[PlacedMark] = []
    boxes: list[tuple[NoduleAnnotation, SeriesRecord]] = []
    refused: list[Rejection] = []
    for mark in annotations:
        found = index.find(mark)
        if not _readable(mark):
            refused.append(_refuse(mark, ReasonCode.ANNOTATION_MALFORMED, found))
        elif not found:
            refused.append(_refuse(mark, ReasonCode.ANNOTATION_UNMATCHED, found))
        elif mark.source.startswith("voc-xml"):
            boxes.append((mark, found[0]))
        else:
            outcome = _place(mark, found, index)
            if isinstance(outcome, Rejection):
                refused.append(outcome)
            else:
                placed.append(outcome)
    for box in merge_boxes(boxes, index.slice_of):
        if _contains(box.record, np.array(box.center_mm)):
            placed.append(PlacedMark(box.annotation, box.record, np.array(box.center_mm), box.diameter_mm))
        else:
            refused.append(_refuse(box.annotation, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, [box.record]))
    rows, repeated = _rows(placed, pseudonymizer)
    refused += repeated
    return NODULE_TABLE.validate(pd.DataFrame(rows) if rows else NODULE_TABLE.empty()), refused


class _SeriesIndex:
    """Series by every name an annotation may use for them."""

    def __init__(self, series: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer) -> None:
        self._pseudonymizer = pseudonymizer
        self._by_name: dict[str, list[SeriesRecord]] = defaultdict(list)
        self._slices: dict[str, dict[str, int]] = {}
        for record in sorted(series, key=lambda record: record.series_key):
            self._by_name[record.series_key].append(record)
            self._by_name[record.series_uid_key].append(record)
            for uid_key in dict.fromkeys(record.sop_uid_keys):
                self._by_name[f"sop {uid_key}"].append(record)

    def find(self, mark: NoduleAnnotation) -> list[SeriesRecord]:
        """Series that the mark may belong to; the slice it names decides before the series it names."""
        key = self._pseudonymizer.uid_key
        names = [f"sop {key(mark.sop_instance_uid)}"] if mark.sop_instance_uid else []
        names += [mark.series_key] if mark.series_key else []
        names += [key(mark.series_instance_uid), mark.series_instance_uid] if mark.series_instance_uid else []
        return next((self._by_name[name] for name in names if name in self._by_name), [])

    def slice_of(self, record: SeriesRecord, sop_instance_uid: str) -> int | None:
        """k of a slice in its volume."""
        if record.series_key not in self._slices:
            self._slices[record.series_key] = {key: k for k, key in enumerate(record.sop_uid_keys)}
        return self._slices[record.series_key].get(self._pseudonymizer.uid_key(sop_instance_uid))


def _readable(mark: NoduleAnnotation) -> bool:
    if mark.contours:
        return True
    return mark.lps_mm is not None and mark.diameter_mm is not None and 0 < mark.diameter_mm <= _LARGEST_MM


def _place(mark: NoduleAnnotation, found: list[SeriesRecord], index: _SeriesIndex) -> PlacedMark | Rejection:
    if mark.contours:
        return _place_contours(mark, found[0], index)
    center = np.array(mark.lps_mm, dtype=np.float64)
    # parts of a split series share its UID: the point says which
    record = next((record for record in found if _contains(record, center)), None)
    if record is None:
        return _refuse(mark, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, found)
    return PlacedMark(mark, record, center, float(mark.diameter_mm or 0))


def _place_contours(mark: NoduleAnnotation, record: SeriesRecord, index: _SeriesIndex) -> PlacedMark | Rejection:
    """Centre and diameter as pylidc defines them: mean of all contour points, largest distance on one slice."""
    contours = []
    for uid, _, inclusion, points in mark.contours:
        k = index.slice_of(record, uid)
        if k is None:
            return _refuse(mark, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, [record])
        contours.append(Contour(float(k), inclusion, np.array(points, dtype=np.int32)))
    column, row, k_mean = contour_centroid(contours)
    center = _affine(record) @ (k_mean, row, column, 1.0)
    _, row_mm, column_mm = record.spacing_kji_mm
    diameter = contour_diameter_mm(contours, (row_mm, column_mm))
    if not 0 < diameter <= _LARGEST_MM:
        return _refuse(mark, ReasonCode.ANNOTATION_MALFORMED, [record])
    if not _contains(record, center[:3]):
        return _refuse(mark, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, [record])
    return PlacedMark(mark, record, center[:3], diameter)


def _affine(record: SeriesRecord) -> NDArray[np.float64]:
    return np.array(record.affine_lps, dtype=np.float64)


def _contains(record: SeriesRecord, center_mm: NDArray[np.float64]) -> bool:
    kji = np.linalg.solve(_affine(record), np.append(center_mm, 1.0))[:3]
    return bool(np.all(kji >= -0.5) and np.all(kji <= np.array(record.shape_kji) - 0.5))


def _rows(placed: list[PlacedMark], pseudonymizer: Pseudonymizer) -> tuple[list[dict[str, object]], list[Rejection]]:
    """Rows of the table, (nodule_id, reader) unique."""
    groups: dict[tuple[str, str], list[PlacedMark]] = defaultdict(list)
    for mark in placed:
        groups[mark.record.series_key, mark.annotation.nodule].append(mark)
    rows: list[dict[str, object]] = []
    refused: list[Rejection] = []
    for (series_key, name), marks in groups.items():
        if name:
            seen: set[str] = set()
            for mark in marks:
                if mark.annotation.reader in seen:
                    detail = "the reader marked this nodule in an earlier row"
                    refused.append(_refuse(mark.annotation, ReasonCode.ANNOTATION_MALFORMED, [mark.record], detail))
                    continue
                seen.add(mark.annotation.reader)
                rows.append(_row(mark, pseudonymizer.key("nodule", f"{series_key} {name}")))
            continue
        centers = np.array([mark.center_mm for mark in marks])
        diameters = np.array([mark.diameter_mm for mark in marks])
        cluster = cluster_marks(centers, diameters, [mark.annotation.reader for mark in marks])
        for number in np.unique(cluster):
            middle = np.round(centers[cluster == number].mean(axis=0), 1) + 0.0
            nodule_id = digest_of([series_key, "place", middle.tolist()])
            rows += [_row(mark, nodule_id) for mark, own in zip(marks, cluster, strict=True) if own == number]
    return _unique(rows), refused


def _unique(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows without repeats: the same mark given twice is one mark."""
    return list({(row["nodule_id"], row["reader"]): row for row in rows}.values())


def _row(mark: PlacedMark, nodule_id: str) -> dict[str, object]:
    x, y, z = (float(value) for value in mark.center_mm)
    return {
        "nodule_id": nodule_id,
        "series_key": mark.record.series_key,
        "reader": mark.annotation.reader,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "diameter_mm": float(mark.diameter_mm),
        **{name: mark.annotation.ratings.get(name, np.nan) for name in RATINGS},
        "label": pd.NA if mark.annotation.label is None else mark.annotation.label,
        "source": mark.annotation.source,
    }


def _refuse(mark: NoduleAnnotation, reason: ReasonCode, found: Sequence[SeriesRecord], detail: str = "") -> Rejection:
    return Rejection(
        path=f"annotation {mark.source}",
        series_key=found[0].series_key if found else "",
        reason=reason,
        detail=", ".join(part for part in (mark.place, detail) if part),
    )
