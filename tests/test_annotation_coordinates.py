"""Coordinates are read as stated, a series is found by every name, and what lies outside is explained, not moved."""

from __future__ import annotations

import json
from pathlib import Path

import annotation_factory as factory
import numpy as np
import pytest
from annotation_factory import PSEUDONYMS, affine_of, record_of
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import AnnotationError, UsageError
from data_contracts.reasons import ReasonCode
from data_contracts.series import SeriesRecord
from pipeline.annotations.formats import read_annotation_files, read_annotations
from pipeline.annotations.match import match_annotations
from pipeline.deidentify.pseudonyms import Pseudonymizer

TRUTH, DATASETS = factory.oblique_series()
RECORD = record_of(TRUTH, DATASETS)
SERIES = str(DATASETS[0].SeriesInstanceUID)


def written(folder: Path, text: str, name: str = "marks.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(points: np.ndarray, head: str = "x_mm,y_mm,z_mm", tail: str = "", series: str = SERIES) -> str:
    lines = [f"series_instance_uid,{head},diameter_mm{',coordinate_system' if tail else ''}"]
    lines += [f"{series},{','.join(map(str, point))},6{tail}" for point in points.tolist()]
    return "\n".join(lines) + "\n"


def lps_of(kji: np.ndarray) -> np.ndarray:
    affine = affine_of(TRUTH)
    return kji @ affine[:3, :3].T + affine[:3, 3]


@given(st.tuples(st.floats(0, 13), st.floats(0, 44), st.floats(0, 36)))
@settings(max_examples=25, deadline=None)
def test_a_point_is_the_same_in_lps_in_ras_and_as_a_voxel_index(
    tmp_path_factory: pytest.TempPathFactory, kji: tuple[float, float, float]
) -> None:
    folder = tmp_path_factory.mktemp("same")
    point = lps_of(np.array([kji]))
    flipped = point * (-1, -1, 1)
    files = [
        (rows_of(point), ""),
        (rows_of(point), "lps"),
        (rows_of(point, tail=",LPS"), ""),
        (rows_of(flipped), "ras"),
        (rows_of(flipped, tail=",RAS"), ""),
        (rows_of(np.array([kji]), "k,j,i"), ""),
        (rows_of(np.array([kji]), "k,j,i", tail=",voxel"), "voxel"),
    ]
    for text, coordinates in files:
        marks = read_annotation_files([written(folder, text)], "csv", coordinates=coordinates).marks
        table, refused = match_annotations(marks, [RECORD], PSEUDONYMS)
        assert refused == []
        assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], point, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "coordinates", "words"),
    [
        ("series_key,x_mm,y_mm,z_mm,k,j,i,diameter_mm\n", "", "has both"),
        (rows_of(np.zeros((1, 3))), "voxel", "need the columns k, j, i"),
        (rows_of(np.zeros((1, 3)), "k,j,i"), "ras", "need the columns x_mm"),
    ],
)
def test_columns_that_contradict_the_coordinates_are_refused(
    tmp_path: Path, text: str, coordinates: str, words: str
) -> None:
    with pytest.raises(AnnotationError, match=words):
        read_annotation_files([written(tmp_path, text)], "csv", coordinates=coordinates)


def test_a_row_that_contradicts_the_option_is_refused_alone(tmp_path: Path) -> None:
    point = lps_of(np.array([[5.0, 20.0, 18.0]]))
    text = rows_of(point, tail=",LPS") + rows_of(point, tail=",RAS").splitlines()[1] + "\n"
    marks = read_annotation_files([written(tmp_path, text)], "csv", coordinates="lps").marks
    table, refused = match_annotations(marks, [RECORD], PSEUDONYMS)
    assert len(table) == 1
    assert "contradicts" in refused[0].detail


