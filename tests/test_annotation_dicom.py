"""Marks of DICOM segmentations and reports land where their voxels lie, with the ratings that belong to them."""

from __future__ import annotations

import contextlib
import copy
import random
import zlib
from pathlib import Path

import annotation_factory as factory
import highdicom as hd
import numpy as np
import pydicom
import pytest
from annotation_factory import PSEUDONYMS, affine_of, ball, code, evaluation, record_of, saved, segmentation
from dicom_factory import Truth
from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

from data_contracts.errors import AnnotationError
from data_contracts.reasons import ReasonCode
from pipeline.annotations.contours import Contour, contour_mask
from pipeline.annotations.formats import read_annotation_files, read_annotations
from pipeline.annotations.match import match_annotations

Series = tuple[Truth, list[Dataset]]


@pytest.fixture(scope="module")
def series() -> Series:
    return factory.oblique_series()


def center_of(mask: np.ndarray, truth: Truth) -> np.ndarray:
    """Centre of mass, LPS mm."""
    middle = np.argwhere(mask).mean(axis=0)
    return (affine_of(truth) @ np.append(middle, 1.0))[:3]


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("FRACTIONAL", ExplicitVRLittleEndian),
        ("FRACTIONAL", RLELossless),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", RLELossless),
    ],
)
def test_every_kind_of_segmentation_gives_centre_of_mass_diameter_and_volume(
    series: Series, tmp_path: Path, kind: str, syntax: str
) -> None:
    truth, datasets = series
    masks = [ball((4, 15, 12), 4.2, truth), ball((9, 30, 25), 3.1, truth)]
    seg = segmentation(datasets, masks, ["one", "two"], [None, None], kind, syntax)
    marks = read_annotations(saved(seg, tmp_path, "seg.dcm"), "dicom-seg")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert refused == []
    table = table.sort_values("diameter_mm", ascending=False)
    for row, mask, radius in zip(table.itertuples(), masks, (4.2, 3.1), strict=True):
        assert np.allclose((row.x_mm, row.y_mm, row.z_mm), center_of(mask, truth), atol=1e-3)
        assert abs(row.diameter_mm - 2 * radius) < 1.2
        assert row.volume_mm3 == pytest.approx(mask.sum() * 0.6 * 0.9 * 2.0, rel=1e-4)
        assert row.equivalent_diameter_mm == pytest.approx(2 * radius, abs=0.6)


def test_lidc_files_of_idc_are_one_nodule_with_a_row_a_reader_and_each_its_own_ratings(
    series: Series, tmp_path: Path
) -> None:
    truth, datasets = series
    nodule_uid = generate_uid()
    # the readers' annotations of one nodule share its tracking UID, as lidc2dicom writes them
    for reader, malignancy in enumerate((2, 4, 5)):
        text = f"Nodule 1 - Annotation IL057_{reader}"
        seg = segmentation(datasets, [ball((5, 20, 18 + reader), 4, truth)], [text], [nodule_uid])
        said = {2: "Moderately Unlikely", 4: "Moderately Suspicious", 5: "Highly Suspicious"}[malignancy]
        evaluations = [
            evaluation(
                factory.MALIGNANCY,
                code(f"90{malignancy}", "99LIDCQIICR", f"{malignancy} out of 5 ({said} for Cancer)"),
            ),
            evaluation(factory.SUBTLETY, code("105", "99LIDCQIICR", "5 out of 5 (Obvious)")),
            evaluation(factory.TEXTURE, code("RID50152", "RadLex", "part-solid pulmonary nodule")),
            evaluation(factory.CALCIFICATION, code("RID28473", "RadLex", "Absent")),
        ]
        group = factory.segment_group(seg, 1, datasets, text, nodule_uid, evaluations, 9.5 + reader, 321.0)
        saved(seg, tmp_path, f"seg{reader}.dcm")
        saved(factory.report([*datasets, seg], [group]), tmp_path, f"sr{reader}.dcm")
    for number, ds in enumerate(datasets[:3]):
        factory.saved(_file(ds), tmp_path, f"ct{number}.dcm")
    marks = read_annotations(tmp_path, "dicom-sr")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert refused == []
    assert table["nodule_id"].nunique() == 1
    table = table.sort_values("malignancy")
    assert table["malignancy"].tolist() == [2, 4, 5]
    assert table["diameter_mm"].tolist() == [9.5, 10.5, 11.5]
    assert set(table["volume_mm3"]) == {321.0}
    assert (table[["subtlety", "texture", "calcification"]] == [5, 3, 6]).all(axis=None)
    assert table["reader"].nunique() == 3
    assert not table["reader"].str.contains("Quack|IL057").any()
    for reader, row in enumerate(table.itertuples()):
        mask = ball((5, 20, 18 + reader), 4, truth)
        assert np.allclose((row.x_mm, row.y_mm, row.z_mm), center_of(mask, truth), atol=1e-3)


