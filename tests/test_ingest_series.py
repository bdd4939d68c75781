"""A sound series becomes a volume and a record; nothing of the patient passes the door."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import (
    BIRTH_DATE,
    INSTITUTION,
    NAME,
    PHYSICIAN,
    STUDY_DATE,
    body_hu,
    set_stored,
    slices_of,
    stored_of,
    truth_of,
    write_series,
)
from pydicom.dataset import Dataset

from data_contracts.errors import WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from data_contracts.volume import PADDING_HU
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake import store
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

PATIENT = "PAT-GEHEIM-77"


def ingest(
    source: Path, workspace: Path, *, keep: bool = False, secret: bytes = b"secret", **params: object
) -> list[SeriesRecord | Rejection]:
    policy, pseudonymizer = IngestParams.from_mapping(dict(params)), Pseudonymizer(secret, keep)
    discovery = discover(source, pseudonymizer, policy, workspace / "scratch")
    outcomes = [
        item
        for raw in discovery.series
        for item in ingest_series(raw, pseudonymizer, policy, workspace / "series", "site-a")
    ]
    return [*discovery.rejections, *outcomes]


def ingest_one(source: Path, workspace: Path, **options: object) -> SeriesRecord:
    (outcome,) = ingest(source, workspace, **options)  # type: ignore[arg-type]
    assert isinstance(outcome, SeriesRecord), outcome.detail
    return outcome


def refusal(source: Path, workspace: Path, **options: object) -> Rejection:
    (outcome,) = ingest(source, workspace, **options)  # type: ignore[arg-type]
    assert isinstance(outcome, Rejection)
    return outcome


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / NAME / "CT 2019"
    datasets = slices_of(truth_of(), PATIENT)
    for ds in datasets:
        ds.ConvolutionKernel, ds.ManufacturerModelName = "SOFT", f"Scanner of {PATIENT}"
    write_series(folder, datasets)
    return folder.parent.parent


def changed(folder: Path, change: object, truth: object = None) -> Path:
    datasets = slices_of(truth_of() if truth is None else truth, PATIENT)  # type: ignore[arg-type]
    for number, ds in enumerate(datasets):
        change(number, ds)  # type: ignore[operator]
    write_series(folder, datasets)
    return folder


def test_a_series_becomes_a_volume_and_a_record_that_agree(sound: Path, tmp_path: Path) -> None:
    record = ingest_one(sound, tmp_path)
    volume = read_nifti(tmp_path / record.volume_path)
    assert record.volume_path == f"series/{record.series_key}/volume.nii"
    assert record == SeriesRecord.read(tmp_path / "series" / record.series_key / "series.json")
    assert np.array_equal(volume.affine, np.array(record.affine_lps))
    assert volume.shape_kji == record.shape_kji == truth_of().hu.shape
    assert np.array_equal(volume.hu, truth_of().hu)
    assert np.allclose(record.spacing_kji_mm, (2.0, 0.7, 0.7))
    assert (record.site, record.kernel, record.manufacturer) == ("site-a", "SOFT", "FACTORY")
    assert (record.patient_sex, record.patient_age_years, record.kvp) == ("F", 71, 120)
    assert record.findings == ()


def test_the_numbers_by_which_a_scanner_counts_lead_back_to_its_images(sound: Path, tmp_path: Path) -> None:
    record = ingest_one(sound, tmp_path)
    assert record.series_number == 3
    counted = {
        ds.InstanceNumber: float(ds.ImagePositionPatient[2]) for ds in map(pydicom.dcmread, sound.rglob("*.dcm"))
    }
    heights = [record.affine_lps[2][0] * k + record.affine_lps[2][3] for k in range(record.n_slices)]
    assert [counted[number] for number in record.instance_numbers] == pytest.approx(heights, abs=1e-3)


def test_nothing_that_names_the_patient_is_in_the_workspace(sound: Path, tmp_path: Path) -> None:
    (sound / NAME / "CT 2019" / f"{PATIENT}.txt").write_text("report")
    outcomes = ingest(sound, tmp_path)
    headers = slices_of(truth_of(), PATIENT)[0]
    words = [*NAME.split("^"), BIRTH_DATE, INSTITUTION, PHYSICIAN, PATIENT, STUDY_DATE, "4711", "CT 2019"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = json.dumps([item.row() for item in outcomes], default=str).encode()
    for word in words:
        assert word.encode() not in written + told, word
    assert str(headers.SOPInstanceUID)[:20].encode() not in written + told
    assert all(not any(word in str(path) for word in words) for path in tmp_path.rglob("*"))
    (sound / NAME / "CT 2019" / f"{PATIENT}.txt").unlink()


def test_a_discovered_series_does_not_show_the_patient_when_it_is_printed(sound: Path, tmp_path: Path) -> None:
    pseudonymizer = Pseudonymizer(b"secret")
    discovery = discover(sound, pseudonymizer, IngestParams(), tmp_path)
    text = repr(discovery) + repr(discovery.series[0].slices[0])
    assert not any(word in text for word in [*NAME.split("^"), PATIENT, INSTITUTION, STUDY_DATE])


def test_identity_is_beside_the_same_keys_where_the_site_keeps_it(sound: Path, tmp_path: Path) -> None:
    hidden = ingest_one(sound, tmp_path / "a")
    kept = ingest_one(sound, tmp_path / "b", keep=True)
    assert hidden.identity is None
    assert kept.identity is not None
    assert kept.identity.patient_id == PATIENT
    assert (kept.series_key, kept.patient_key) == (hidden.series_key, hidden.patient_key)
    assert kept.source_path == f"{NAME}/CT 2019"


def test_the_same_input_has_the_same_keys_and_another_secret_has_others(sound: Path, tmp_path: Path) -> None:
    first, again = ingest_one(sound, tmp_path / "a"), ingest_one(sound, tmp_path / "b")
    other = ingest_one(sound, tmp_path / "c", secret=b"other")
    assert first == again
    assert not {first.series_key, first.patient_key, first.study_key} & {
        other.series_key,
        other.patient_key,
        other.study_key,
    }


def test_a_second_ingest_leaves_the_stored_series_alone(sound: Path, tmp_path: Path) -> None:
    record = ingest_one(sound, tmp_path)
    before = (tmp_path / record.volume_path).stat().st_mtime_ns
    assert ingest_one(sound, tmp_path) == record
    assert (tmp_path / record.volume_path).stat().st_mtime_ns == before


def test_a_stored_series_that_lost_its_volume_is_written_again(sound: Path, tmp_path: Path) -> None:
    record = ingest_one(sound, tmp_path)
    (tmp_path / record.volume_path).unlink()
    assert ingest_one(sound, tmp_path) == record
    assert read_nifti(tmp_path / record.volume_path).shape_kji == record.shape_kji
    assert [path.name for path in (tmp_path / "series").iterdir()] == [record.series_key]


def _ingest_in_process(source: Path, workspace: Path) -> None:
    ingest_one(source, workspace)


def test_two_processes_that_ingest_the_same_series_lose_nothing(sound: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_ingest_in_process, args=(sound, tmp_path)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    (folder,) = (tmp_path / "series").iterdir()
    assert SeriesRecord.read(folder / "series.json").series_key == folder.name


def test_a_full_disk_is_a_reason_and_leaves_nothing_behind(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_nifti", full)
    assert refusal(sound, tmp_path).reason is ReasonCode.LOW_DISK_SPACE
    assert list((tmp_path / "series").iterdir()) == []


def test_a_workspace_that_cannot_be_written_is_one_clear_error(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "series").write_text("a file where the folder should be")
    with pytest.raises(WorkspaceError):
        ingest(sound, tmp_path)


def test_a_compressed_volume_is_the_same_bytes_each_time(sound: Path, tmp_path: Path) -> None:
    first, second = ingest_one(sound, tmp_path / "a", compress=True), ingest_one(sound, tmp_path / "b", compress=True)
    assert first.volume_path.endswith("volume.nii.gz")
    assert (tmp_path / "a" / first.volume_path).read_bytes() == (tmp_path / "b" / second.volume_path).read_bytes()


def test_fields_below_any_real_value_become_the_stated_value_and_air_stays(tmp_path: Path) -> None:
    truth = truth_of()
    truth.hu[:, :4] = -2048
    truth.hu[:, 4:6] = -3024
    record = ingest_one(changed(tmp_path / "in", lambda *_: None, truth), tmp_path)
    hu = read_nifti(tmp_path / record.volume_path).hu
    assert np.all(hu[:, :6] == PADDING_HU)
    assert np.array_equal(hu[:, 6:], truth.hu[:, 6:])
    assert record.padding_hu == PADDING_HU
    assert record.padding_voxels == truth.hu[:, :6].size
    assert [finding.code for finding in record.findings] == [ReasonCode.PADDING_REPLACED]


def test_a_padding_value_that_could_be_tissue_counts_at_the_rim_only(tmp_path: Path) -> None:
    truth = truth_of()
    truth.hu[:, 20:24, 18:22] = 0
    truth.hu[:, :3] = 0

    def pad(_: int, ds: Dataset) -> None:
        ds.add_new(0x00280120, "SS", 1024)

    record = ingest_one(changed(tmp_path / "in", pad, truth), tmp_path)
    hu = read_nifti(tmp_path / record.volume_path).hu
    assert np.all(hu[:, 20:24, 18:22] == 0)
    assert np.all(hu[:, :3] == PADDING_HU)


def test_a_padding_range_is_padding_from_end_to_end(tmp_path: Path) -> None:
    truth = truth_of()
    truth.hu[:, :2], truth.hu[:, 2:4] = -1400, -1350

    def pad(_: int, ds: Dataset) -> None:
        ds.add_new(0x00280120, "SS", -376)
        ds.add_new(0x00280121, "SS", -300)

    record = ingest_one(changed(tmp_path / "in", pad, truth), tmp_path)
    assert np.all(read_nifti(tmp_path / record.volume_path).hu[:, :4] == PADDING_HU)


def test_rescale_with_fractions_is_rounded_to_the_nearest_hu(tmp_path: Path) -> None:
    def slope(_: int, ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = "0.5", "-1024.25"
        set_stored(ds, stored_of(ds) * 2)

    record = ingest_one(changed(tmp_path / "in", slope), tmp_path)
    assert np.array_equal(read_nifti(tmp_path / record.volume_path).hu, np.rint(truth_of().hu - 0.25))


def test_values_beyond_int16_are_clipped_and_counted(tmp_path: Path) -> None:
    def steep(_: int, ds: Dataset) -> None:
        values = np.rint(stored_of(ds) / 1.5).astype(np.int32)
        values[20, 20] = 32767
        ds.RescaleIntercept = -1024
        ds.RescaleSlope = 1.5
        set_stored(ds, values)

    record = ingest_one(changed(tmp_path / "in", steep), tmp_path)
    assert [finding.code for finding in record.findings] == [ReasonCode.HU_OUT_OF_RANGE]
    assert "24 voxels" in record.findings[0].detail


@pytest.mark.parametrize(("shift", "what"), [(1024, "forgotten"), (-1024, "twice")])
def test_a_whole_volume_on_another_scale_is_refused(tmp_path: Path, shift: int, what: str) -> None:
    def off(_: int, ds: Dataset) -> None:
        ds.RescaleIntercept = -1024 + shift

    assert refusal(changed(tmp_path / what, off), tmp_path).reason is ReasonCode.IMPLAUSIBLE_HU


def test_one_slice_without_an_intercept_is_refused_even_at_the_end(tmp_path: Path) -> None:
    def off(number: int, ds: Dataset) -> None:
        ds.RescaleIntercept = 0 if number == 23 else -1024

    outcome = refusal(changed(tmp_path / "in", off), tmp_path)
    assert outcome.reason is ReasonCode.IMPLAUSIBLE_HU
    assert "slice 24" in outcome.detail


def test_a_series_that_leaves_the_body_is_no_jump(tmp_path: Path) -> None:
    truth = truth_of()
    truth.hu[18:] = np.random.default_rng(0).normal(-1000, 10, truth.hu[18:].shape).astype(np.int16)
    record = ingest_one(changed(tmp_path / "in", lambda *_: None, truth), tmp_path)
    assert record.n_slices == len(truth.hu)
    assert ReasonCode.IMPLAUSIBLE_HU not in [finding.code for finding in record.findings]


def test_lossy_pixels_are_flagged_or_refused_as_the_policy_says(tmp_path: Path) -> None:
    def lossy(_: int, ds: Dataset) -> None:
        ds.LossyImageCompression = "01"

    source = changed(tmp_path / "in", lossy)
    assert [f.code for f in ingest_one(source, tmp_path).findings] == [ReasonCode.LOSSY_COMPRESSION]
    assert refusal(source, tmp_path, lossy="refuse").reason is ReasonCode.LOSSY_COMPRESSION


@pytest.mark.parametrize(
    ("word", "value", "reason"),
    [
        ("Modality", "PT", ReasonCode.NOT_CT),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", ReasonCode.DERIVED_IMAGE),
        ("ImageType", ["DERIVED", "SECONDARY", "MIP"], ReasonCode.DERIVED_IMAGE),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], ReasonCode.LOCALIZER),
        ("BurnedInAnnotation", "YES", ReasonCode.BURNED_IN_ANNOTATION),
        ("RescaleSlope", 0, ReasonCode.NO_RESCALE),
        ("PixelSpacing", [0, 0], ReasonCode.MISSING_GEOMETRY),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], ReasonCode.MISSING_GEOMETRY),
    ],
)
def test_what_is_not_a_ct_volume_is_refused_by_its_name(
    tmp_path: Path, word: str, value: object, reason: ReasonCode
) -> None:
    source = changed(tmp_path / "in", lambda _, ds: setattr(ds, word, value))
    outcome = refusal(source, tmp_path)
    assert outcome.reason is reason
    assert len(outcome.sop_instance_uids) == 24


_PET, _SR, _STRUCT, _STATE, _DOSE, _CAPTURE, _PDF = (
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.11.1",
    "1.2.840.10008.5.1.4.1.1.88.67",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.104.1",
)


@pytest.mark.parametrize(
    ("sop_class", "modality", "has_pixels", "reason", "name"),
    [
        (_PET, "PT", True, ReasonCode.NOT_CT, "Positron Emission Tomography"),
        (_SR, "SR", False, ReasonCode.NOT_AN_IMAGE, "Comprehensive SR"),
        (_DOSE, "SR", False, ReasonCode.NOT_AN_IMAGE, "X-Ray Radiation Dose SR"),
        (_STRUCT, "RTSTRUCT", False, ReasonCode.NOT_AN_IMAGE, "RT Structure Set"),
        (_STATE, "PR", False, ReasonCode.NOT_AN_IMAGE, "Presentation State"),
        (_PDF, "DOC", False, ReasonCode.NOT_AN_IMAGE, "Encapsulated PDF"),
        (_CAPTURE, "CT", True, ReasonCode.DERIVED_IMAGE, "Secondary Capture"),
    ],
)
def test_other_objects_of_the_study_are_listed_by_what_they_are(
    tmp_path: Path, sop_class: str, modality: str, has_pixels: bool, reason: ReasonCode, name: str
) -> None:
    datasets = slices_of(truth_of(), PATIENT)
    for own_series in (True, False):
        other = slices_of(truth_of(), PATIENT, study=datasets[0].StudyInstanceUID)[0]
        other.SOPClassUID, other.Modality = sop_class, modality
        if not own_series:
            other.SeriesInstanceUID = datasets[0].SeriesInstanceUID
        if not has_pixels:
            for word in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
                delattr(other, word)
        datasets.append(other)
    write_series(tmp_path / "in", datasets)
    outcomes = ingest(tmp_path / "in", tmp_path)
    (record,) = [item for item in outcomes if isinstance(item, SeriesRecord)]
    listed = [item for item in outcomes if isinstance(item, Rejection)]
    assert [item.reason for item in listed] == [reason, reason]
    assert all(name in item.detail for item in listed), listed
    # what lay in the series of the volume points to it
    assert sorted(item.series_key for item in listed) == ["", record.series_key]


def test_findings_name_their_slices_in_the_form_that_identity_has(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), PATIENT)
    datasets[6].LossyImageCompression = "01"
    datasets[6].LossyImageCompressionMethod, datasets[6].LossyImageCompressionRatio = "ISO_14495_1", "7.5"
    write_series(tmp_path / "in", datasets)
    uid = str(datasets[6].SOPInstanceUID)
    for keep in (False, True, False):
        record = ingest_one(tmp_path / "in", tmp_path, keep=keep)
        (finding,) = record.findings
        assert finding.detail == "1 of 24 slices are compressed with loss, by ISO_14495_1, at most 7.5 : 1"
        assert (finding.sop_instance_uids == (uid,)) == keep
        assert record == SeriesRecord.read(tmp_path / "series" / record.series_key / "series.json")
        assert record.row()["finding_sop_instance_uids"] == [list(finding.sop_instance_uids)]


def test_a_series_beside_unreadable_files_says_so(tmp_path: Path, sound: Path) -> None:
    pseudonymizer, params = Pseudonymizer(b"secret"), IngestParams()
    (raw,) = discover(sound, pseudonymizer, params, tmp_path / "scratch").series
    (record,) = ingest_series(replace(raw, unreadable_beside=2), pseudonymizer, params, tmp_path / "series", "a")
    assert isinstance(record, SeriesRecord)
    (finding,) = record.findings
    assert finding.code is ReasonCode.INCOMPLETE_SOURCE
    assert finding.detail == "2 DICOM file(s) of the folder cannot be read"


def test_a_header_that_names_the_wrong_transfer_syntax_is_a_finding(tmp_path: Path, sound: Path) -> None:
    shutil.copytree(sound, tmp_path / "in")
    path = next((tmp_path / "in").rglob("007.dcm"))
    content = path.read_bytes()
    assert content.count(b"1.2.840.10008.1.2.1\0") == 1
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"))
    record = ingest_one(tmp_path / "in", tmp_path)
    (finding,) = record.findings
    assert finding.code is ReasonCode.WRONG_TRANSFER_SYNTAX
    assert finding.detail.startswith("1 of 24 slices: said Implicit VR Little Endian")
    assert len(finding.sop_instance_uids) == 1


def test_text_in_the_pixels_is_refused_or_flagged_as_the_policy_says(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), PATIENT)
    datasets[3].BurnedInAnnotation = "YES"
    write_series(tmp_path / "in", datasets)
    refused = refusal(tmp_path / "in", tmp_path)
    assert refused.reason is ReasonCode.BURNED_IN_ANNOTATION
    assert refused.detail.startswith("1 of 24 slices")
    assert len(refused.sop_instance_uids) == 1
    # the whole plane may hold text: there is no region to blank
    assert refusal(tmp_path / "in", tmp_path, burned_in="blank").reason is ReasonCode.BURNED_IN_ANNOTATION
    (finding,) = ingest_one(tmp_path / "in", tmp_path, burned_in="flag").findings
    assert finding.code is ReasonCode.BURNED_IN_ANNOTATION
    assert len(finding.sop_instance_uids) == 1


def test_known_regions_of_text_are_blanked_where_the_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.deidentify.burned_in import BurnedInAction, Rectangle
    from pipeline.intake import triage

    action = BurnedInAction("blank", (Rectangle(0, 0, 40, 6),), "1 region(s) blanked")
    monkeypatch.setattr(triage, "burned_in_action", lambda *_: action)
    source = changed(tmp_path / "in", lambda *_: None)
    record = ingest_one(source, tmp_path, burned_in="blank")
    hu = read_nifti(tmp_path / record.volume_path).hu
    assert np.all(hu[:, :6] == PADDING_HU)
    assert np.array_equal(hu[:, 6:], truth_of().hu[:, 6:])
    assert record.padding_voxels == hu[:, :6].size
    assert {finding.code for finding in record.findings} == {
        ReasonCode.BURNED_IN_BLANKED,
        ReasonCode.PADDING_REPLACED,
    }


def test_two_patients_under_one_series_uid_are_two_series(tmp_path: Path) -> None:
    one = slices_of(truth_of(), "one")
    two = slices_of(truth_of(body_hu(seed=4)), "two", study=one[0].StudyInstanceUID, series=one[0].SeriesInstanceUID)
    write_series(tmp_path / "in", [*one, *two])
    records = ingest(tmp_path / "in", tmp_path)
    assert len({record.patient_key for record in records if isinstance(record, SeriesRecord)}) == 2


def test_patients_without_an_id_are_told_apart_by_their_study(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name, slices_of(truth_of(body_hu(seed=ord(name))), ""))
    records = ingest(tmp_path / "in", tmp_path)
    assert len({record.patient_key for record in records if isinstance(record, SeriesRecord)}) == 2


def test_a_single_image_across_the_others_is_a_localizer_even_unsaid(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), PATIENT)
    scout = slices_of(truth_of(), PATIENT)[0]
    scout.SeriesInstanceUID, scout.StudyInstanceUID = datasets[0].SeriesInstanceUID, datasets[0].StudyInstanceUID
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    write_series(tmp_path / "in", [*datasets, scout])
    outcomes = ingest(tmp_path / "in", tmp_path)
    assert sorted(type(item).__name__ for item in outcomes) == ["Rejection", "SeriesRecord"]


def test_a_file_cut_in_its_header_refuses_its_series(tmp_path: Path, sound: Path) -> None:
    shutil.copytree(sound, tmp_path / "in")
    last = next((tmp_path / "in").rglob("023.dcm"))
    content = last.read_bytes()
    last.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00")])
    assert refusal(tmp_path / "in", tmp_path).reason is ReasonCode.PIXEL_DECODE_FAILED


def test_an_error_of_our_own_ends_one_series_and_tells_no_value(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError(f"with {NAME}")

    monkeypatch.setattr("pipeline.intake.ingest_series.make_parts", fail)
    outcome = refusal(sound, tmp_path)
    assert (outcome.reason, outcome.detail) == (ReasonCode.INTERNAL_ERROR, "ZeroDivisionError")