def test_coordinates_of_a_format_that_leaves_no_choice_are_a_usage_error(tmp_path: Path) -> None:
    for file_format, coordinates in [("lidc-xml", "ras"), ("dicom-seg", "ras"), ("luna16", "voxel"), ("csv", "mni")]:
        with pytest.raises(UsageError):
            read_annotation_files([tmp_path], file_format, coordinates=coordinates)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lps, kji: lps * (-1, -1, 1), "RAS"),
        (lambda lps, kji: lps / 1000, "metres"),
        (lambda lps, kji: lps / 10, "centimetres"),
        (lambda lps, kji: lps[:, ::-1], "z, y, x"),
        (lambda lps, kji: kji, "slice, row, column"),
        (lambda lps, kji: kji[:, ::-1], "column, row, slice"),
    ],
)
def test_marks_outside_say_what_their_numbers_may_have_been_and_stay_out(
    tmp_path: Path, change: object, words: str
) -> None:
    kji = np.array([[3.0, 12.0, 9.0], [6.0, 22.0, 17.0], [10.0, 30.0, 25.0], [12.0, 40.0, 33.0]])
    marks = read_annotations(written(tmp_path, rows_of(change(lps_of(kji), kji))), "csv")
    table, refused = match_annotations(marks, [RECORD], PSEUDONYMS)
    assert len(table) == 0
    assert {item.reason for item in refused} == {ReasonCode.ANNOTATION_OUTSIDE_VOLUME}
    assert all("it would lie inside if" in item.detail and words in item.detail for item in refused)


def test_one_mark_outside_among_others_inside_is_just_outside(tmp_path: Path) -> None:
    kji = np.array([[3.0, 12.0, 9.0], [6.0, 22.0, 17.0], [10.0, 30.0, 25.0]])
    points = lps_of(kji)
    points[2] *= (-1, -1, 1)
    table, refused = match_annotations(
        read_annotations(written(tmp_path, rows_of(points)), "csv"), [RECORD], PSEUDONYMS
    )
    assert len(table) == 2
    assert refused[0].detail == "line 4"


def test_a_series_is_found_by_its_original_and_its_pseudonymous_uids(tmp_path: Path) -> None:
    point = lps_of(np.array([[5.0, 20.0, 18.0]]))[0].tolist()
    sop = str(DATASETS[5].SOPInstanceUID)
    pseudonym = PSEUDONYMS.pseudonymous_uid
    assert len(pseudonym(sop)) <= 44
    names = [("series_instance_uid", SERIES), ("series_instance_uid", pseudonym(SERIES))]
    names += [("series_key", RECORD.series_key), ("sop_instance_uid", sop), ("sop_instance_uid", pseudonym(sop))]
    for column, name in names:
        text = f"{column},x_mm,y_mm,z_mm,diameter_mm\n{name},{','.join(map(str, point))},5\n"
        table, refused = match_annotations(read_annotations(written(tmp_path, text), "csv"), [RECORD], PSEUDONYMS)
        assert (len(table), refused) == (1, []), column
    # the other way round: files whose UIDs were replaced before they came, marks with the originals
    for ds in DATASETS:
        ds.SeriesInstanceUID, ds.SOPInstanceUID = pseudonym(ds.SeriesInstanceUID), pseudonym(ds.SOPInstanceUID)
    replaced = record_of(TRUTH, DATASETS)
    text = f"sop_instance_uid,x_mm,y_mm,z_mm,diameter_mm\n{sop},{','.join(map(str, point))},5\n"
    table, _ = match_annotations(read_annotations(written(tmp_path, text), "csv"), [replaced], PSEUDONYMS)
    assert len(table) == 1
    # a secret of another house says nothing here
    _, refused = match_annotations(
        read_annotations(written(tmp_path, text), "csv"), [replaced], Pseudonymizer(b"another")
    )
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_UNMATCHED]


def test_a_slice_and_a_series_that_are_not_the_same_are_refused(tmp_path: Path) -> None:
    truth, datasets = factory.oblique_series()
    other = record_of(truth, datasets, number=2)
    point = ",".join(map(str, lps_of(np.array([[5.0, 20.0, 18.0]]))[0].tolist()))
    text = "series_instance_uid,sop_instance_uid,x_mm,y_mm,z_mm,diameter_mm\n"
    text += f"{RECORD.series_key},{datasets[3].SOPInstanceUID},{point},5\n"
    _, refused = match_annotations(read_annotations(written(tmp_path, text), "csv"), [RECORD, other], PSEUDONYMS)
    assert "two series" in refused[0].detail