def _file(ds: Dataset) -> Dataset:
    from pydicom.dataset import FileMetaDataset

    ds = Dataset(ds)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def test_a_report_without_its_segmentation_is_refused_by_group(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [generate_uid()])
    group = factory.segment_group(seg, 1, datasets, "one", generate_uid(), [], 8, 100)
    marks = read_annotations(saved(factory.report([*datasets, seg], [group]), tmp_path, "sr.dcm"), "dicom-sr")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert len(table) == 0
    assert [item.reason for item in refused] == [ReasonCode.ANNOTATION_UNMATCHED]
    assert refused[0].detail.startswith("measurement group 1: its segmentation was not read")


@pytest.mark.parametrize(
    "value",
    [code("777", "99OTHER", "very suspicious"), code("4", "99OTHER", "4 out of 6"), code("006", "99LIDCQIICR", "six")],
)
def test_a_rating_whose_code_is_not_known_refuses_the_mark_and_is_never_guessed(
    series: Series, tmp_path: Path, value: hd.sr.CodedConcept
) -> None:
    truth, datasets = series
    uid = generate_uid()
    seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [uid])
    group = factory.segment_group(seg, 1, datasets, "one", uid, [evaluation(factory.MALIGNANCY, value)], 8, 100)
    paths = [saved(seg, tmp_path, "seg.dcm"), saved(factory.report([*datasets, seg], [group]), tmp_path, "sr.dcm")]
    marks = read_annotation_files(paths, "dicom-seg").marks
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert len(table) == 0
    assert "no known value of malignancy" in refused[0].detail
    assert refused[0].detail.startswith("file 1, segment 1")


def test_regions_on_images_and_in_the_patient_are_placed_without_a_segmentation(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    affine = affine_of(truth)
    # DICOM counts pixels from the corner of the first: its centre is 0.5, 0.5
    ellipse = np.array([(12, 20), (22, 20), (17, 17), (17, 23)]) + 0.5
    circle = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.ELLIPSE,
        graphic_data=ellipse,
        source_image=hd.sr.SourceImageForRegion(datasets[6].SOPClassUID, datasets[6].SOPInstanceUID),
    )
    point = hd.sr.ImageRegion3D(
        graphic_type=hd.sr.GraphicTypeValues3D.POINT,
        graphic_data=(affine @ (3, 30, 9, 1))[None, :3],
        frame_of_reference_uid=datasets[0].FrameOfReferenceUID,
    )
    groups = [
        hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=f"finding {number}"),
            referenced_region=region,
            finding_type=codes.SCT.Nodule,
            measurements=measurements,
        )
        for number, (region, measurements) in enumerate(
            [
                (circle, None),
                (point, [hd.sr.Measurement(name=codes.SCT.LongAxis, value=0.7, unit=codes.UCUM.Centimeter)]),
            ]
        )
    ]
    marks = read_annotations(saved(factory.report(datasets, groups), tmp_path, "sr.dcm"), "dicom-sr")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert refused == []
    table = table.sort_values("diameter_mm")
    assert np.allclose(table[["x_mm", "y_mm", "z_mm"]], [(affine @ (3, 30, 9, 1))[:3], (affine @ (6, 20, 17, 1))[:3]])
    assert np.allclose(table["diameter_mm"], [7.0, 10 * 0.9])


