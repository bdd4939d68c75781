"""Results reach a real PACS beside the study they are about: whole, once, with its identity where it is known."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_factory import NAME, slices_of, truth_of, write_series
from orthanc_server import Orthanc
from results_factory import ball, finding, review_of

from data_contracts.errors import ExchangeError, UsageError
from data_contracts.params import IngestParams, ReviewParams
from data_contracts.series import SeriesRecord
from flows.intake.pacs import PrivateTarget
from flows.reviewing.results import Drawn, results_of, with_kept_time, write_results
from flows.reviewing.results_push import push_results_flow
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.vault import Vault
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

pytestmark = pytest.mark.server

_NOT_FOUND = "no identity is kept"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as the PACS has it."""
    folder = tmp_path_factory.mktemp("source")
    write_series(folder, slices_of(truth_of(), "MR-17")[:12])
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Orthanc]:
    """A PACS with the study's images."""
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for path in source.iterdir():
            urllib.request.urlopen(f"{running.root}/instances", path.read_bytes(), timeout=20).close()
        yield running


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps as they are; that Prefect runs them is seen where a whole demo is run."""
    from flows.reviewing import results_push

    monkeypatch.setattr(results_push, "push_files", results_push.push_files.fn)


def reviewed(root: Path, source: Path, *, keep_identity: bool = False, keep_vault: bool = True) -> Workspace:
    """A workspace with the study ingested and reviewed: one nodule with an outline."""
    from flows.intake.identity import seal_accepted

    workspace = Workspace(root).create()
    pseudonymizer = Pseudonymizer(workspace.secret(), keep_identity)
    params = IngestParams(keep_vault=keep_vault)
    records: list[SeriesRecord] = []
    for raw in discover(source, pseudonymizer, params, root / "scratch").series:
        items = ingest_series(raw, pseudonymizer, params, workspace.series_root, "a")
        seal_accepted(items, raw, pseudonymizer, params, workspace.identity_root)
        records += [item for item in items if isinstance(item, SeriesRecord)]
    (record,) = records
    results(workspace, record)
    return workspace


def results(workspace: Workspace, record: SeriesRecord, params: ReviewParams | None = None) -> None:
    center = (np.array(record.affine_lps) @ [5.0, 20.0, 20.0, 1.0])[:3]
    drawn = Drawn()
    drawn.add(f"{1:08x}", ball(center, 4.0), 60.0)
    review = review_of(record, finding(1, record, center, 4.0))
    write_results(workspace, review, [record], drawn, {}, b"%PDF-1.4\n%%EOF", params or ReviewParams())


def push(workspace: Workspace, target: PrivateTarget, **options: Any) -> dict[str, Any]:
    (record,) = workspace.series_records()
    return push_results_flow.fn(str(workspace.root), [record.study_key], target, **options)


def held(orthanc: Orthanc) -> dict[str, list[pydicom.Dataset]]:
    """What the PACS holds, by Study Instance UID."""
    found: dict[str, list[pydicom.Dataset]] = {}
    with urllib.request.urlopen(f"{orthanc.root}/instances", timeout=20) as answer:
        names = json.load(answer)
    for name in names:
        with urllib.request.urlopen(f"{orthanc.root}/instances/{name}/file", timeout=20) as answer:
            ds = pydicom.dcmread(io.BytesIO(answer.read()))
        found.setdefault(str(ds.StudyInstanceUID), []).append(ds)
    return found


def test_results_go_home_by_dicomweb_and_again_without_change(source: Path, orthanc: Orthanc, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    true_uid = str(pydicom.dcmread(next(source.iterdir())).StudyInstanceUID)
    target = PrivateTarget(url=orthanc.url)
    record = push(workspace, target)
    assert (record["files"], record["stored"], record["failed"]) == (3, 3, 0)
    assert [study["identity"] for study in record["studies"]] == ["original"]
    assert list(workspace.scratch_root.glob("push-*")) == [], "nothing with an identity is left behind"
    before = orthanc.count()
    assert push(workspace, target)["stored"] == 3
    assert orthanc.count() == before
    study = held(orthanc)[true_uid]
    assert len(study) == 12 + 3
    images = {str(ds.SOPInstanceUID) for ds in study if ds.Modality == "CT"}
    (segmented,) = [ds for ds in study if ds.Modality == "SEG"]
    named = {
        str(image.ReferencedSOPInstanceUID)
        for image in segmented.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert named <= images
    assert {str(ds.PatientName) for ds in study} == {NAME}
    assert {ds.StudyDate for ds in study} == {"20190731"}
    assert {ds.get("FrameOfReferenceUID") for ds in study if ds.Modality in ("CT", "SEG")} == {
        segmented.FrameOfReferenceUID
    }
    texts = [path.read_bytes() for path in workspace.reviews_root.rglob("*.dcm")]
    assert not any(b"Zwetschge" in text or b"MR-17" in text for text in texts), "in the workspace they have pseudonyms"


def test_results_go_by_c_store_too(source: Path, orthanc: Orthanc, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    target = PrivateTarget(node=f"127.0.0.1:{orthanc.dicom_port}", called_aet="ORTHANC")
    before = orthanc.count()
    assert push(workspace, target, pseudonymous=True)["stored"] == 3
    assert orthanc.count() == before + 3
    assert push(workspace, target, pseudonymous=True)["stored"] == 3
    assert orthanc.count() == before + 3
    (record,) = workspace.series_records()
    study = held(orthanc)[Pseudonymizer(workspace.secret()).uid_of_key(record.study_key)]
    assert {str(ds.PatientID) for ds in study} == {record.patient_key}


def test_without_a_way_back_results_keep_their_pseudonyms_and_it_is_said(
    source: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    workspace = reviewed(tmp_path / "w", source, keep_vault=False)
    record = push(workspace, PrivateTarget(url=orthanc.url))
    assert record["stored"] == 3
    (study,) = record["studies"]
    assert study["identity"] == "pseudonymous"
    assert _NOT_FOUND in study["why"]
    workspace.secret_file.unlink()
    (study,) = push(workspace, PrivateTarget(url=orthanc.url))["studies"]
    assert (study["identity"], "no key" in study["why"]) == ("pseudonymous", True)
    assert not workspace.secret_file.exists(), "a key that is lost is not made anew"


def test_with_keep_identity_results_carry_it_even_without_a_sealed_one(
    source: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    workspace = reviewed(tmp_path / "w", source, keep_identity=True, keep_vault=False)
    (path,) = workspace.reviews_root.rglob("seg.dcm")
    truth = pydicom.dcmread(next(source.iterdir()))
    ds = pydicom.dcmread(path)
    assert (ds.PatientID, ds.StudyInstanceUID) == ("MR-17", truth.StudyInstanceUID)
    assert ds.FrameOfReferenceUID == truth.FrameOfReferenceUID
    (study,) = push(workspace, PrivateTarget(url=orthanc.url))["studies"]
    assert study["identity"] == "original"
    with pytest.raises(UsageError, match="carry their identity"):
        push(workspace, PrivateTarget(url=orthanc.url), pseudonymous=True)


def test_another_key_writes_no_results_rather_than_wrong_references(source: Path, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    (record,) = workspace.series_records()
    workspace.secret_file.write_text("another\n")
    folder = workspace.reviews_root / record.study_key
    before = {path.name: path.read_bytes() for path in folder.glob("*.dcm")}
    with pytest.raises(UsageError, match="named with another secret"):
        results(workspace, record)
    assert all(before[path.name] == path.read_bytes() for path in folder.glob("*.dcm"))


def test_a_pacs_that_is_not_there_is_an_error_and_leaves_no_identity_behind(source: Path, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    with pytest.raises(ExchangeError):
        push(workspace, PrivateTarget(url="http://127.0.0.1:9/dicom-web"))
    assert list(workspace.scratch_root.glob("push-*")) == []


def test_dicom_that_is_switched_off_leaves_no_object(source: Path, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    (record,) = workspace.series_records()
    folder = workspace.reviews_root / record.study_key
    assert results_of(folder)["objects"] == ["report.dcm", "seg.dcm", "sr.dcm"]
    results(workspace, record, ReviewParams(dicom=False))
    assert list(folder.glob("*.dcm")) == []
    assert results_of(folder)["objects"] == []


def test_a_review_that_says_the_same_keeps_its_time(source: Path, tmp_path: Path) -> None:
    record = reviewed(tmp_path / "w", source).series_records()[0]
    first = review_of(record)
    first.write(tmp_path / "review.json")
    later = first.model_copy(update={"created_utc": "2027-01-01T00:00:00+00:00"})
    assert with_kept_time(tmp_path, later) == first
    other = later.model_copy(update={"model_version": "4"})
    assert with_kept_time(tmp_path, other) == other


def test_the_vault_knows_frames_of_reference_and_the_header_of_the_study(source: Path, tmp_path: Path) -> None:
    workspace = reviewed(tmp_path / "w", source)
    (record,) = workspace.series_records()
    identity = Vault(workspace.identity_root, workspace.secret()).open(record.study_key)
    truth = pydicom.dcmread(next(source.iterdir()))
    assert identity.frames == {record.frame_of_reference_key: str(truth.FrameOfReferenceUID)}
    assert identity.header["StudyTime"] == "101500"
    assert identity.header["PatientBirthDate"] == truth.PatientBirthDate