def test_repeated_marks_are_kept_once_and_named_readers_are_told_apart_without_their_names(tmp_path: Path) -> None:
    point = ",".join(map(str, lps_of(np.array([[5.0, 20.0, 18.0]]))[0].tolist()))
    text = "series_key,x_mm,y_mm,z_mm,diameter_mm,reader\n"
    text += "".join(f"{RECORD.series_key},{point},5,{reader}\n" for reader in ("Dr. Müller", "Dr. Meier", "Dr. Müller"))
    table, refused = match_annotations(read_annotations(written(tmp_path, text), "csv"), [RECORD], PSEUDONYMS)
    assert table["nodule_id"].nunique() == 1
    assert table["reader"].nunique() == 2
    assert table["reader"].str.fullmatch("reader-[0-9a-f]{6}").all()
    assert [(item.reason, item.detail) for item in refused] == [
        (ReasonCode.ANNOTATION_REPEATED, "line 4: repeats line 2")
    ]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("1,2,3,-4", "diameter is not positive"),
        ("1,2,3,0", "diameter is not positive"),
        ("1,2,3,499", "larger than the volume"),
        ("1,2,3,inf", "diameter_mm is not finite"),
        ("1,2,3,1e999", "diameter_mm is not finite"),
        ('"1,5",2,3,4', "x_mm has a decimal comma"),
        ("1,5,2,3,4", "6 cells where"),
        ("1,2", "cells where the heading has 5"),
    ],
)
def test_a_figure_that_cannot_be_is_named(tmp_path: Path, cells: str, words: str) -> None:
    text = f"series_key,x_mm,y_mm,z_mm,diameter_mm\n{RECORD.series_key},{cells}\n"
    _, refused = match_annotations(read_annotations(written(tmp_path, text), "csv"), [RECORD], PSEUDONYMS)
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_MALFORMED]
    assert words in refused[0].detail


def test_an_unknown_diameter_stays_unknown(tmp_path: Path) -> None:
    point = ",".join(map(str, lps_of(np.array([[5.0, 20.0, 18.0]]))[0].tolist()))
    text = f"series_key,x_mm,y_mm,z_mm,diameter_mm\n{RECORD.series_key},{point},\n"
    table, refused = match_annotations(read_annotations(written(tmp_path, text), "csv"), [RECORD], PSEUDONYMS)
    assert refused == []
    assert table["diameter_mm"].isna().all()


def test_a_table_in_utf_16_is_read(tmp_path: Path) -> None:
    point = lps_of(np.array([[5.0, 20.0, 18.0]]))
    (tmp_path / "wide.csv").write_text(rows_of(point).replace(",", "\t"), encoding="utf-16")
    table, _ = match_annotations(read_annotations(tmp_path / "wide.csv", "csv"), [RECORD], PSEUDONYMS)
    assert len(table) == 1


def test_of_several_files_a_broken_one_is_refused_and_the_others_are_taken(tmp_path: Path) -> None:
    point = lps_of(np.array([[5.0, 20.0, 18.0]]))
    paths = [written(tmp_path, rows_of(point), "good.csv"), written(tmp_path, "what,is\nthis,1\n", "bad.csv")]
    marks = read_annotation_files(paths, "csv").marks
    table, refused = match_annotations(marks, [RECORD], PSEUDONYMS, ["a", "b"])
    assert len(table) == 1
    assert [(item.path, item.reason) for item in refused] == [("b", ReasonCode.ANNOTATION_MALFORMED)]
    assert refused[0].detail.startswith("file 2: column 'x_mm' is missing")


def challenge(kind: str, **content: object) -> dict[str, object]:
    return {"type": kind, "version": {"major": 1, "minor": 0}, "series_instance_uid": SERIES, **content}


def taken(tmp_path: Path, content: object, series: str = "", record: SeriesRecord = RECORD) -> tuple[object, object]:
    path = written(tmp_path, json.dumps(content), "points.json")
    marks = read_annotation_files([path], "grand-challenge", series=series).marks
    return match_annotations(marks, [record], PSEUDONYMS)