def test_a_segment_of_several_separate_pieces_is_several_nodules(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    masks = [ball((3, 10, 8), 3, truth), ball((11, 36, 30), 4, truth)]
    seg = segmentation(datasets, [masks[0] | masks[1]], ["nodules"], [None])
    marks = read_annotations(saved(seg, tmp_path, "seg.dcm"), "dicom-seg")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert refused == []
    assert table["nodule_id"].nunique() == 2
    found = table.sort_values("volume_mm3")[["x_mm", "y_mm", "z_mm"]].to_numpy()
    assert np.allclose(found, [center_of(mask, truth) for mask in masks], atol=1e-3)


def test_an_organ_is_no_nodule_and_a_segment_may_not_be_empty(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    seg = segmentation(datasets, [ball((5, 20, 18), 8, truth), ball((5, 20, 18), 4, truth)], ["a", "b"], [None, None])
    category = seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0]
    category.CodeValue, category.CodeMeaning = "123037004", "Anatomical Structure"
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodeMeaning = "39607008", "Lung"
    empty = copy.deepcopy(seg.SegmentSequence[1])
    empty.SegmentNumber = 3
    seg.SegmentSequence.append(empty)
    marks = read_annotations(saved(seg, tmp_path, "seg.dcm"), "dicom-seg")
    table, refused = match_annotations(marks, [record_of(truth, datasets)], PSEUDONYMS)
    assert len(table) == 1
    assert [item.detail for item in refused] == [
        "segment 1: the segment is an anatomical structure, no nodule",
        "segment 3: no pixel is marked",
    ]


def test_what_is_no_segmentation_or_report_is_refused_in_one_line(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [None])
    whole = saved(seg, tmp_path, "seg.dcm").read_bytes()
    files = {
        "ct.dcm": None,
        "text.dcm": b"no dicom at all",
        "empty.dcm": b"",
        "cut.dcm": whole[: len(whole) // 2],
        "tail.dcm": whole[:-40],
    }
    for name, content in files.items():
        path = tmp_path / name
        if content is None:
            saved(_file(datasets[0]), tmp_path, name)
        else:
            path.write_bytes(content)
        with pytest.raises(AnnotationError) as caught:
            read_annotations(path, "dicom-seg")
        assert "\n" not in caught.value.line()
        assert str(tmp_path) not in caught.value.line()


def test_a_deflated_file_is_read_and_one_that_grows_without_end_is_refused(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [None])
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    pydicom.dcmwrite(path, seg)
    assert len(read_annotations(path, "dicom-seg")) == 1
    # a comment of 300 MB of blanks deflates to 300 kB
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = path.read_bytes()[: 144 + read_file_meta_info(path).FileMetaInformationGroupLength]
    body = squeeze.compress(b"\x08\x00\x01\x00UT\x00\x00" + (300 << 20).to_bytes(4, "little"))
    body += b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(300)) + squeeze.flush()
    path.write_bytes(head + body)
    with pytest.raises(AnnotationError, match="grows beyond"):
        read_annotations(path, "dicom-seg")


def test_segmentations_that_lie_about_their_frames_are_refused(series: Series, tmp_path: Path) -> None:
    truth, datasets = series

    def broken(change: object) -> str:
        seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [None])
        change(seg)
        with pytest.raises(AnnotationError) as caught:
            read_annotations(saved(seg, tmp_path, "seg.dcm"), "dicom-seg")
        return caught.value.line()

    def spacing(seg: Dataset) -> None:
        seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0.9]

    def orientation(seg: Dataset) -> None:
        plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        plane.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]

    assert "are said to be there" in broken(lambda seg: setattr(seg, "NumberOfFrames", 1))
    assert "cannot be" in broken(spacing)
    assert "cannot be" in broken(orientation)
    assert "far too" in broken(lambda seg: setattr(seg, "NumberOfFrames", 2_000_000_000))
    assert "cannot be read" in broken(lambda seg: delattr(seg, "SegmentSequence"))


def test_no_damage_to_a_file_does_more_than_refuse_it_or_its_marks(series: Series, tmp_path: Path) -> None:
    truth, datasets = series
    uid = generate_uid()
    seg = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [uid])
    rle = segmentation(datasets, [ball((5, 20, 18), 4, truth)], ["one"], [uid], "LABELMAP", RLELossless)
    group = factory.segment_group(seg, 1, datasets, "one", uid, [], 8, 100)
    wholes = [saved(ds, tmp_path, "a.dcm").read_bytes() for ds in (seg, rle, factory.report([*datasets, seg], [group]))]
    chance, path = random.Random(5), tmp_path / "damaged.dcm"
    for number in range(60):
        content = bytearray(wholes[number % 3])
        for _ in range(chance.choice((1, 1, 4, 40))):
            at = chance.randrange(132, len(content))
            how = chance.choice(("change", "cut", "insert"))
            content[at : at + (0 if how == "insert" else 1)] = b"" if how == "cut" else chance.randbytes(1)
        path.write_bytes(content)
        with contextlib.suppress(AnnotationError):
            match_annotations(read_annotations(path, "dicom-seg"), [record_of(truth, datasets)], PSEUDONYMS)


