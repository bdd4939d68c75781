"""The way back opens for the key of the ingest, for nothing else, and loses nothing under concurrency."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_factory import NAME, save, slices_of, truth_of, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from data_contracts.errors import NothingUsableError, UsageError
from flows.cli import main
from pipeline.deidentify.identity import header_identity
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.vault import StudyIdentity, Vault

ONE = Pseudonymizer(b"one")
KEY = ONE.uid_key("1.2.3")


def identity(number: int = 0) -> StudyIdentity:
    ds = Dataset()
    ds.PatientID, ds.PatientName, ds.AccessionNumber = "MR-17", NAME, "ACC4711"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3", f"1.2.3.{number}", f"1.2.3.{number}.1"
    return StudyIdentity.of(header_identity(ds), ONE)


def test_what_is_sealed_opens_with_the_key_and_is_nowhere_in_the_clear(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "identity", b"one")
    assert vault.seal(KEY, identity())
    assert not vault.seal(KEY, identity()), "nothing new"
    opened = Vault(tmp_path / "identity", b"one").open(KEY)
    assert opened == identity()
    (patient,) = opened.patients.values()
    assert (patient.patient_id, patient.patient_name) == ("MR-17", NAME)
    assert patient.shift_days == ONE.shift_days(ONE.patient_key("MR-17"))
    files = [path for path in (tmp_path / "identity").rglob("*") if path.is_file() and path.suffix == ".sealed"]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"MR-17" not in path.read_bytes()
        assert b"Zwetschge" not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700


def test_another_key_a_changed_file_or_a_swapped_one_does_not_open(tmp_path: Path) -> None:
    vault = Vault(tmp_path, b"one")
    vault.seal(KEY, identity())
    with pytest.raises(UsageError, match="does not open with this key"):
        Vault(tmp_path, b"two").open(KEY)
    with pytest.raises(UsageError, match="does not open with this key"):
        Vault(tmp_path, b"two").seal(KEY, identity(1))
    content = (tmp_path / f"{KEY}.sealed").read_bytes()
    other = ONE.uid_key("9.9")
    (tmp_path / f"{other}.sealed").write_bytes(content)
    with pytest.raises(UsageError):
        vault.open(other)
    for place in (3, 12, len(content) - 1):
        (tmp_path / f"{KEY}.sealed").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UsageError):
            vault.open(KEY)
    with pytest.raises(NothingUsableError):
        vault.open("0" * 16)
    with pytest.raises(UsageError):
        vault.open("../../etc/passwd")


def test_series_sealed_side_by_side_are_all_there(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Vault(tmp_path, b"one").seal(KEY, identity(number)), range(40)))
    assert len(Vault(tmp_path, b"one").open(KEY).series) == 40
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".sealed"]


def run(workspace: Path, *arguments: str, status: int = 0, **environment: str) -> dict[str, Any]:
    """A command in this process, with what it sets for itself put back behind it."""
    out, error = io.StringIO(), io.StringIO()
    before, factory = dict(os.environ), logging.getLogRecordFactory()
    os.environ.update(environment)
    try:
        with redirect_stdout(out), redirect_stderr(error), warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            main(["--workspace", str(workspace), "--json", *arguments])
    finally:
        os.environ.clear()
        os.environ.update(before)
        logging.setLogRecordFactory(factory)
    assert end.value.code == status, error.getvalue()[-2000:]
    assert "Traceback" not in error.getvalue()
    record: dict[str, Any] = json.loads(out.getvalue())
    return record


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "cases"
    write_series(folder / NAME.replace("^", "_"), slices_of(truth_of(), "MR-17")[:6])
    (folder / "note.txt").write_text(NAME)
    return folder


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace `w` with a de-identified copy of the source in `out`."""
    root = tmp_path_factory.mktemp("exported")
    record = run(root / "w", "deidentify", str(source), "--out", str(root / "out"))
    assert (record["written"], record["refused"], record["n_patients"]) == (6, {"not_dicom": 1}, 1)
    return root


def test_a_file_goes_out_and_comes_home_as_it_was(source: Path, exported: Path, tmp_path: Path) -> None:
    originals = {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(path) for path in source.rglob("*.dcm"))}
    for path in sorted((exported / "out").rglob("*.dcm"))[:2]:
        record = run(exported / "w", "reidentify", str(path), "--out", str(tmp_path / path.name))
        assert record["accession_numbers"] == ["ACC4711"]
        home = pydicom.dcmread(tmp_path / path.name)
        original = originals[home.SOPInstanceUID]
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "SeriesDate"):
            assert home[keyword].value == original[keyword].value, keyword
        assert home.PixelData == original.PixelData
        assert home.file_meta.MediaStorageSOPInstanceUID == original.SOPInstanceUID
        assert "PatientIdentityRemoved" not in home


