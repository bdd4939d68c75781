"""What a review is asked about: keys, folders, archives and studies of a PACS, with the marks that they bring."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from annotation_factory import ball, segmentation
from dicom_factory import body_hu, slices_of, truth_of, write_series
from orthanc_server import Orthanc

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.params import IngestParams
from data_contracts.series import Rejection, SeriesRecord
from flows.intake.sources import PrivatePaths
from flows.reviewing import sources
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series
from pipeline.review.dicom.maker import MANUFACTURER


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of an ingest as they are; that Prefect runs them is seen where a whole demo is run."""

    def ingest(workspace: Workspace, paths: PrivatePaths, site: str) -> dict[str, Any]:
        pseudonymizer, params = Pseudonymizer(workspace.secret(), False), IngestParams()
        found: list[SeriesRecord] = []
        for number, path in enumerate(paths.paths):
            scratch = workspace.scratch_root / f"test-{number}"
            discovery = discover(path, pseudonymizer, params, scratch)
            refused: list[Rejection] = list(discovery.rejections)
            for raw in discovery.series:
                items = ingest_series(raw, pseudonymizer, params, workspace.series_root, site)
                found += [item for item in items if isinstance(item, SeriesRecord)]
                refused += [item for item in items if isinstance(item, Rejection)]
            workspace.add_rejections(pseudonymizer.uid_key(str(path.resolve())), refused)
            shutil.rmtree(scratch, ignore_errors=True)
        workspace.rebuild_series_tables()
        if not found:
            raise NothingUsableError("no usable series")
        keys = sorted({record.study_key for record in found})
        return {"study_keys": keys, "series_keys": [record.series_key for record in found], "new": len(found)}

    monkeypatch.setattr(sources, "_ingest", ingest)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace").create()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT, a segmentation of one nodule by somebody, and one that this program wrote."""
    folder = tmp_path_factory.mktemp("study")
    truth = truth_of(body_hu())
    datasets = slices_of(truth, "MR-17")
    write_series(folder / "ct", datasets)
    for ds in datasets:
        ds.is_implicit_VR, ds.is_little_endian = False, True
    middle = tuple(size / 2 for size in truth.hu.shape)
    other, own = (
        segmentation(datasets, [ball(center, 4.0, truth)], ["nodule"], [pydicom.uid.generate_uid()])
        for center in (middle, tuple(np.array(middle) - 2))
    )
    own.Manufacturer = MANUFACTURER
    other.save_as(folder / "marks.dcm", enforce_file_format=True)
    own.save_as(folder / "ours.dcm", enforce_file_format=True)
    return folder


def test_a_study_of_the_workspace_is_named_by_its_key_and_read_from_nowhere_else(
    workspace: Workspace, study: Path
) -> None:
    (key,) = sources.study_keys_of(workspace, [str(study)], "a")
    assert sources.study_keys_of(workspace, [key, key], "a") == [key]


def test_a_segmentation_in_a_folder_is_a_nodule_and_our_own_results_are_none(workspace: Workspace, study: Path) -> None:
    sources.study_keys_of(workspace, [str(study)], "a")
    nodules = workspace.nodules()
    assert len(nodules) == 1
    assert nodules["diameter_mm"].iloc[0] == pytest.approx(8.0, abs=1.5)


def test_the_same_source_again_brings_the_same_nodule_once(workspace: Workspace, study: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "study"), "zip", study)
    for _ in range(2):
        sources.study_keys_of(workspace, [archive], "a")
        assert len(workspace.nodules()) == 1
    assert not list((workspace.scratch_root / "marks").iterdir())


def test_marks_of_another_study_are_refused_in_the_table_and_the_review_goes_on(
    workspace: Workspace, study: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    write_series(mixed / "ct", slices_of(truth_of(body_hu()), "OTHER"))
    shutil.copy(study / "marks.dcm", mixed / "marks.dcm")
    assert len(sources.study_keys_of(workspace, [str(mixed)], "a")) == 1
    assert workspace.nodules().empty
    assert workspace.rejected_table.is_file()


def test_a_source_that_is_not_there_is_a_wrong_use(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        sources.study_keys_of(workspace, [str(tmp_path / "none")], "a")


@pytest.mark.server
def test_a_study_of_a_pacs_comes_with_its_marks_and_is_fetched_once(
    workspace: Workspace, study: Path, tmp_path: Path
) -> None:
    uid = str(pydicom.dcmread(study / "marks.dcm").StudyInstanceUID)
    with Orthanc(tmp_path / "orthanc") as orthanc:
        for path in study.rglob("*.dcm"):
            urllib.request.urlopen(f"{orthanc.root}/instances", path.read_bytes(), timeout=20).close()
        (key,) = sources.pulled_study_keys(workspace, orthanc.url, (uid,), "a")
        assert len(workspace.nodules()) == 1
        assert sources.pulled_study_keys(workspace, orthanc.url, (uid,), "a") == [key]
        with pytest.raises(NothingUsableError):
            sources.pulled_study_keys(workspace, orthanc.url, ("1.2.3.4",), "a")
    assert len(workspace.nodules()) == 1
