"""Marks land in their series, at their place, or are refused with their line."""

from __future__ import annotations

import numpy as np

from data_contracts.nodules import NODULE_TABLE, NoduleAnnotation
from data_contracts.reasons import ReasonCode
from data_contracts.series import SeriesRecord
from pipeline.annotations.match import match_annotations
from pipeline.deidentify.pseudonyms import Pseudonymizer

PSEUDONYMS = Pseudonymizer(b"secret")
#: 20 slices 2 mm apart, 64 x 64 pixels of 0.5 (rows) x 0.8 (columns) mm
AFFINE = ((0.0, 0.0, 0.8, -10.0), (0.0, 0.5, 0.0, 5.0), (2.0, 0.0, 0.0, 100.0), (0.0, 0.0, 0.0, 1.0))


def record(number: int = 1, *, z_mm: float = 100.0) -> SeriesRecord:
    affine = np.array(AFFINE)
    affine[2, 3] = z_mm
    return SeriesRecord(
        series_key=f"{number:016x}",
        study_key="study",
        patient_key="patient",
        site="a",
        volume_path="series/x/volume.nii",
        n_slices=20,
        shape_kji=(20, 64, 64),
        spacing_kji_mm=(2.0, 0.5, 0.8),
        affine_lps=tuple(tuple(line) for line in affine.tolist()),
        series_uid_key=PSEUDONYMS.uid_key("1.2.3"),
        sop_uid_keys=tuple(PSEUDONYMS.uid_key(f"9.{number}.{k}") for k in range(20)),
        pixel_sha256="0",
        source_path="x",
    )


def mark(lps: tuple[float, float, float] | None = (0.0, 10.0, 110.0), **values: object) -> NoduleAnnotation:
    facts = {
        "series_instance_uid": "1.2.3",
        "reader": "reader-1",
        "diameter_mm": 6.0,
        "source": "csv",
        "place": "line 2",
    }
    return NoduleAnnotation.model_validate({**facts, "lps_mm": lps, **values})


def contour(k: int, points: list[tuple[float, float]]) -> tuple[object, ...]:
    return (f"9.1.{k}", 0.0, True, tuple(points))


def test_a_mark_is_found_by_series_uid_series_key_or_digest() -> None:
    names = [
        {"series_instance_uid": "1.2.3"},
        {"series_instance_uid": "", "series_key": f"{1:016x}"},
        {"series_instance_uid": PSEUDONYMS.uid_key("1.2.3")},
        {"series_instance_uid": "", "sop_instance_uid": "9.1.4"},
    ]
    for name in names:
        table, refused = match_annotations([mark(**name)], [record()], PSEUDONYMS)
        assert refused == []
        assert table[["x_mm", "y_mm", "z_mm", "diameter_mm"]].to_numpy().tolist() == [[0.0, 10.0, 110.0, 6.0]]


def test_what_has_no_series_lies_outside_or_cannot_be_read_is_refused_with_its_line() -> None:
    marks = [
        mark(series_instance_uid="9.9", place="line 2"),
        mark((0.0, 10.0, 500.0), place="line 3"),
        mark(None, place="line 4"),
        mark(diameter_mm=0.0, place="line 5"),
        mark(place="line 6"),
    ]
    table, refused = match_annotations(marks, [record()], PSEUDONYMS)
    assert len(table) == 1
    assert sorted((item.detail.partition(":")[0], item.reason) for item in refused) == [
        ("line 2", ReasonCode.ANNOTATION_UNMATCHED),
        ("line 3", ReasonCode.ANNOTATION_OUTSIDE_VOLUME),
        ("line 4", ReasonCode.ANNOTATION_MALFORMED),
        ("line 5", ReasonCode.ANNOTATION_MALFORMED),
    ]


def test_of_the_parts_of_a_split_series_the_one_that_holds_the_point_is_meant() -> None:
    parts = [record(1), record(2, z_mm=300.0)]
    table, _ = match_annotations([mark((0.0, 10.0, 320.0))], parts, PSEUDONYMS)
    assert table["series_key"].tolist() == [f"{2:016x}"]


def test_rows_of_one_nodule_name_are_one_nodule_and_a_repeated_reader_is_refused() -> None:
    far = (10.0, 20.0, 130.0)
    marks = [
        mark(nodule="n", reader="a"),
        mark(far, nodule="n", reader="b"),
        mark(nodule="n", reader="b", place="line 4"),
    ]
    table, refused = match_annotations(marks, [record()], PSEUDONYMS)
    assert table["nodule_id"].nunique() == 1
    assert table["reader"].tolist() == ["a", "b"]
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_MALFORMED]
    assert refused[0].detail.startswith("line 4")


