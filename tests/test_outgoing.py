"""What nightly-review sends to the PACS: the reports of its own nights, once, and later where it could not at first."""

from __future__ import annotations

from pathlib import Path

import pytest
from orthanc_server import Orthanc
from test_results_push import held, orthanc, reviewed, source, without_prefect

from data_contracts.errors import ExchangeError, UsageError
from flows.reviewing import results_push
from flows.reviewing.outgoing_notes import note, note_waiting, waiting
from flows.scheduled import outgoing as sending
from flows.scheduled.outgoing import outgoing, send_outgoing
from flows.whole.nightly_config import PushPlan, read_config
from flows.workspace import Workspace

__all__ = ["orthanc", "source", "without_prefect"]

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def without_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The push as it is; that Prefect runs it is seen where a deployment is run."""
    monkeypatch.setattr(sending, "push_results_flow", results_push.push_results_flow.fn)


@pytest.fixture
def workspace(tmp_path: Path, source: Path) -> Workspace:
    return reviewed(tmp_path / "w", source)


def key_of(workspace: Workspace) -> str:
    return workspace.series_records()[0].study_key


def finish(workspace: Workspace) -> None:
    """The study has its report: review.json is the last file of it."""
    (workspace.reviews_root / key_of(workspace) / "review.json").write_text("{}")


def test_a_report_of_the_night_goes_to_the_pacs_once(workspace: Workspace, orthanc: Orthanc) -> None:
    finish(workspace)
    note_waiting(workspace, [key_of(workspace)])
    assert outgoing(workspace) == [key_of(workspace)]
    assert send_outgoing(workspace, PushPlan(dicomweb=orthanc.url)) == "1 sent to the PACS"
    assert {"SEG", "SR"} <= {ds.Modality for study in held(orthanc).values() for ds in study}
    assert outgoing(workspace) == waiting(workspace) == []


def test_what_a_person_reviewed_goes_nowhere_by_the_clock(workspace: Workspace) -> None:
    finish(workspace)
    assert outgoing(workspace) == []


def test_a_night_killed_before_its_report_was_written_leaves_a_study_that_waits(workspace: Workspace) -> None:
    note_waiting(workspace, [key_of(workspace)])
    assert (outgoing(workspace), waiting(workspace)) == ([], [key_of(workspace)])
    finish(workspace)
    assert outgoing(workspace) == [key_of(workspace)]


def test_a_pacs_that_is_away_keeps_the_reports_waiting(
    workspace: Workspace, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEFLOW_EXCHANGE_ATTEMPTS", "1")
    finish(workspace)
    note_waiting(workspace, [key_of(workspace)])
    with pytest.raises(ExchangeError):
        send_outgoing(workspace, PushPlan(dicomweb="http://127.0.0.1:9/dicom-web"))
    assert outgoing(workspace) == [key_of(workspace)]
    assert send_outgoing(workspace, PushPlan(dicomweb=orthanc.url)) == "1 sent to the PACS"


def test_a_report_without_results_in_dicom_is_said_and_does_not_wait_for_ever(
    workspace: Workspace, orthanc: Orthanc
) -> None:
    finish(workspace)
    (workspace.reviews_root / key_of(workspace) / "dicom.json").unlink()
    note_waiting(workspace, [key_of(workspace)])
    said = send_outgoing(workspace, PushPlan(dicomweb=orthanc.url))
    assert said == "0 sent to the PACS, 1 without results in DICOM"
    assert outgoing(workspace) == []


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"standing": 4}', b"\xff\xfe"])
def test_a_torn_note_sends_again_rather_than_never(workspace: Workspace, torn: bytes) -> None:
    finish(workspace)
    folder = workspace.reviews_root / key_of(workspace)
    note(folder, "stored")
    assert outgoing(workspace) == []
    (folder / "pacs.json").write_bytes(torn)
    assert outgoing(workspace) == [key_of(workspace)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "one of them"),
        ('dicomweb = "http://127.0.0.1:1/a"\ndicom = "pacs:104"\n', "one of them"),
        ('dicom = "pacs:104"\n', "AE title"),
        ('dicom = "pacs"\ncalled = "PACS"\n', "not the address of a DICOM node"),
        ('dicomweb = "pacs"\n', "address"),
    ],
)
def test_a_receiver_that_is_none_is_refused_before_anything_runs(tmp_path: Path, table: str, words: str) -> None:
    file = tmp_path / "night.toml"
    file.write_text(f'[[sources]]\npath = "ct"\n[push]\n{table}')
    with pytest.raises(UsageError, match=words):
        read_config(file)
