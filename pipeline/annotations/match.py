"""Marks of annotation files to rows of the nodule table, each in its series and inside its volume, or refused."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from data_contracts.errors import AnnotationError
from data_contracts.nodules import NODULE_TABLE, RATINGS, NoduleAnnotation
from data_contracts.reasons import ReasonCode
from data_contracts.records import digest_of
from data_contracts.series import Rejection, SeriesRecord
from pipeline.annotations.boxes import merge_boxes
from pipeline.annotations.clusters import cluster_marks
from pipeline.annotations.conventions import explanations
from pipeline.annotations.evaluations import evaluated_rows
from pipeline.annotations.places import OutsideError, PlacedMark, check_diameter, equivalent_diameter_mm, place
from pipeline.annotations.refusals import Refusals
from pipeline.annotations.series_index import SeriesIndex, contains
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: two marks of one reader nearer than this, and of diameters as near, are one mark given twice
_SAME_MM = 0.5
#: a reader's name need not be anyone's name, but may be; only plain words pass
_READER = re.compile(r"[\w.-]{1,40}", re.ASCII)


def match_annotations(
    annotations: Sequence[NoduleAnnotation],
    series: Sequence[SeriesRecord],
    pseudonymizer: Pseudonymizer,
    file_names: Sequence[str] = (),
    known: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, list[Rejection]]:
    """Find the series of every mark and place it there in LPS mm.

    file_names: how a refusal calls file 1, 2, ... of the marks. known: the nodules that the workspace has, for reports
    whose segmentation was read before.

    A series is found by its key, or by its original or pseudonymous UID or that of a slice (see SeriesIndex). Boxes on
    neighbouring slices become one nodule; marks without a nodule name are grouped by place, one a reader.

    Returns
    -------
    The table (NODULE_TABLE), with a column `file_numbers` (the files each row comes from), and one rejection for each
    mark that has no series, lies outside it, repeats another or cannot be used, with its place in its file.
    """
    index = SeriesIndex(series, pseudonymizer)
    placed: list[PlacedMark] = []
    boxes: list[tuple[NoduleAnnotation, SeriesRecord]] = []
    outside: list[tuple[NoduleAnnotation, SeriesRecord, str]] = []
    evaluations: list[NoduleAnnotation] = []
    refusals = Refusals(pseudonymizer, file_names)
    for mark in annotations:
        found, wrong = index.find(mark)
        problem = mark.problem or ("" if mark.segment or _has_place(mark) else "it has no place")
        if not problem and not _has_place(mark):
            evaluations.append(mark)
        elif problem:
            refusals.add(mark, ReasonCode.ANNOTATION_MALFORMED, found, problem)
        elif not found:
            refusals.add(mark, ReasonCode.ANNOTATION_UNMATCHED, found, wrong)
        elif mark.source.startswith("voc-xml"):
            boxes.append((mark, found[0]))
        else:
            try:
                placed.append(place(mark, found, index))
            except OutsideError as error:
                outside.append((mark, found[0], str(error)))
            except AnnotationError as error:
                refusals.add(mark, ReasonCode.ANNOTATION_MALFORMED, found, error.what)
    words = explanations([item.annotation for item in placed], [(mark, record) for mark, record, _ in outside])
    for position, (mark, record, detail) in enumerate(outside):
        refusals.add(mark, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, [record], detail or words.get(position, ""))
    placed += _placed_boxes(boxes, index, refusals)
    rows = _rows(placed, pseudonymizer, refusals)
    rows += evaluated_rows(evaluations, known, pseudonymizer, refusals)
    return NODULE_TABLE.validate(pd.DataFrame(rows) if rows else NODULE_TABLE.empty()), refusals.items


def _has_place(mark: NoduleAnnotation) -> bool:
    return bool(mark.contours or mark.outlines or mark.pixel_kji is not None or mark.lps_mm is not None)


def _placed_boxes(
    boxes: list[tuple[NoduleAnnotation, SeriesRecord]], index: SeriesIndex, refusals: Refusals
) -> list[PlacedMark]:
    placed = []
    for box in merge_boxes(boxes, index.slice_of):
        center = np.array(box.center_mm)
        try:
            check_diameter(box.diameter_mm, box.record)
        except AnnotationError as error:
            refusals.add(box.annotation, ReasonCode.ANNOTATION_MALFORMED, [box.record], error.what)
            continue
        if contains(box.record, center)[0]:
            placed.append(PlacedMark(box.annotation, box.record, center, box.diameter_mm, box.file_numbers))
        else:
            refusals.add(box.annotation, ReasonCode.ANNOTATION_OUTSIDE_VOLUME, [box.record])
    return placed


def _rows(placed: list[PlacedMark], pseudonymizer: Pseudonymizer, refusals: Refusals) -> list[dict[str, object]]:
    """Rows of the table, (nodule_id, reader) unique."""
    groups: dict[tuple[str, str], list[PlacedMark]] = defaultdict(list)
    for mark in _without_repeats(placed, refusals):
        groups[mark.record.series_key, mark.annotation.nodule].append(mark)
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for (series_key, name), marks in groups.items():
        nodule_ids = [pseudonymizer.key("nodule", f"{series_key} {name}")] * len(marks)
        if not name:
            nodule_ids = _ids_by_place(series_key, marks)
        for mark, nodule_id in zip(marks, nodule_ids, strict=True):
            row = _row(mark, nodule_id, pseudonymizer)
            if (nodule_id, str(row["reader"])) in rows:
                detail = "the reader marked this nodule in an earlier row, elsewhere"
                refusals.add(mark.annotation, ReasonCode.ANNOTATION_MALFORMED, [mark.record], detail)
            else:
                rows[nodule_id, str(row["reader"])] = row
    return list(rows.values())


def _without_repeats(placed: list[PlacedMark], refusals: Refusals) -> list[PlacedMark]:
    """Marks without those that a reader gave before, at the same place with the same size."""
    kept: list[PlacedMark] = []
    # marks by reader and by cubes of twice the distance, so that a table of a hundred thousand is no matter
    near: dict[tuple[object, ...], list[PlacedMark]] = defaultdict(list)
    for mark in placed:
        owner = (mark.record.series_key, mark.annotation.reader, mark.annotation.nodule)
        low, high = (
            np.floor((mark.center_mm + side) / (2 * _SAME_MM)).astype(int).tolist() for side in (-_SAME_MM, _SAME_MM)
        )
        cubes = [(owner, *cube) for cube in product(*(sorted({a, b}) for a, b in zip(low, high, strict=True)))]
        first = next((other for cube in cubes for other in near.get(cube, ()) if _same(other, mark)), None)
        if first is None:
            kept.append(mark)
            for cube in cubes:
                near[cube].append(mark)
        else:
            detail = f"repeats {first.annotation.place or 'another mark'}"
            refusals.add(mark.annotation, ReasonCode.ANNOTATION_REPEATED, [mark.record], detail)
    return kept


def _same(one: PlacedMark, other: PlacedMark) -> bool:
    near = float(np.linalg.norm(one.center_mm - other.center_mm)) < _SAME_MM
    return near and abs((one.diameter_mm or 0) - (other.diameter_mm or 0)) < _SAME_MM


def _ids_by_place(series_key: str, marks: list[PlacedMark]) -> list[str]:
    """Nodule of each mark: those of several readers that lie together are one, named after its middle."""
    centers = np.array([mark.center_mm for mark in marks])
    readers = [mark.annotation.reader for mark in marks]
    cluster = np.arange(len(marks))
    if len(set(readers)) > 1:
        cluster = cluster_marks(centers, np.array([mark.diameter_mm or 0.0 for mark in marks]), readers)
    sums = np.zeros((int(cluster.max()) + 1, 3))
    np.add.at(sums, cluster, centers)
    middles = np.round(sums / np.bincount(cluster)[:, None], 1) + 0.0
    return [digest_of([series_key, "place", middles[number].tolist()]) for number in cluster]


def _row(mark: PlacedMark, nodule_id: str, pseudonymizer: Pseudonymizer) -> dict[str, object]:
    x, y, z = (float(value) for value in mark.center_mm)
    annotation = mark.annotation
    volume = annotation.volume_mm3
    reader = annotation.reader
    return {
        "nodule_id": nodule_id,
        "series_key": mark.record.series_key,
        "reader": reader if _READER.fullmatch(reader) else f"reader-{pseudonymizer.key('reader', reader, 6)}",
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "diameter_mm": np.nan if mark.diameter_mm is None else float(mark.diameter_mm),
        **{name: annotation.ratings.get(name, np.nan) for name in RATINGS},
        "label": pd.NA if annotation.label is None else annotation.label,
        "source": annotation.source,
        "segment_key": pseudonymizer.key("segment", annotation.segment) if annotation.segment else "",
        "volume_mm3": np.nan if volume is None else volume,
        "equivalent_diameter_mm": np.nan if volume is None else equivalent_diameter_mm(volume),
        "probability": np.nan if annotation.probability is None else annotation.probability,
        "file_numbers": list(mark.file_numbers),
    }