def test_a_report_about_a_pseudonymous_study_comes_home_with_its_own_dates(
    source: Path, exported: Path, tmp_path: Path
) -> None:
    image = pydicom.dcmread(next(iter(sorted((exported / "out").rglob("*.dcm")))))
    report, reference, series = Dataset(), Dataset(), Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.826.0.1.99"
    report.StudyInstanceUID, report.SeriesInstanceUID = image.StudyInstanceUID, "1.2.826.0.1.98"
    report.PatientID, report.PatientName = image.PatientID, image.PatientName
    report.StudyDate, report.ContentDate = image.StudyDate, "20251121"
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = image.SeriesInstanceUID, Sequence([reference])
    report.CurrentRequestedProcedureEvidenceSequence = Sequence([series])
    save(report, tmp_path / "sr.dcm")
    run(exported / "w", "reidentify", str(tmp_path / "sr.dcm"), "--out", str(tmp_path / "home.dcm"))
    home = pydicom.dcmread(tmp_path / "home.dcm")
    truth = pydicom.dcmread(next(source.rglob("*.dcm")))
    assert (home.PatientID, home.StudyInstanceUID) == ("MR-17", truth.StudyInstanceUID)
    assert (home.StudyDate, home.ContentDate) == (truth.StudyDate, "20251121")
    assert (home.SOPInstanceUID, home.SeriesInstanceUID) == ("1.2.826.0.1.99", "1.2.826.0.1.98")
    evidence = home.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.SeriesInstanceUID == truth.SeriesInstanceUID
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in source.rglob("*.dcm")}
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in uids


def test_without_the_key_there_is_no_way_back(exported: Path, tmp_path: Path) -> None:
    path = str(next(iter((exported / "out").rglob("*.dcm"))))
    key = next(iter((exported / "w" / "identity").glob("*.sealed"))).stem
    assert run(exported / "w", "reidentify", key)["patients"]
    assert "key" in run(exported / "w", "reidentify", key, status=2, NODULEFLOW_SECRET="another")["error"]
    assert "key" in run(exported / "w", "reidentify", path, status=2, NODULEFLOW_SECRET="another")["error"]
    run(exported / "w", "reidentify", "0" * 16, status=3)
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty", "reidentify", key, status=2)
    assert not (tmp_path / "empty" / "secret.key").exists()
    secret = (exported / "w" / "secret.key").read_text().strip()
    assert run(exported / "w", "reidentify", key, NODULEFLOW_SECRET=secret)["study_key"] == key


def test_an_export_runs_again_to_nothing_and_its_folder_keeps_one_policy(source: Path, exported: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (exported / "out").rglob("*.dcm")}
    again = run(exported / "w", "deidentify", str(source), "--out", str(exported / "out"))
    assert (again["written"], again["already_there"]) == (0, 6)
    assert before == {path: path.stat().st_mtime_ns for path in (exported / "out").rglob("*.dcm")}
    other = ["deidentify", str(source), "--out", str(exported / "out"), "--retain-patient"]
    assert "other options" in run(exported / "w", *other, status=2)["error"]
    run(exported / "w", "deidentify", str(source), "--out", str(source / "out"), status=2)
    assert not (source / "out").exists()
    everything = b"".join(path.read_bytes() for path in (exported / "out").rglob("*") if path.is_file())
    assert b"Zwetschge" not in everything
    assert b"MR-17" not in everything


def test_a_change_of_the_policy_stands_in_the_audit(source: Path, tmp_path: Path) -> None:
    def lines() -> list[dict[str, Any]]:
        file = tmp_path / "w" / "audit.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    run(tmp_path / "w", "deidentify", str(source), "--out", str(tmp_path / "a"))
    assert lines() == []
    run(tmp_path / "w", "deidentify", str(source), "--out", str(tmp_path / "b"), "--retain-patient", "--no-vault")
    run(tmp_path / "w", "deidentify", str(source), "--out", str(tmp_path / "b"), "--retain-patient", "--no-vault")
    (line,) = lines()
    assert line["action"] == "policy"
    assert line["detail"]["event"] == "de-identification policy change"
    assert line["detail"]["changed"] == ["keep_vault", "retain_patient"]
    assert run(tmp_path / "w", "audit", "--verify")