LIDC_CODES = {
    "subtlety": ("C45992", "NCIt", "Subtlety score", "1"),
    "internal_structure": ("200", "99LIDCQIICR", "Internal structure", ""),
    "calcification": ("C3672", "NCIt", "Calcification", ""),
    "sphericity": ("400", "99LIDCQIICR", "Sphericity", "0"),
    "margin": ("C25563", "NCIt", "Margin", "0"),
    "lobulation": ("C62175", "NCIt", "Lobular Pattern", "0"),
    "spiculation": ("C28749", "NCIt", "Spiculation", "0"),
    "texture": ("C41144", "NCIt", "Texture", "0"),
    "malignancy": ("RID36042", "RadLex", "Malignancy", "9"),
}


def _lidc_evaluations(ratings: dict[str, float]) -> list[hd.sr.QualitativeEvaluation]:
    evaluations = []
    for name, value in ratings.items():
        concept, scheme, meaning, hundred = LIDC_CODES[name]
        said = code(f"{hundred}0{value:.0f}", "99LIDCQIICR", f"{value:.0f} out of 5")
        if name == "internal_structure":
            said = code({1: "C12471", 2: "C25278", 3: "C12472", 4: "C73434"}[int(value)], "NCIt", "Soft tissue")
        if name == "calcification":
            said = code("RID28473", "RadLex", "Absent")
            assert value == 6
        evaluations.append(evaluation(code(concept, scheme, meaning), said))
    return evaluations


def test_the_readers_of_a_real_study_are_the_same_by_xml_and_by_segmentation_and_report(
    lidc_0001_dicom: Path, tmp_path: Path
) -> None:
    """Masks are made of the readers' contours, as lidc2dicom does; the contour is the first pixel outside."""
    datasets = [pydicom.dcmread(path) for path in lidc_0001_dicom.rglob("*.dcm")]
    datasets = sorted((ds for ds in datasets if ds.Modality == "CT"), key=lambda ds: ds.ImagePositionPatient[2])
    truth = Truth(
        np.broadcast_to(np.int16(0), (len(datasets), 512, 512)),
        np.array([ds.ImagePositionPatient for ds in datasets], dtype=float),
        np.array([ds.ImageOrientationPatient for ds in datasets], dtype=float),
        np.array(datasets[0].PixelSpacing, dtype=float),
    )
    record = record_of(truth, datasets)
    (xml,) = lidc_0001_dicom.rglob("069.xml")
    marks = read_annotations(xml, "lidc-xml")
    drawn, refused = match_annotations(marks, [record], PSEUDONYMS)
    assert refused == []
    k_of = {ds.SOPInstanceUID: k for k, ds in enumerate(datasets)}
    nodule_uid = generate_uid()
    for number, (mark, row) in enumerate(zip(marks, drawn.itertuples(), strict=True)):
        contours = [
            Contour(k_of[uid], inside, np.array(points, dtype=np.int32)) for uid, _, inside, points in mark.contours
        ]
        cut = contour_mask(contours)
        sources = [datasets[int(k)] for k in cut.z_mm]
        mask = np.zeros((len(sources), 512, 512), dtype=bool)
        rows, columns = cut.mask.shape[1:]
        mask[:, cut.row : cut.row + rows, cut.column : cut.column + columns] = cut.mask
        text = f"Nodule 1 - Annotation MI014_{number}"
        seg = segmentation(sources, [mask], [text], [nodule_uid])
        saved(seg, tmp_path, f"seg{number}.dcm")
        group = factory.segment_group(
            seg, 1, datasets, text, nodule_uid, _lidc_evaluations(mark.ratings), row.diameter_mm, 1000.0
        )
        folder = tmp_path / "reports"
        folder.mkdir(exist_ok=True)
        saved(factory.report([*sources, seg], [group]), folder, f"sr{number}.dcm")
    segments = read_annotations(tmp_path, "dicom-seg")
    table, refused = match_annotations(segments, [record], PSEUDONYMS)
    assert refused == []
    assert table["nodule_id"].nunique() == 1
    alone = read_annotation_files(sorted(tmp_path.glob("*.dcm")), "dicom-seg").marks
    measured, _ = match_annotations(alone, [record], PSEUDONYMS)
    for row in drawn.itertuples():
        (same,) = [other for other in table.itertuples() if abs(other.diameter_mm - row.diameter_mm) < 1e-6]
        # the mean of outline points is not the centre of mass, but no pixel away from it
        assert np.abs([same.x_mm - row.x_mm, same.y_mm - row.y_mm]).max() < 0.703
        assert abs(same.z_mm - row.z_mm) < 0.5
        assert (same.malignancy, same.calcification, same.subtlety) == (
            row.malignancy,
            row.calcification,
            row.subtlety,
        )
    assert np.abs(np.sort(measured["diameter_mm"]) - np.sort(drawn["diameter_mm"])).max() < 1.5 * 0.703
