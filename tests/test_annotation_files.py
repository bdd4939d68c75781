"""Annotation files are read as their format says, or refused in one line that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_contracts.errors import AnnotationError, UsageError
from pipeline.annotations.formats import read_annotations
from pipeline.annotations.xml_files import read_lidc_xml

HEAD = "series_instance_uid,nodule,reader,x_mm,y_mm,z_mm,diameter_mm,malignancy,label\n"


def written(folder: Path, text: str, name: str = "marks.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_row_is_a_mark_with_its_line(tmp_path: Path) -> None:
    (mark,) = read_annotations(written(tmp_path, HEAD + "1.2.3,n1,anna,-10.5,20,33.25,8.5,4,1\n"), "csv")
    assert (mark.series_instance_uid, mark.nodule, mark.reader, mark.place) == ("1.2.3", "n1", "anna", "line 2")
    assert (mark.lps_mm, mark.diameter_mm, mark.label) == ((-10.5, 20.0, 33.25), 8.5, 1)
    assert mark.ratings == {"malignancy": 4.0}


def test_a_csv_with_a_byte_order_mark_semicolons_and_capitals_is_read(tmp_path: Path) -> None:
    text = "\ufeffSeries_Key;X_mm;Y_mm;Z_mm;Diameter_mm\nabc;1;2;3;4\n\n"
    (mark,) = read_annotations(written(tmp_path, text), "csv")
    assert (mark.series_key, mark.lps_mm, mark.reader, mark.label) == ("abc", (1, 2, 3), "reader-1", None)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("series_instance_uid,x_mm,y_mm,z_mm,diameter", "'diameter_mm' is missing"),
        ("x_mm,y_mm,z_mm,diameter_mm", "'series_instance_uid' is missing"),
        ("series_key,x_mm,y_mm,z_mm,diameter_mm,malignacy", "unknown column 'malignacy'"),
        ("series_key,x_mm,x_mm,y_mm,z_mm,diameter_mm", "twice"),
        ("", "'x_mm' is missing"),
    ],
)
def test_a_wrong_column_is_named_beside_the_known_ones(tmp_path: Path, head: str, named: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(written(tmp_path, head + "\n" + ",".join("1" * 6) + "\n"), "csv")
    assert named in caught.value.line()
    assert "spiculation" in caught.value.line()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "cells", ["1.2.3,,a,x,2,3,4,,", "1.2.3,,a,1,2,3,nan,,", "1.2.3,,a,1,2,3,4,9,", "1.2.3,,a,1,2,3,4,,2"]
)
def test_a_row_with_a_value_that_cannot_be_comes_without_a_position(tmp_path: Path, cells: str) -> None:
    (mark,) = read_annotations(written(tmp_path, HEAD + cells + "\n"), "csv")
    assert mark.lps_mm is None
    assert mark.place == "line 2"


def test_a_luna16_table_is_read_in_lps(tmp_path: Path) -> None:
    text = "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-100.5,67.2,-231.8,6.4\n"
    (mark,) = read_annotations(written(tmp_path, text), "luna16")
    assert (mark.series_instance_uid, mark.lps_mm, mark.diameter_mm) == ("1.2.3", (-100.5, 67.2, -231.8), 6.4)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00x", b'"open,\n' * 3])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(AnnotationError):
        read_annotations(tmp_path / "a.csv", "csv")


def test_an_unknown_format_and_a_missing_file_are_usage_errors(tmp_path: Path) -> None:
    for path, kind in [(written(tmp_path, HEAD), "excel"), (tmp_path / "none.csv", "csv")]:
        with pytest.raises(UsageError):
            read_annotations(path, kind)


LIDC = """<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>1.2.3</SeriesInstanceUid>
</ResponseHeader><readingSession><unblindedReadNodule><noduleID>1</noduleID><characteristics><subtlety>5</subtlety>
<internalStructure>1</internalStructure><malignancy>0</malignancy></characteristics>{rois}</unblindedReadNodule>
<unblindedReadNodule><noduleID>2</noduleID><roi><imageZposition>3</imageZposition><imageSOP_UID>1.2.4</imageSOP_UID>
<inclusion>TRUE</inclusion><edgeMap><xCoord>1</xCoord><yCoord>2</yCoord></edgeMap></roi></unblindedReadNodule>
<nonNodule/></readingSession></LidcReadMessage>"""
ROI = """<roi><imageZposition>{z} </imageZposition><imageSOP_UID>1.2.{z}</imageSOP_UID><inclusion>{inside}</inclusion>
<edgeMap><xCoord>10</xCoord><yCoord>20</yCoord></edgeMap><edgeMap><xCoord>14</xCoord><yCoord>{y}</yCoord></edgeMap>
<edgeMap><xCoord>12</xCoord><yCoord>25</yCoord></edgeMap></roi>"""


def test_a_lidc_file_gives_outlined_nodules_and_counts_the_small_ones(tmp_path: Path) -> None:
    rois = ROI.format(z=5, y=22, inside="TRUE") + ROI.format(z=6, y=22, inside="FALSE")
    reading = read_lidc_xml(written(tmp_path, LIDC.format(rois=rois), "a.xml"))
    assert (len(reading.marks), reading.n_small, reading.n_non_nodules) == (1, 1, 1)
    mark = reading.marks[0]
    assert mark.reader == "reader-1"
    # a rating of 0 was left open by the reader
    assert mark.ratings == {"subtlety": 5.0, "internal_structure": 1.0}
    assert [contour[:3] for contour in mark.contours] == [("1.2.5", 5.0, True), ("1.2.6", 6.0, False)]
    assert mark.contours[0][3] == ((10, 20), (14, 22), (12, 25))


def test_a_lidc_nodule_with_a_broken_outline_has_no_contours(tmp_path: Path) -> None:
    (mark,) = read_annotations(
        written(tmp_path, LIDC.format(rois=ROI.format(z=5, y="x", inside="TRUE")), "a.xml"), "lidc-xml"
    )
    assert mark.contours == ()


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><LidcReadMessage>&b;</LidcReadMessage>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><LidcReadMessage>&x;</LidcReadMessage>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, "<a>" * 200 + "</a>" * 200, "<a", "", "<annotation/>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hostile_or_foreign_xml_is_refused_in_one_line(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "1.2.3.xml").write_bytes(text.encode(encoding))
    with pytest.raises(AnnotationError) as caught:
        read_annotations(tmp_path / "1.2.3.xml", "lidc-xml")
    assert "\n" not in caught.value.line()


def test_a_voc_file_gives_its_boxes_with_their_class(tmp_path: Path) -> None:
    box = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax><ymax>50</ymax></bndbox>"
    text = f"<annotation><object><name>A</name>{box}</object><object><name>B</name></object></annotation>"
    whole, broken = read_annotations(written(tmp_path, text, "1.2.3.4.xml"), "voc-xml")
    assert (whole.source, whole.sop_instance_uid) == ("voc-xml:A", "1.2.3.4")
    assert whole.contours[0][3] == ((10, 20), (30, 20), (30, 50), (10, 50))
    assert broken.contours == ()


def test_a_voc_file_that_is_not_named_after_a_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError):
        read_annotations(written(tmp_path, "<annotation/>", "image.xml"), "voc-xml")