def test_grand_challenge_points_land_at_their_world_position(tmp_path: Path) -> None:
    points = lps_of(np.array([[3.0, 12.0, 9.0], [10.0, 30.0, 25.0]]))
    items = [
        {"name": f"n{number}", "point": point, "probability": 0.25} for number, point in enumerate(points.tolist())
    ]
    table, refused = taken(tmp_path, challenge("Multiple points", points=items))
    assert refused == []
    assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], points)
    assert table["diameter_mm"].isna().all()
    assert table["probability"].tolist() == [0.25, 0.25]
    table, _ = taken(tmp_path, challenge("Point", point=points[0].tolist(), name="n"))
    assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], points[:1])
    # one word for all points is a class, not a nodule
    items = [{"name": "nodule", "point": point, "diameter_mm": 4} for point in points.tolist()]
    table, refused = taken(tmp_path, challenge("Multiple points", points=items))
    assert (table["nodule_id"].nunique(), table["diameter_mm"].tolist(), refused) == (2, [4, 4], [])


def test_grand_challenge_boxes_lines_and_ellipses_have_a_centre_and_a_diameter(tmp_path: Path) -> None:
    x, y, z = lps_of(np.array([[6.0, 22.0, 17.0]]))[0].tolist()
    flat = [[x - 2, y - 3, z], [x + 2, y - 3, z], [x + 2, y + 3, z], [x - 2, y + 3, z]]
    solid = [[px, py, z + dz] for px, py, _ in flat for dz in (-4, 4)]
    for content, diameter in [
        (challenge("Multiple 2D bounding boxes", boxes=[{"corners": flat}]), 6),
        (challenge("Multiple 3D bounding boxes", boxes=[{"corners": solid}]), 6),
        (challenge("Multiple lines", lines=[{"start": [x - 2, y, z], "end": [x + 2, y, z]}]), 4),
        (challenge("Ellipse", major_axis=[[x, y - 3, z], [x, y + 3, z]], minor_axis=[[x - 1, y, z], [x + 1, y, z]]), 6),
    ]:
        table, refused = taken(tmp_path, content)
        assert refused == []
        assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], (x, y, z))
        assert np.allclose(table["diameter_mm"], diameter)


def test_the_series_of_grand_challenge_points_comes_from_the_option_the_file_or_its_name(tmp_path: Path) -> None:
    point = lps_of(np.array([[6.0, 22.0, 17.0]]))[0].tolist()
    nameless = {"type": "Multiple points", "version": {"major": 1}, "points": [{"point": point}]}
    _, refused = taken(tmp_path, nameless)
    assert "it names no series" in refused[0].detail
    for content, series in [
        (nameless, SERIES),
        (nameless, RECORD.series_key),
        ({**nameless, "image": {"name": f"{SERIES}.mha"}}, ""),
    ]:
        table, _ = taken(tmp_path, content, series)
        assert len(table) == 1
    for name in (f"{SERIES}.json", f"{RECORD.series_key}_points.json"):
        path = written(tmp_path, json.dumps(nameless), name)
        table, _ = match_annotations(read_annotations(path, "grand-challenge"), [RECORD], PSEUDONYMS)
        assert len(table) == 1, name


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"type": "Multiple points", "version": {"major": 2}, "points": []}',
        '{"type": "Angle"}',
        '{"type": "Multiple points", "points": {}}',
        "[]",
        "\ufffe",
        "",
        '{"type": "Point", "point": [' + "9" * 5000 + ", 1, 2]}",
    ],
)
def test_json_that_cannot_be_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(written(tmp_path, text, "a.json"), "grand-challenge")
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("point", [[1, 2], "abc", None, [1, 2, "x"], [1e308, 1, 1e999], [float("nan")] * 3, {}])
def test_an_item_that_cannot_be_is_refused_alone(tmp_path: Path, point: object) -> None:
    good = lps_of(np.array([[6.0, 22.0, 17.0]]))[0].tolist()
    table, refused = taken(tmp_path, challenge("Multiple points", points=[{"point": good}, {"point": point}, 7]))
    assert len(table) == 1
    assert [item.detail.partition(":")[0] for item in refused] == ["item 2", "item 3"]
