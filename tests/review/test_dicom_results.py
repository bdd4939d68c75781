"""Results in DICOM: valid for the checkers of others, the same every time, read back as they were written."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from results_factory import (
    PATIENT_KEY,
    PSEUDONYMS,
    SHAPE,
    STUDY_UID,
    TILTED,
    UPRIGHT,
    ball,
    finding,
    program,
    record_of,
    review_of,
    saved,
    unmeasured,
    verified,
)

from data_contracts.errors import ContractError
from data_contracts.guidelines import GuidelineNodule, PatientContext, StudyGuidelines
from data_contracts.params import ReviewParams
from data_contracts.review import Finding, StudyReview
from data_contracts.series import SeriesRecord
from pipeline.annotations.formats import read_annotation_files
from pipeline.annotations.match import match_annotations
from pipeline.review.dicom.encapsulated_pdf import pdf_of
from pipeline.review.dicom.masks import mask_on_images
from pipeline.review.dicom.objects import StudyObjects, study_objects
from pipeline.review.dicom.report_figures import with_reported_figures
from pipeline.review.dicom.source import pseudonymous_study
from pipeline.review.guidelines.study import assess_study
from pipeline.review.key_images import key_image_name
from pipeline.review.measure import Outline
from pipeline.review.pdf import render_study_pdf

HERE = np.array([-5.0, 2.0, -20.0])
THERE = np.array([12.0, 8.0, -8.0])


def made_of(
    review: StudyReview,
    records: list[SeriesRecord],
    outlines: dict[str, Outline],
    pictures: dict[str, bytes] | None = None,
    pdf: bytes | None = None,
    params: ReviewParams | None = None,
) -> StudyObjects:
    sides_mm = {item.finding_id: 60.0 for item in review.findings}
    study = pseudonymous_study(records, PSEUDONYMS)
    return study_objects(review, outlines, pictures or {}, sides_mm, pdf, study, "1.0", params or ReviewParams())


@pytest.fixture(scope="module")
def record() -> SeriesRecord:
    return record_of()


def part_solid(record: SeriesRecord) -> Finding:
    """A finding with an outline, of which everything is known that a report can say."""
    plain = finding(1, record, HERE, 4.0)
    size = plain.measurement.model_copy(
        update={
            "nodule_type": "part_solid",
            "solid_diameter_mm": 5.5,
            "solid_volume_mm3": 87.0,
            "diameter_interval_mm": (6.9, 9.3),
            "volume_interval_mm3": (190.0, 350.0),
        }
    )
    values = {"call": "uncertain", "probability_interval": (0.4321, 0.97), "unfamiliar": "Its slices are too thick."}
    return plain.model_copy(update={"measurement": size, **values})


def guidelines_of(*findings: Finding) -> StudyGuidelines:
    """As a first CT of a screening, whose patient has another significant finding."""
    nodules = [
        GuidelineNodule(
            nodule_id=item.finding_id,
            mean_diameter_mm=item.measurement.mean_diameter_mm,
            nodule_type=item.measurement.nodule_type,
            solid_diameter_mm=item.measurement.solid_diameter_mm,
            long_axis_mm=item.measurement.long_axis_mm,
            upper_lobe=True,
            spiculation=None,
            status="baseline",
        )
        for item in findings
    ]
    context = PatientContext(
        age_years=63, sex="female", screening=True, other_significant_finding=True, emphysema=True,
        family_history=False, nodule_count=2,
    )  # fmt: skip
    return assess_study(nodules, context, None)


@pytest.fixture(scope="module")
def review(record: SeriesRecord) -> StudyReview:
    """One finding with an outline, one with a mark alone."""
    findings = (
        part_solid(record),
        finding(2, record, THERE, 2.5, measurement=unmeasured(), side="", probability=None, concepts={}),
    )
    why = ("No series of this manufacturer was among those the model was judged on.",)
    return review_of(record, *findings, guidelines=guidelines_of(*findings), unfamiliar=why)


@pytest.fixture(scope="module")
def outlines() -> dict[str, Outline]:
    return {f"{1:08x}": ball(HERE, 4.0)}


@pytest.fixture(scope="module")
def pictures(review: StudyReview, key_images: dict[str, bytes]) -> dict[str, bytes]:
    views = {name.removeprefix("key-f1-"): png for name, png in key_images.items() if name.startswith("key-f1-")}
    return {
        key_image_name(item.finding_id, view.removesuffix(".png")): png
        for item in review.findings
        for view, png in views.items()
    }


@pytest.fixture(scope="module")
def pdf(review: StudyReview) -> bytes:
    return render_study_pdf(review, {})


@pytest.fixture(scope="module")
def made(
    review: StudyReview,
    record: SeriesRecord,
    outlines: dict[str, Outline],
    pictures: dict[str, bytes],
    pdf: bytes,
) -> StudyObjects:
    return made_of(review, [record], outlines, pictures, pdf)


@pytest.fixture(scope="module")
def files(made: StudyObjects, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in saved(made.objects, tmp_path_factory.mktemp("results"))}


def test_a_study_gives_segmentation_report_key_images_and_pdf_and_no_checker_finds_an_error(
    files: dict[str, Path], made: StudyObjects
) -> None:
    views = [f"key-{number:08x}-axial-{window}.dcm" for number in (1, 2) for window in ("lung", "mediastinal")]
    assert sorted(files) == sorted(["seg.dcm", "sr.dcm", "report.dcm", *views])
    assert made.problems == ()
    assert {name: verified(path) for name, path in files.items()} == {name: [] for name in files}


def test_the_report_reads_in_the_dumps_of_others(files: dict[str, Path], tmp_path: Path) -> None:
    command = [program("dcsrdump", "the Python package dicom3tools"), str(files["sr.dcm"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    text = done.stdout + done.stderr
    assert "Error" not in text
    for words in ("(DCMR,1500)", "(DCMR,1411)", "(DCMR,1410)", "Probability of cancer", "Not for diagnostic use"):
        assert words in text
    for words in (
        "part-solid",
        "lower limit of the 95 % interval",
        "Uncertain",
        "Its slices are too thick",
        "Lung-RADS 3",
        "Brock (PanCan) model without spiculation",
        "N Engl J Med 2013;369:910. doi 10.1056/NEJMoa1214726 (unverified)",
        "Why there is no Brock probability with spiculation",
    ):
        assert words in text
    page = tmp_path / "sr.html"
    command = [program("dsr2html", "Debian package dcmtk"), str(files["sr.dcm"]), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # it says of UTF-8 that it does not check the characters
    assert done.returncode == 0
    assert [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("W: The VR checker")] == []
    assert "Imaging Measurement Report" in page.read_text()


@pytest.mark.slow
def test_pixelmeds_validator_finds_the_templates_and_no_error(files: dict[str, Path]) -> None:
    validator = program("DicomSRValidator", "Debian package pixelmed-apps")
    # its style sheet is longer than newer Java runtimes allow
    limits = " ".join(f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprOp", "TotalOp", "ExprGrp"))
    done = subprocess.run(
        [validator, "-checktemplateid", str(files["sr.dcm"])],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={"PATH": "/usr/bin:/bin", "JAVA_TOOL_OPTIONS": limits},
    )
    said = done.stdout + done.stderr
    assert "Found Root Template TID_1500" in said
    assert "validation complete" in said.lower()
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_every_object_is_of_the_study_names_its_maker_and_says_that_it_is_no_diagnosis(made: StudyObjects) -> None:
    study = PSEUDONYMS.pseudonymous_uid(STUDY_UID)
    series = {name: str(ds.SeriesInstanceUID) for name, ds in made.objects.items()}
    assert len(set(series.values())) == 4, "one series a kind"
    assert len({str(ds.SOPInstanceUID) for ds in made.objects.values()}) == len(made.objects)
    for ds in made.objects.values():
        assert str(ds.StudyInstanceUID) == study
        assert (ds.PatientID, ds.PatientName, ds.PatientIdentityRemoved) == (PATIENT_KEY, PATIENT_KEY, "YES")
        assert "not for diagnostic use" in ds.SeriesDescription.lower()
        assert (ds.Manufacturer, ds.ManufacturerModelName) == ("noduleflow", "noduleflow")
        assert list(ds.SoftwareVersions) == ["noduleflow 1.0", "model version 3"]
        assert ds.DeviceSerialNumber == "cd" * 8
        assert str(ds.file_meta.MediaStorageSOPInstanceUID) == str(ds.SOPInstanceUID)


def test_the_same_review_gives_the_same_bytes_and_another_one_other_uids(
    made: StudyObjects,
    review: StudyReview,
    record: SeriesRecord,
    outlines: dict[str, Outline],
    pictures: dict[str, bytes],
    pdf: bytes,
    tmp_path: Path,
) -> None:
    again = made_of(review, [record], outlines, pictures, pdf)
    first, second = saved(made.objects, tmp_path / "a"), saved(again.objects, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    newer = made_of(review.model_copy(update={"model_version": "4"}), [record], outlines, pictures, pdf)
    for name, ds in made.objects.items():
        assert newer.objects[name].SOPInstanceUID != ds.SOPInstanceUID
        assert newer.objects[name].SeriesInstanceUID != ds.SeriesInstanceUID
    larger = made_of(review, [record], {f"{1:08x}": ball(HERE, 4.5)}, pictures, pdf)
    assert larger.objects["seg.dcm"].SOPInstanceUID != made.objects["seg.dcm"].SOPInstanceUID
    assert larger.objects["report.dcm"].SOPInstanceUID == made.objects["report.dcm"].SOPInstanceUID
    tracked = [ds.SegmentSequence[0].TrackingUID for ds in (o.objects["seg.dcm"] for o in (made, newer))]
    assert tracked[0] == tracked[1], "a finding stays the same finding for another version"


def test_report_to_review_to_report_is_identical(
    files: dict[str, Path], made: StudyObjects, review: StudyReview, record: SeriesRecord, outlines: dict[str, Outline]
) -> None:
    forgotten = {"measurement": unmeasured("x"), "probability": 0.1, "probability_size_only": None, "concepts": {}}
    forgotten |= {"probability_interval": None, "call": "", "unfamiliar": ""}
    blank = review.model_copy(
        update={
            "findings": tuple(item.model_copy(update={**forgotten, "side": "right"}) for item in review.findings),
            "unfamiliar": (),
        }
    )
    back = with_reported_figures(blank, pydicom.dcmread(files["sr.dcm"]))
    assert back == review
    again = made_of(back, [record], outlines)
    assert again.objects["sr.dcm"].to_json() == made.objects["sr.dcm"].to_json()
    assert StudyReview.from_json(back.to_json(), where="review.json") == review
    bare = with_reported_figures(blank.model_copy(update={"guidelines": None}), pydicom.dcmread(files["sr.dcm"]))
    assert made_of(bare, [record], outlines).objects["sr.dcm"].to_json() == made.objects["sr.dcm"].to_json()


def test_the_report_says_beside_the_probability_how_sure_it_is_and_what_nodule_it_is_of(
    made: StudyObjects, review: StudyReview
) -> None:
    group = hd.sr.Comprehensive3DSR.from_dataset(made.objects["sr.dcm"]).content
    (group,) = group.get_volumetric_roi_measurement_groups()
    said = {(item.name.meaning, item.value.meaning) for item in group.get_qualitative_evaluations()}
    assert review.guidelines is not None
    category = review.guidelines.nodules[0].lung_rads.category
    assert {
        ("Texture", "part-solid pulmonary nodule"),
        ("Call at the error rate it was set to", "Uncertain"),
        ("Unlike what the model was judged on", "Yes"),
        ("Lung-RADS v2022 category", f"Lung-RADS {category}"),
    } <= said
    assert [meaning for name, meaning in said if name == "Texture"] == ["part-solid pulmonary nodule"]
    figures = {item.name.meaning: item for item in group.get_measurements()}
    assert figures["Diameter of the solid part"].value == 5.5
    assert figures["Volume of the solid part"].value == 87
    limits = {
        name: tuple(figures[f"{name}, {which} limit of the 95 % interval"].value for which in ("lower", "upper"))
        for name in ("Diameter", "Volume", "Probability of cancer")
    }
    assert limits == {"Diameter": (6.9, 9.3), "Volume": (190, 350), "Probability of cancer": (43.21, 97)}
    (study,) = [
        item for item in made.objects["sr.dcm"].ContentSequence
        if item.get("ConceptNameCodeSequence", [Dataset()])[0].get("CodeMeaning") == "Qualitative Evaluations"
    ]  # fmt: skip
    values = [item.get("TextValue") or item.ConceptCodeSequence[0].CodeMeaning for item in study.ContentSequence]
    assert values[0] == f"Lung-RADS {review.guidelines.lung_rads.category}"
    assert "S: other significant finding" in values
    assert values[-1] == review.unfamiliar[0]


def test_what_a_report_does_not_state_stays_as_it_is_in_the_review(
    record: SeriesRecord, outlines: dict[str, Outline]
) -> None:
    rich = part_solid(record)
    whole = review_of(record, rich, guidelines=guidelines_of(rich), unfamiliar=("Another scanner.",))
    silent = made_of(review_of(record, finding(1, record, HERE, 4.0)), [record], outlines).objects["sr.dcm"]
    assert with_reported_figures(whole, silent) == whole


def test_a_conditional_category_keeps_its_condition_and_what_the_error_of_the_size_allows(
    record: SeriesRecord, outlines: dict[str, Outline]
) -> None:
    rich = part_solid(record)
    given = guidelines_of(rich)
    values = {"status": "conditional", "category": "3", "possible": ("2", "3"), "condition": "it is the first CT"}
    own = given.nodules[0].lung_rads.model_copy(update=values)
    told = given.model_copy(update={"nodules": (given.nodules[0].model_copy(update={"lung_rads": own}),)})
    report = made_of(review_of(record, rich, guidelines=told), [record], outlines).objects["sr.dcm"]
    for before in (given, None):
        back = with_reported_figures(review_of(record, rich, guidelines=before), report)
        assert back.guidelines is not None
        result = back.guidelines.nodules[0].lung_rads
        assert {name: getattr(result, name) for name in values} == values
        assert made_of(back, [record], outlines).objects["sr.dcm"].to_json() == report.to_json()


def test_a_report_of_other_findings_or_another_object_is_refused(made: StudyObjects, review: StudyReview) -> None:
    fewer = review.model_copy(update={"findings": review.findings[:1]})
    with pytest.raises(ContractError, match="other findings"):
        with_reported_figures(fewer, made.objects["sr.dcm"])
    with pytest.raises(ContractError, match="not a measurement report"):
        with_reported_figures(review, made.objects["seg.dcm"])


def test_the_axes_are_lines_on_the_key_slice_as_long_as_they_are_said_to_be(
    made: StudyObjects, record: SeriesRecord
) -> None:
    report = hd.sr.Comprehensive3DSR.from_dataset(made.objects["sr.dcm"])
    tracked = made.objects["seg.dcm"].SegmentSequence[0].TrackingUID
    groups = report.content.get_planar_roi_measurement_groups(tracking_uid=tracked)
    lengths = {}
    for group in groups:
        (measurement,) = group.get_measurements()
        columns, rows = np.array(group.roi.value).T
        steps_mm = np.hypot(np.diff(columns)[0] * 0.7, np.diff(rows)[0] * 0.8)
        lengths[measurement.name.meaning] = (measurement.value, pytest.approx(steps_mm, abs=1e-3))
        image = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == PSEUDONYMS.uid_of_key(record.sop_uid_keys[20])
        centre = np.array([columns.mean(), rows.mean()]) - 0.5
        assert centre * (0.7, 0.8) + (-30, -25) == pytest.approx(HERE[:2], abs=0.01)
    assert lengths == {"Long axis": (8.0, 8.0), "Short axis": (8.0, 8.0)}


def test_annotate_reads_one_nodule_a_finding_by_segments_by_report_and_by_both(
    files: dict[str, Path], record: SeriesRecord
) -> None:
    for names, place in ((["seg.dcm"], "dicom-seg"), (["sr.dcm"], "dicom-sr"), (["seg.dcm", "sr.dcm"], "dicom-seg")):
        marks = read_annotation_files([files[name] for name in names], place).marks
        table, refused = match_annotations(marks, [record], PSEUDONYMS)
        assert refused == []
        table = table.sort_values("x_mm").reset_index(drop=True)
        assert len(table) == (1 if names == ["seg.dcm"] else 2)
        tolerance_mm = 0.3 if "seg.dcm" in names else 1.1
        assert table.loc[0, ["x_mm", "y_mm", "z_mm"]].to_list() == pytest.approx(HERE.tolist(), abs=tolerance_mm)
        if "sr.dcm" in names:
            assert table["diameter_mm"].to_list() == [8.0, 5.0]
            assert table.loc[0, "texture"] == 3, "as it was measured, not as the network reads it"
            assert table["malignancy"].isna().all(), "what a model thinks is no reader's rating"
            assert table.loc[1, ["x_mm", "y_mm", "z_mm"]].to_list() == pytest.approx(THERE.tolist(), abs=1.1)


def test_the_pdf_comes_out_as_it_went_in(files: dict[str, Path], pdf: bytes) -> None:
    assert pdf_of(pydicom.dcmread(files["report.dcm"])) == pdf
    assert pdf_of(pydicom.dcmread(files["report.dcm"])).rstrip().endswith(b"%%EOF")


def test_a_key_image_has_its_side_its_scale_and_its_warning(files: dict[str, Path], pictures: dict[str, bytes]) -> None:
    left, unknown = (pydicom.dcmread(files[f"key-{number:08x}-axial-lung.dcm"]) for number in (1, 2))
    assert (left.ImageLaterality, unknown.ImageLaterality) == ("L", "U")
    assert "Laterality" not in left
    assert [float(step) for step in left.PixelSpacing] == pytest.approx([60 / 360, 60 / 360])
    assert left.ImageComments == "Not for diagnostic use"
    pixels = left.pixel_array
    assert pixels.shape == (360, 360, 3)
    assert pixels[5:20, 200:].max() > 200, "the warning stands in the upper right corner"
    few = ReviewParams(dicom_key_images=1)
    record = record_of()
    both = review_of(record, finding(1, record, HERE, 4.0), finding(2, record, THERE, 2.5))
    names = made_of(both, [record], {}, pictures, params=few).objects
    assert sorted(name for name in names if name.startswith("key-")) == [
        f"key-{1:08x}-axial-{window}.dcm" for window in ("lung", "mediastinal")
    ]


def _read_back(ds: Dataset, number: int, record: SeriesRecord, shape: tuple[int, int, int]) -> np.ndarray:
    """A segment on the grid of the images, by highdicom and the references of its frames."""
    seg = hd.seg.Segmentation.from_dataset(ds)
    uids = [PSEUDONYMS.uid_of_key(key) for key in record.sop_uid_keys]
    whole = np.zeros(shape, dtype=bool)
    pixels = seg.pixel_array.reshape(-1, *shape[1:])
    for group, plane in zip(ds.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            (image,) = group.DerivationImageSequence[0].SourceImageSequence
            k = int(image.get("ReferencedFrameNumber", 0)) - 1
            k = k if k >= 0 else uids.index(image.ReferencedSOPInstanceUID)
            origin = np.array(record.slice_affine_lps or record.affine_lps) @ [k, 0, 0, 1]
            assert np.allclose(group.PlanePositionSequence[0].ImagePositionPatient, origin[:3], atol=1e-4)
            whole[k] = plane.astype(bool)
    return whole


#: from head to feet, columns from the patient's left
FLIPPED = np.array([[0, 0, -0.7, 26.0], [0, 0.8, 0, -25.0], [-2.0, 0, 0, 20.0], [0, 0, 0, 1]])
GRIDS = {
    "upright": (UPRIGHT, SHAPE, {}),
    "rows that do not fill bytes": (UPRIGHT, (40, 63, 79), {}),
    "tilted": (TILTED, SHAPE, {}),
    "flipped": (
        UPRIGHT @ np.diag([-1.0, 1, -1, 1]) + np.array([[0, 0, 0, 56.0], [0] * 4, [0, 0, 0, 80.0], [0] * 4]),
        SHAPE,
        {},
    ),
    "one object of many frames": (
        UPRIGHT,
        SHAPE,
        {"sop_uid_keys": (PSEUDONYMS.uid_key("1.2.3"),) * 40, "frame_numbers": tuple(range(1, 41))}
        | {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2.1"},
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_segment_read_back_is_the_mask_on_any_grid(name: str, tmp_path: Path) -> None:
    affine, shape, values = GRIDS[name]
    record = record_of(affine, shape, **values)
    # two of them overlap, one is cut by the rim of the volume
    rim = (affine @ [3.0, shape[1] - 2.0, 1.0, 1.0])[:3]
    places = {1: (HERE, 4.0), 2: (HERE + 3.0, 3.0), 3: (rim, 3.0)}
    review = review_of(record, *(finding(number, record, *place) for number, place in places.items()))
    outlines = {f"{number:08x}": ball(*place) for number, place in places.items()}
    made = made_of(review, [record], outlines)
    (path, report) = saved(made.objects, tmp_path)
    assert verified(path) == verified(report) == []
    ds = pydicom.dcmread(path)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for number, (center, radius_mm) in places.items():
        positions = grid @ affine[:3, :3].T + affine[:3, 3]
        distance_mm = np.linalg.norm(positions - center, axis=-1)
        mask = _read_back(ds, number, record, shape)
        assert not mask[distance_mm > radius_mm + 0.5].any()
        assert mask[distance_mm < radius_mm - 0.5].all()
        series = pseudonymous_study([record], PSEUDONYMS).series[0]
        expected = mask_on_images(outlines[f"{number:08x}"], series)
        assert expected is not None
        assert np.array_equal(
            mask[mask.any(axis=(1, 2))], np.stack([expected.plane(k, shape[1:]) for k in expected.slices()])
        )
    marks = read_annotation_files([path], "dicom-seg").marks
    table, refused = match_annotations(marks, [record], PSEUDONYMS)
    assert (len(table), refused) == (3, [])


def test_a_volume_that_was_resampled_from_tilted_images_is_segmented_on_the_images() -> None:
    record = record_of(
        UPRIGHT, (40, 128, 80), slice_affine_lps=tuple(map(tuple, TILTED.tolist())), slice_shape=(64, 80)
    )
    review = review_of(record, finding(1, record, HERE, 4.0))
    ds = made_of(review, [record], {f"{1:08x}": ball(HERE, 4.0)}).objects["seg.dcm"]
    assert (ds.Rows, ds.Columns) == (64, 80)
    mask = _read_back(ds, 1, record, SHAPE)
    positions = np.argwhere(mask) @ TILTED[:3, :3].T + TILTED[:3, 3]
    assert positions.mean(axis=0) == pytest.approx(HERE, abs=0.3)


def test_images_of_unknown_size_or_without_right_angles_are_refused_in_words() -> None:
    outlines = {f"{1:08x}": ball(HERE, 4.0)}
    tilted = record_of(UPRIGHT, slice_affine_lps=tuple(map(tuple, TILTED.tolist())))
    made = made_of(review_of(tilted, finding(1, tilted, HERE, 4.0)), [tilted], outlines)
    assert made.objects == {}
    assert "ingest its source again" in made.problems[0]
    sheared = UPRIGHT.copy()
    sheared[0, 1] = 0.2
    record = record_of(sheared)
    made = made_of(review_of(record, finding(1, record, HERE, 4.0)), [record], outlines, pdf=b"%PDF-1.4\n%%EOF")
    assert "right angles" in made.problems[0]
    assert list(made.objects) == ["report.dcm"], "the report itself needs no image to draw on"


def test_a_slice_that_was_interpolated_refers_to_its_neighbours_and_no_line_is_drawn_on_it() -> None:
    whole = record_of()
    keys = list(whole.sop_uid_keys)
    keys[20] = ""
    record = record_of(sop_uid_keys=tuple(keys))
    made = made_of(review_of(record, finding(1, record, HERE, 4.0)), [record], {f"{1:08x}": ball(HERE, 4.0)})
    frames = made.objects["seg.dcm"].PerFrameFunctionalGroupsSequence
    numbers = [len(frame.DerivationImageSequence[0].SourceImageSequence) for frame in frames]
    assert sorted(numbers)[-2:] == [1, 2]
    drawn = made.objects["sr.dcm"].to_json()
    assert PSEUDONYMS.uid_of_key(keys[19]) in drawn or PSEUDONYMS.uid_of_key(keys[21]) in drawn


def test_a_nodule_between_thick_slices_has_a_voxel_and_one_of_60_mm_all_of_its_own(tmp_path: Path) -> None:
    thick = UPRIGHT.copy()
    thick[2, 0] = 5.0
    record = record_of(thick, (30, 100, 100))
    small, large = thick @ [12.5, 20.0, 20.0, 1.0], thick @ [15.0, 55.0, 55.0, 1.0]
    review = review_of(record, finding(1, record, small[:3], 1.5), finding(2, record, large[:3], 30.0))
    outlines = {f"{1:08x}": ball(small[:3], 1.5), f"{2:08x}": ball(large[:3], 30.0, 1.0)}
    made = made_of(review, [record], outlines)
    assert [verified(path) for path in saved(made.objects, tmp_path)] == [[], []]
    ds = made.objects["seg.dcm"]
    tiny, huge = (_read_back(ds, number, record, record.shape_kji) for number in (1, 2))
    assert 1 <= tiny.sum() <= 20
    assert huge.sum() * 5 * 0.8 * 0.7 == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.03)


@pytest.mark.slow
def test_a_study_of_200_findings_is_written_in_seconds_and_valid(tmp_path: Path) -> None:
    record = record_of(UPRIGHT, (120, 256, 256))
    rng = np.random.default_rng(0)
    indices = rng.uniform((5, 20, 20), (115, 236, 236), (200, 3))
    centers = indices @ UPRIGHT[:3, :3].T + UPRIGHT[:3, 3]
    review = review_of(record, *(finding(n, record, center, 3.0) for n, center in enumerate(centers)))
    outlines = {f"{n:08x}": ball(center, 3.0) for n, center in enumerate(centers)}
    began = time.process_time()
    made = made_of(review, [record], outlines)
    assert time.process_time() - began < 30
    paths = saved(made.objects, tmp_path)
    assert [verified(path) for path in paths] == [[], []]
    assert len(pydicom.dcmread(paths[0]).SegmentSequence) == 200
    marks = read_annotation_files(paths, "dicom-sr").marks
    table, refused = match_annotations(marks, [record], PSEUDONYMS)
    assert (len(table), refused) == (200, [])


def test_a_mark_at_the_rim_of_the_image_is_drawn_as_far_as_the_image_goes(tmp_path: Path) -> None:
    record = record_of()
    rim = (UPRIGHT @ [0.0, 30.0, 0.0, 1.0])[:3]
    made = made_of(review_of(record, finding(1, record, rim, 3.0, measurement=unmeasured())), [record], {})
    (path,) = saved(made.objects, tmp_path)
    assert verified(path) == []
    (group,) = hd.sr.Comprehensive3DSR.from_dataset(pydicom.dcmread(path)).content.get_planar_roi_measurement_groups()
    points = np.array(group.roi.value)
    assert points.min() >= 0
    assert np.allclose(points[0], points[-1])
    (measurement,) = [item for item in group.get_measurements() if item.name.meaning == "Diameter"]
    assert measurement.value == 5.0


def test_two_series_have_a_segmentation_each_and_one_report(tmp_path: Path) -> None:
    one, two = record_of(number=1), record_of(number=2)
    review = review_of(one, finding(1, one, HERE, 4.0), finding(2, two, THERE, 4.0))
    made = made_of(review, [one, two], {f"{1:08x}": ball(HERE, 4.0), f"{2:08x}": ball(THERE, 4.0)})
    assert sorted(made.objects) == ["seg-2.dcm", "seg.dcm", "sr.dcm"]
    assert all(verified(path) == [] for path in saved(made.objects, tmp_path))
    uids = {str(made.objects[name].SOPInstanceUID) for name in ("seg.dcm", "seg-2.dcm")}
    text = made.objects["sr.dcm"].to_json()
    assert all(uid in text for uid in uids)


def test_images_without_a_frame_of_reference_are_segmented_in_one_of_their_own(tmp_path: Path) -> None:
    record = record_of(frame_of_reference_key="")
    made = made_of(review_of(record, finding(1, record, HERE, 4.0)), [record], {f"{1:08x}": ball(HERE, 4.0)})
    assert [verified(path) for path in saved(made.objects, tmp_path)] == [[], []]
    assert str(made.objects["seg.dcm"].FrameOfReferenceUID).startswith("2.25.")