def test_marks_without_a_name_are_grouped_by_place_and_keep_their_ids() -> None:
    marks = [mark(reader="a"), mark((1.0, 10.0, 110.0), reader="b"), mark((20.0, 20.0, 110.0), reader="a")]
    table, _ = match_annotations(marks, [record()], PSEUDONYMS)
    again, _ = match_annotations(marks[::-1], [record()], PSEUDONYMS)
    assert table.groupby("nodule_id")["reader"].count().tolist().count(2) == 1
    assert set(table["nodule_id"]) == set(again["nodule_id"])


def test_outlines_give_the_mean_point_and_the_largest_distance_in_millimetres() -> None:
    points = [(10.0, 20.0), (20.0, 20.0), (20.0, 30.0), (10.0, 30.0)]
    outlined = mark(None, diameter_mm=None, contours=(contour(4, points), contour(6, points)), source="lidc-xml")
    table, refused = match_annotations([outlined], [record()], PSEUDONYMS)
    assert refused == []
    row = table.iloc[0]
    assert np.allclose(row[["x_mm", "y_mm", "z_mm"]].astype(float), (-10 + 15 * 0.8, 5 + 25 * 0.5, 100 + 5 * 2))
    assert np.isclose(row["diameter_mm"], np.hypot(10 * 0.8, 10 * 0.5))


def test_an_outline_on_a_slice_that_the_series_lacks_is_refused() -> None:
    outlined = mark(None, diameter_mm=None, contours=(contour(99, [(1.0, 1.0), (5.0, 5.0)]),), source="lidc-xml")
    _, refused = match_annotations([outlined], [record()], PSEUDONYMS)
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_OUTSIDE_VOLUME]


def box(k: int, left: float, top: float, size: float, kind: str = "voc-xml:A") -> NoduleAnnotation:
    corners = [(left, top), (left + size, top), (left + size, top + size), (left, top + size)]
    values = {"series_instance_uid": "", "sop_instance_uid": f"9.1.{k}", "contours": (contour(k, corners),)}
    return mark(None, diameter_mm=None, source=kind, reader="voc", **values)


def test_boxes_that_overlap_on_neighbouring_slices_are_one_nodule() -> None:
    boxes = [box(6, 11, 21, 10), box(5, 10, 20, 10), box(7, 10, 20, 10), box(12, 10, 20, 10), box(6, 40, 40, 5)]
    table, refused = match_annotations(boxes, [record()], PSEUDONYMS)
    assert refused == []
    assert len(table) == 3
    joined = table[np.isclose(table["z_mm"], 112.0) & np.isclose(table["diameter_mm"], 8.0)]
    assert len(joined) == 1
    assert np.isclose(joined["x_mm"].iloc[0], -10 + 0.8 * (15 + 1 / 3))


def test_boxes_of_two_classes_stay_two_nodules() -> None:
    table, _ = match_annotations([box(5, 10, 20, 10), box(6, 10, 20, 10, "voc-xml:B")], [record()], PSEUDONYMS)
    assert sorted(table["source"]) == ["voc-xml:A", "voc-xml:B"]


def test_no_annotation_gives_an_empty_table_that_keeps_its_contract() -> None:
    table, refused = match_annotations([], [record()], PSEUDONYMS)
    assert len(NODULE_TABLE.validate(table)) == 0
    assert refused == []


def test_what_is_drawn_on_slices_of_a_resampled_series_lies_where_the_slices_were() -> None:
    """The volume was turned upright out of tilted slices, and its slice 6 was interpolated."""
    slices = np.array(AFFINE)
    slices[1, 0] = 0.5  # each slice lies 0.5 mm further back than the one before
    resampled = record().model_copy(
        update={
            "slice_affine_lps": tuple(tuple(line) for line in slices.tolist()),
            "sop_uid_keys": tuple("" if k == 6 else key for k, key in enumerate(record().sop_uid_keys)),
        }
    )
    outlined = mark(
        None,
        diameter_mm=None,
        contours=(contour(8, [(10.0, 20.0), (20.0, 20.0), (20.0, 30.0), (10.0, 30.0)]),),
        source="lidc-xml",
    )
    table, refused = match_annotations([outlined], [resampled], PSEUDONYMS)
    assert refused == []
    assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], (-10 + 15 * 0.8, 5 + 25 * 0.5 + 8 * 0.5, 100 + 8 * 2))
    nowhere = mark(None, series_instance_uid="", sop_instance_uid="", contours=(contour(6, [(1.0, 1.0), (5.0, 5.0)]),))
    _, refused = match_annotations([nowhere], [resampled], PSEUDONYMS)
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_UNMATCHED]
