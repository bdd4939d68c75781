"""A study that is still arriving waits; everything else is ingested meanwhile."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from pathlib import Path

import pydicom
import pytest
from dicom_factory import body_hu, save, slices_of, truth_of
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.known_scan import KnownScan, scan_source
from pipeline.intake.known_source import KnownSource
from pipeline.intake.settling import without_arriving

SETTLE_S = 30.0
N_SLICES = 4


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch):
    """Lets time pass: nobody can set a file's change of status."""
    real, passed = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + passed[0])

    def go(seconds: float) -> None:
        passed[0] += seconds

    return go


def write_study(folder: Path, patient: str, *, study_uid: str = "", copies_time: bool = False) -> str:
    """One small series of a study below `folder`; returns the UID of the study."""
    study_uid = study_uid or generate_uid()
    series_uid = generate_uid()
    for number, ds in enumerate(slices_of(truth_of(body_hu(N_SLICES, 32, 32)), patient)):
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.SOPInstanceUID = generate_uid()
        path = folder / f"{series_uid[-6:]}-{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(ds, path, ExplicitVRLittleEndian)
        if copies_time:
            os.utime(path, (1e9, 1e9))
    return study_uid


def scan(source: Path, tmp_path: Path) -> KnownScan:
    found = scan_source(source, Pseudonymizer(b"x" * 32), KnownSource("context"), tmp_path / "scratch", tmp_path / "s")
    assert found is not None
    return found


def studies(found: KnownScan) -> set[str]:
    return {raw.slices[0].study_instance_uid for raw in found.discovery.series}


def test_a_study_that_came_a_moment_ago_waits_and_an_older_one_does_not(tmp_path: Path, later) -> None:
    source = tmp_path / "in"
    old = write_study(source, "P^Old")
    later(SETTLE_S + 1)
    fresh = write_study(source, "P^New")
    for file in source.iterdir():
        if studies_of(file) == fresh:  # put here now, in the time that the scan sees
            os.utime(file, (time.time(), time.time()))
    held, n_waiting = without_arriving(scan(source, tmp_path), source, SETTLE_S)
    assert (studies(held), n_waiting) == ({old}, 1)
    later(SETTLE_S + 1)
    assert studies(without_arriving(scan(source, tmp_path), source, SETTLE_S)[0]) == {old, fresh}


def studies_of(file: Path) -> str:
    return str(pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID)


def test_one_late_series_holds_back_the_whole_study(tmp_path: Path, later) -> None:
    source = tmp_path / "in"
    study = write_study(source / "a", "P^1")
    write_study(source / "b", "P^1", study_uid=study)
    later(SETTLE_S + 1)
    assert len(without_arriving(scan(source, tmp_path), source, SETTLE_S)[0].discovery.series) == 2
    latest = next((source / "b").iterdir())
    os.utime(latest, (time.time(), time.time()))
    held, n_waiting = without_arriving(scan(source, tmp_path), source, SETTLE_S)
    assert (held.discovery.series, n_waiting) == ((), 1)
    assert held.discovery.files == () and held.discovery.rejections == ()


def test_a_copy_that_keeps_old_times_of_modification_is_still_seen_arriving(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_study(source, "P^1", copies_time=True)
    assert without_arriving(scan(source, tmp_path), source, SETTLE_S)[1] == 1


def test_half_a_file_holds_back_the_studies_of_its_folder_and_is_not_refused_yet(tmp_path: Path, later) -> None:
    source = tmp_path / "in"
    write_study(source / "a", "P^1")
    other = write_study(source / "b", "P^2")
    later(SETTLE_S + 1)
    whole = next((source / "a").iterdir())
    half = source / "a" / "half.dcm"
    half.write_bytes(whole.read_bytes()[:400])
    os.utime(half, (time.time(), time.time()))
    held, _ = without_arriving(scan(source, tmp_path), source, SETTLE_S)
    assert studies(held) == {other}
    assert not held.discovery.rejections
    later(SETTLE_S + 1)
    settled, n_waiting = without_arriving(scan(source, tmp_path), source, SETTLE_S)
    assert n_waiting == 0 and len(settled.discovery.rejections) == 1


def test_an_archive_that_is_being_written_waits_as_a_whole(tmp_path: Path, later) -> None:
    folder, archive = tmp_path / "in", tmp_path / "study.zip"
    write_study(folder, "P^1")
    with zipfile.ZipFile(archive, "w") as target:
        for file in folder.iterdir():
            target.write(file, file.name)
    shutil.rmtree(folder)
    held, n_waiting = without_arriving(scan(archive, tmp_path), archive, SETTLE_S)
    assert (held.discovery.series, n_waiting) == ((), 1)
    later(SETTLE_S + 1)
    assert len(without_arriving(scan(archive, tmp_path), archive, SETTLE_S)[0].discovery.series) == 1


def test_a_file_from_a_clock_far_ahead_does_not_wait_for_ever(tmp_path: Path, later) -> None:
    source = tmp_path / "in"
    write_study(source, "P^1")
    later(-3600)
    assert without_arriving(scan(source, tmp_path), source, SETTLE_S)[1] == 0
