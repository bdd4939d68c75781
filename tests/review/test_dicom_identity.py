"""Results go home under the true UIDs for a holder of the key, and no string of anyone's making breaks them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from results_factory import (
    PATIENT_ID,
    PATIENT_KEY,
    PSEUDONYMS,
    STUDY_UID,
    ball,
    finding,
    record_of,
    review_of,
    saved,
    verified,
)

from data_contracts.errors import NothingUsableError
from data_contracts.params import ReviewParams
from pipeline.deidentify.vault import PatientIdentity, StudyIdentity
from pipeline.review.dicom.home import with_identity
from pipeline.review.dicom.maker import uid_elements
from pipeline.review.dicom.objects import study_objects
from pipeline.review.dicom.report_values import method_of, method_words
from pipeline.review.dicom.source import pseudonymous_study
from pipeline.review.dicom.text import valid_name, valid_text
from pipeline.review.measure import FALLBACK, OUTLINED
from pipeline.review.pdf import render_study_pdf

HERE = np.array([-5.0, 2.0, -20.0])
RECORD = record_of()
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
HOSTILE = [
    "<script>alert(1)</script>",
    "A" * 65536,
    "‮evil^name‬ عربى",
    JAPANESE,
    "line\r\nbreak\\back\x00slash\x1b$B\t\x7f",
    "^^^^^^^^====",
    "\ud800 lone surrogate",
    "",
]


def identity(name: str = "Zwetschge^Ottilie", patient_id: str = PATIENT_ID, **header: str) -> StudyIdentity:
    uids = [f"{STUDY_UID}.1.{k}" for k in range(len(RECORD.sop_uid_keys))]
    patient = PatientIdentity(
        patient_id=patient_id, patient_name=name, issuer="KLINIK", shift_days=PSEUDONYMS.shift_days(PATIENT_KEY)
    )
    return StudyIdentity(
        study_key=RECORD.study_key,
        study_instance_uid=STUDY_UID,
        accession_numbers=("ACC4711",),
        patients={PATIENT_KEY: patient},
        series={RECORD.series_uid_key: f"{STUDY_UID}.1"},
        instances={PSEUDONYMS.uid_key(uid): uid for uid in uids},
        frames={RECORD.frame_of_reference_key: f"{STUDY_UID}.9"},
        header=header,
    )


def objects(key_images: dict[str, bytes], **values: object) -> dict[str, Dataset]:
    review = review_of(RECORD, finding(1, RECORD, HERE, 4.0), **values)
    pictures = {name.replace("key-f1-", f"key-{1:08x}-"): png for name, png in key_images.items()}
    study = pseudonymous_study([RECORD], PSEUDONYMS)
    pdf = render_study_pdf(review, {})
    sides_mm = {f"{1:08x}": 60.0}
    return study_objects(
        review, {f"{1:08x}": ball(HERE, 4.0)}, pictures, sides_mm, pdf, study, "1", ReviewParams()
    ).objects


@pytest.fixture(scope="module")
def pseudonymous(key_images: dict[str, bytes]) -> dict[str, Dataset]:
    return objects(key_images)


def test_with_the_key_results_refer_to_the_true_images_and_name_the_patient(
    pseudonymous: dict[str, Dataset], tmp_path: Path
) -> None:
    header = {"PatientBirthDate": "19480229", "StudyDate": "20190731", "StudyTime": "101500", "StudyID": "4711"}
    named = with_identity(pseudonymous, identity(**header, ReferringPhysicianName="Quacksalber^Egon"), PSEUDONYMS)
    assert set(named) == set(pseudonymous)
    for ds in named.values():
        assert (ds.StudyInstanceUID, ds.PatientID, str(ds.PatientName)) == (STUDY_UID, PATIENT_ID, "Zwetschge^Ottilie")
        assert (ds.StudyDate, ds.PatientBirthDate, ds.StudyID) == ("20190731", "19480229", "4711")
        assert (ds.AccessionNumber, str(ds.ReferringPhysicianName)) == ("ACC4711", "Quacksalber^Egon")
        assert "PatientIdentityRemoved" not in ds
        assert "LongitudinalTemporalInformationModified" not in ds
        assert ds.ContentDate == "20261121" if "ContentDate" in ds and ds.ContentDate else True
    texts = {name: ds.to_json() for name, ds in named.items()}
    pseudonyms = [PSEUDONYMS.uid_of_key(key) for key in (*RECORD.sop_uid_keys, RECORD.series_uid_key, RECORD.study_key)]
    assert not any(uid in text for uid in pseudonyms for text in texts.values())
    assert not any(PATIENT_KEY in text for text in texts.values())
    seg, report = named["seg.dcm"], texts["sr.dcm"]
    assert seg.FrameOfReferenceUID == f"{STUDY_UID}.9"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{STUDY_UID}.1"
    assert seg.SOPInstanceUID in report, "the report refers to the segmentation that goes with it"
    assert f"{STUDY_UID}.1.20" in report
    assert {path.name: verified(path) for path in saved(named, tmp_path)} == {name: [] for name in named}


def test_results_that_go_home_have_other_uids_than_the_pseudonymous_ones_and_always_the_same(
    pseudonymous: dict[str, Dataset],
) -> None:
    first, second = (with_identity(pseudonymous, identity(), PSEUDONYMS) for _ in range(2))
    for name, ds in pseudonymous.items():
        assert first[name].SOPInstanceUID == second[name].SOPInstanceUID != ds.SOPInstanceUID
        assert first[name].SeriesInstanceUID != ds.SeriesInstanceUID
        assert first[name].file_meta.MediaStorageSOPInstanceUID == first[name].SOPInstanceUID
    assert pseudonymous["seg.dcm"].PatientID == PATIENT_KEY, "what was given stays as it was"


def test_results_of_another_study_or_of_images_that_are_not_sealed_stay_pseudonymous(
    pseudonymous: dict[str, Dataset],
) -> None:
    other = identity().model_copy(update={"study_key": "0" * 16, "study_instance_uid": "1.2.3"})
    with pytest.raises(NothingUsableError, match="another study"):
        with_identity(pseudonymous, other, PSEUDONYMS)
    without = identity().model_copy(update={"instances": {}})
    with pytest.raises(NothingUsableError, match="image"):
        with_identity(pseudonymous, without, PSEUDONYMS)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_leave_every_value_valid(text: str, pseudonymous: dict[str, Dataset], tmp_path: Path) -> None:
    header = dict.fromkeys(("PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "PatientSex"), text)
    named = with_identity(pseudonymous, identity(text, text or "x", ReferringPhysicianName=text, **header), PSEUDONYMS)
    some = {name: ds for name, ds in named.items() if name in ("sr.dcm", "report.dcm")}
    for path in saved(some, tmp_path):
        assert verified(path) == []
        ds = pydicom.dcmread(path)
        assert all(len(group) <= 64 for group in str(ds.PatientName).split("="))
        assert len(ds.PatientID) <= 64
        assert len(ds.StudyID) <= 16
        if text == JAPANESE:
            assert str(ds.PatientName) == JAPANESE


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_words_in_a_review_leave_every_value_valid(text: str, tmp_path: Path) -> None:
    made = objects({}, model_name=text, model_version=text)
    for name in ("seg.dcm", "sr.dcm", "report.dcm"):
        (path,) = saved({name: made[name]}, tmp_path)
        assert verified(path) == []
    again = json.loads(made["sr.dcm"].to_json())
    assert again["0008103E"]["Value"][0].startswith("Nodule measurements")


def test_text_is_cut_to_what_its_representation_allows() -> None:
    assert valid_text("a\\b\r\nc") == "a/b c"
    assert valid_text("ü" * 200) == "ü" * 32, "dciodvfy counts bytes"
    assert len(valid_text("x" * 100, "SH")) == 16
    assert valid_text("‮abc") == "abc"
    assert valid_name(JAPANESE) == JAPANESE
    assert valid_name("a^b^c^d^e^f^g") == "a^b^c^d^e"
    assert max(map(len, valid_name("B" * 500 + "=" + "C" * 500).split("="))) == 64


def test_every_way_of_measuring_comes_back_from_its_code() -> None:
    reasons = (
        "the outline leaks into neighbouring tissue",
        "the outline covers too little of the mark",
        "the mark is hardly brighter than the lung around it",
        "no lung around the mark",
        "nothing nodule-like at the mark",
    )
    for method in (OUTLINED, *(FALLBACK.format(reason=reason) for reason in reasons)):
        assert method_of(method_words(method)) == method
        assert len(method_words(method)) <= 64


def test_uids_are_found_at_every_depth(pseudonymous: dict[str, Dataset]) -> None:
    found = [keyword for _, keyword in uid_elements(pseudonymous["sr.dcm"])]
    assert {"StudyInstanceUID", "ReferencedSOPInstanceUID", "UID"} <= set(found)
