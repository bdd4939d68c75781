"""From the network to volumes: received or pulled studies become what a folder of them becomes, through any kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_factory import CT, NAME, compress, save, slices_of, truth_of, write_series
from faulty_proxy import Fault, FaultyProxy
from orthanc_server import Orthanc, free_port
from pydicom.uid import JPEGLSLossless

from data_contracts.errors import DecodeError, ExchangeError
from data_contracts.series import SeriesRecord
from flows.cli import main
from flows.engine import engine
from flows.workspace import Workspace
from pipeline.exchange.dimse import DicomNode, echo, push_dimse
from pipeline.exchange.inbox import Inbox, MismatchError
from pipeline.exchange.push_result import PushBrokenError
from pipeline.exchange.stow import push_dicomweb
from pipeline.exchange.web_server import WebServer

Run = Callable[..., "Done"]


def key(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind} {value}".encode()).hexdigest()[:16]


def put(inbox: Inbox, file: Path, sender: str = "SCANNER") -> bool:
    dataset = pydicom.dcmread(file, stop_before_pixels=True)
    return inbox.put(sender, dataset.SOPClassUID, dataset.SOPInstanceUID, [file.read_bytes()]).is_new


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 slices in JPEG-LS."""
    folder = tmp_path_factory.mktemp("series")
    datasets = slices_of(truth_of(), "P1")
    for dataset in datasets:
        compress(dataset, JPEGLSLossless)
    write_series(folder, datasets, JPEGLSLossless)
    return folder


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox", key, reserve_bytes=0)


def test_a_study_is_claimed_when_it_has_settled_and_not_while_somebody_adds_to_it(inbox: Inbox, series: Path) -> None:
    for file in sorted(series.iterdir())[:3]:
        assert put(inbox, file)
    (folder,) = inbox.waiting()
    assert inbox.claim_settled(60) == []
    long_ago = time.time() - 61
    os.utime(folder, (long_ago, long_ago))
    assert inbox.claim_settled(60, busy={folder.name}) == []
    (claimed,) = inbox.claim_settled(60)
    assert len(list(claimed.iterdir())) == 3
    assert inbox.waiting() == []


def test_what_arrives_during_an_ingest_waits_for_the_next(inbox: Inbox, series: Path) -> None:
    files = sorted(series.iterdir())
    put(inbox, files[0])
    (first,) = inbox.claim_settled(0)
    assert put(inbox, files[1])
    assert put(inbox, files[0]), "it is new to a folder that has been claimed"
    assert len(list(inbox.waiting()[0].iterdir())) == 2
    assert [len(list(folder.iterdir())) for folder in inbox.claim_settled(0)] in ([1, 2], [2, 1])
    inbox.remove(first)
    assert first not in inbox.claim_settled(0)


def test_the_same_study_sent_again_while_its_first_copy_is_claimed_is_kept_apart(inbox: Inbox, series: Path) -> None:
    for _ in range(2):
        put(inbox, sorted(series.iterdir())[0])
        inbox.claim_settled(0)
    assert len(inbox.claim_settled(0)) == 2


def test_two_senders_of_one_study_have_a_folder_each(inbox: Inbox, series: Path) -> None:
    file = sorted(series.iterdir())[0]
    put(inbox, file, "A")
    put(inbox, file, "B")
    assert len(inbox.waiting()) == 2


def test_a_refused_instance_leaves_nothing(inbox: Inbox, series: Path) -> None:
    whole = sorted(series.iterdir())[0].read_bytes()
    uid = str(pydicom.dcmread(sorted(series.iterdir())[0]).SOPInstanceUID)
    with pytest.raises(DecodeError):
        inbox.put("A", CT, uid, [whole[:-50]])
    with pytest.raises(MismatchError):
        inbox.put("A", CT, "1.2.3", [whole])
    assert [path for path in inbox.root.rglob("*") if path.is_file()] == []


def test_receiving_and_claiming_at_once_lose_nothing(inbox: Inbox, series: Path) -> None:
    files = sorted(series.iterdir())
    done = threading.Event()
    gathered: list[str] = []

    def claim() -> None:
        while not done.is_set() or inbox.waiting():
            for folder in inbox.claim_settled(0):
                gathered.extend(file.name for file in folder.iterdir())
                inbox.remove(folder)

    claiming = threading.Thread(target=claim)
    claiming.start()
    senders = [
        threading.Thread(target=lambda part: [put(inbox, file) for file in part], args=(files[n::4],)) for n in range(4)
    ]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    done.set()
    claiming.join(20)
    assert len(gathered) == len(set(gathered)) == 24


def test_a_study_claimed_the_moment_a_file_came_to_it_has_the_file(
    inbox: Inbox, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[Path] = []
    replace = Path.replace

    def replace_and_claim(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        monkeypatch.setattr(Path, "replace", replace)
        claimed.extend(inbox.claim_settled(0))
        return moved

    monkeypatch.setattr(Path, "replace", replace_and_claim)
    first, second = sorted(series.iterdir())[:2]
    assert put(inbox, first)
    assert [len(list(folder.iterdir())) for folder in claimed] == [1]
    assert put(inbox, second)
    assert len(inbox.waiting()) == 1


@pytest.fixture(scope="module")
def prefect_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@dataclass
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def noduleflow(prefect_folder: Path) -> Iterator[Run]:
    """The command in this process, with one Prefect server and one secret for all of these tests."""
    before = dict(os.environ)
    with engine(Workspace(prefect_folder)) as address:
        os.environ |= {
            "NODULEFLOW_PREFECT_API_URL": address,
            "NODULEFLOW_SECRET": "a secret of the tests",
            "NODULEFLOW_EXCHANGE_ATTEMPTS": "2",
            "NODULEFLOW_SETTLE_S": "1",
        }

        def run(workspace: Path, *arguments: object) -> Done:
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main(["--workspace", str(workspace), *map(str, arguments)])
            return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())

        yield run
        os.environ.clear()
        os.environ.update(before)


def records_of(workspace: Path) -> dict[str, SeriesRecord]:
    return {record.series_key: record for record in Workspace(workspace).series_records()}


def assert_no_identifier(root: Path, *identifiers: str) -> None:
    """No file below `root` holds an identifier, and no name of one."""
    wanted = [text.encode() for text in identifiers]
    for path in root.rglob("*"):
        text = str(path.relative_to(root)).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not any(word in text for word in wanted), path


def assert_same_series(one: Path, other: Path) -> None:
    a, b = records_of(one), records_of(other)
    assert a.keys() == b.keys()
    assert a
    for series_key, record in a.items():
        assert record.pixel_sha256 == b[series_key].pixel_sha256
        assert record.affine_lps == b[series_key].affine_lps
        assert record.sop_uid_keys == b[series_key].sop_uid_keys
        assert record.transfer_syntax == b[series_key].transfer_syntax
        assert record.study_key == b[series_key].study_key


@pytest.mark.server
@pytest.mark.slow
def test_a_real_series_pulled_from_a_pacs_is_what_its_folder_gives_and_is_pulled_once(
    nlst_dicom: Path, noduleflow: Run, prefect_folder: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(next(nlst_dicom.glob("*.dcm")), stop_before_pixels=True)
    direct, pulled = tmp_path / "direct", tmp_path / "pulled"
    assert noduleflow(direct, "ingest", nlst_dicom).returncode == 0
    with Orthanc(tmp_path / "orthanc") as orthanc:
        files = sorted(path for path in nlst_dicom.rglob("*") if path.is_file())
        pushed = push_dicomweb(files, WebServer(orthanc.url))
        assert (len(pushed.stored), pushed.failed) == (143, {})
        first = noduleflow(pulled, "--json", "ingest", "--dicomweb", orthanc.url, "--study", dataset.StudyInstanceUID)
        assert first.returncode == 0, first.stderr
        record = json.loads(first.stdout)
        assert (record["instances_fetched"], record["accepted"], record["new"]) == (143, 1, 1)
        assert_same_series(direct, pulled)
        again = noduleflow(pulled, "ingest", "--dicomweb", orthanc.url, "--since", "auto")
        assert again.returncode == 0, again.stderr
        assert "nothing new (1 series were known)" in again.stdout
    assert [path for path in (pulled / "scratch").rglob("*") if path.is_file()] == []
    uids = str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
    assert_no_identifier(pulled, *uids, str(dataset.PatientID))
    assert_no_identifier(prefect_folder, *uids)
    assert not any(uid in first.stderr + first.stdout + again.stderr for uid in uids)


@pytest.mark.server
def test_a_pull_since_a_mark_takes_what_is_new_and_refuses_a_series_with_a_gap(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    with Orthanc(tmp_path / "orthanc") as orthanc, FaultyProxy(orthanc.root) as proxy:
        web = WebServer(orthanc.url)
        push_dicomweb(sorted(series.iterdir()), web)
        broken = slices_of(truth_of(), "BROKEN")
        for dataset in broken:
            dataset.StudyDate = "20200101"
        write_series(tmp_path / "broken", broken)
        push_dicomweb(sorted((tmp_path / "broken").iterdir()), web)
        bad = broken[7]
        proxy.faults = [
            Fault(f"series/{bad.SeriesInstanceUID}$", "html", times=99),
            Fault(f"/instances/{bad.SOPInstanceUID}$", "torn", times=99),
        ]
        oldest = noduleflow(workspace, "--json", "ingest", "--dicomweb", proxy.url, "--since", "auto", "--limit", 1)
        assert oldest.returncode == 0, oldest.stderr
        record = json.loads(oldest.stdout)
        assert (record["studies"], record["accepted"], record["series_fetched"]) == (2, 1, 1)

        first = noduleflow(workspace, "--json", "ingest", "--dicomweb", proxy.url, "--since", "auto")
        assert first.returncode == 1, first.stderr
        record = json.loads(first.stdout)
        assert (record["accepted"], record["series_known"], record["series_fetched"]) == (0, 1, 0)
        assert record["refused"] == {"incomplete_transfer": 1}
        assert record["incomplete"][0].startswith("1 of 24 instances cannot be had: 1 x the answer cannot be used")
        assert bad.SOPInstanceUID not in first.stdout + first.stderr

        proxy.faults = []
        proxy.seen.clear()
        second = noduleflow(workspace, "--json", "ingest", "--dicomweb", proxy.url, "--since", "auto")
        assert second.returncode == 0, second.stderr
        record = json.loads(second.stdout)
        assert (record["instances_fetched"], record["instances_resumed"], record["accepted"]) == (1, 23, 1)
        assert len(records_of(workspace)) == 2
        assert "StudyDate=20190728-" in proxy.paths(r"/studies\?")[0], "three days before the mark"
        rejected = Workspace(workspace).rejected_parts.glob("*.jsonl")
        assert "incomplete_transfer" not in "".join(part.read_text() for part in rejected)

        orthanc.kill()
        dead = noduleflow(workspace, "ingest", "--dicomweb", orthanc.url, "--since", "2020-01-01")
        assert dead.returncode == 1
        assert "cannot be reached" in dead.stderr
        assert len(dead.stderr.strip().splitlines()) == 1


@pytest.mark.server
@pytest.mark.slow
def test_a_pull_killed_in_the_middle_goes_on_and_two_at_once_fetch_each_instance_once(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    study = str(pydicom.dcmread(next(series.iterdir())).StudyInstanceUID)

    def slowly(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.4)
        return status, headers, body

    with Orthanc(tmp_path / "orthanc") as orthanc, FaultyProxy(orthanc.root) as proxy:
        push_dicomweb(sorted(series.iterdir()), WebServer(orthanc.url))
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "ingest"]
        command += ["--dicomweb", proxy.url, "--study", study]
        proxy.faults = [Fault("series/[0-9.]+$", "html", times=9), Fault("/instances/", slowly, times=99)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list((workspace / "scratch").rglob("*.dcm"))) < 8:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        arrived = len(list((workspace / "scratch").rglob("*.dcm")))
        assert arrived < 24

        proxy.faults = []
        two = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        answers = [process.communicate(timeout=240) for process in two]
        assert [process.returncode for process in two] == [0, 0], answers
        records = [json.loads(out) for out, _ in answers]
        assert sorted(record["accepted"] for record in records) == [0, 1]
        assert sum(record["instances_fetched"] for record in records) in (24 - arrived, 25 - arrived)
    assert len(records_of(workspace)) == 1
    assert [path for path in (workspace / "scratch").rglob("*") if path.is_file()] == []


class Listening:
    """`noduleflow listen` in a process of its own."""

    def __init__(self, workspace: Path, *options: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "listen", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.node = DicomNode("127.0.0.1", self.port, "NODULEFLOW", "SCANNER", timeout_s=10, attempts=1)
        deadline = time.monotonic() + 120
        while True:
            try:
                echo(self.node)
                return
            except ExchangeError:
                assert self.process.poll() is None, self.process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.server
def test_a_listener_killed_in_the_middle_has_every_acknowledged_file_and_the_next_start_ingests_them(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    workspace, direct = tmp_path / "ws", tmp_path / "direct"
    files = sorted(series.iterdir())
    listening = Listening(workspace)
    acknowledged = push_dimse(files[:9], listening.node).stored

    def kill_soon() -> None:
        time.sleep(0.15)
        listening.process.kill()

    killing = threading.Thread(target=kill_soon)
    killing.start()
    try:
        acknowledged += push_dimse(files[9:], listening.node).stored
    except PushBrokenError as broken:
        acknowledged += broken.result.stored
    killing.join()
    listening.process.communicate()
    on_disk = {pydicom.dcmread(file).SOPInstanceUID for file in (workspace / "inbox").rglob("*.dcm")}
    assert {pydicom.dcmread(file).SOPInstanceUID for file in acknowledged} <= on_disk

    again = Listening(workspace)
    assert list((workspace / "inbox" / ".incoming").iterdir()) == []
    assert len(push_dimse(files, again.node).stored) == 24
    code, out, err = again.end()
    assert code == 0, err
    assert "1 studies wait in the inbox" in out
    assert noduleflow(direct, "ingest", series).returncode == 0
    ingested = noduleflow(workspace, "--json", "ingest", "--inbox")
    assert ingested.returncode == 0, ingested.stderr
    assert json.loads(ingested.stdout)["accepted"] == 1
    assert_same_series(direct, workspace)
    assert [path for path in (workspace / "inbox").rglob("*") if path.is_file()] == []
    uid = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    assert_no_identifier(workspace, uid, NAME, "SCANNER")
    empty = noduleflow(workspace, "ingest", "--inbox")
    assert (empty.returncode, empty.stdout.strip()) == (0, "no study waits in the inbox")


@pytest.mark.server
def test_a_listener_ingests_what_has_settled_and_ends_when_nothing_comes(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    listening = Listening(workspace, "--ingest", "--once-idle", "4")
    scout = slices_of(truth_of(), "SCOUT")[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "scout.dcm")
    assert len(push_dimse([*sorted(series.iterdir()), tmp_path / "scout.dcm"], listening.node).stored) == 25
    out, err = listening.process.communicate(timeout=200)
    assert listening.process.returncode == 0, err
    assert "25 stored" in out
    assert "1 series accepted" in out
    assert len(records_of(workspace)) == 1
    assert [path for path in (workspace / "inbox").rglob("*") if path.is_file()] == []
    rejected = "".join(part.read_text() for part in Workspace(workspace).rejected_parts.glob("*.jsonl"))
    assert "localizer" in rejected


def test_a_series_that_came_in_parts_is_named_and_sent_again_whole_it_is_one_volume(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    workspace.mkdir()
    received = Inbox(workspace / "inbox", key, reserve_bytes=0)
    files = sorted(series.iterdir())
    found = []
    for part in (files[:12], files[12:], files):
        for file in part:
            put(received, file)
        done = noduleflow(workspace, "--json", "ingest", "--inbox")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert [len(record["in_parts"]) for record in found] == [0, 1, 0]
    assert [record["new"] for record in found] == [1, 1, 1]
    assert max(record.n_slices for record in records_of(workspace).values()) == 24


@pytest.mark.server
def test_a_second_listener_and_a_taken_port_are_one_clear_line_and_sigterm_ends_cleanly(
    noduleflow: Run, tmp_path: Path
) -> None:
    listening = Listening(tmp_path / "ws")
    second = noduleflow(tmp_path / "ws", "listen", "--port", free_port())
    assert second.returncode == 1
    assert "another process receives for this workspace" in second.stderr
    taken = noduleflow(tmp_path / "other", "listen", "--port", listening.port)
    assert taken.returncode == 1
    assert "cannot listen (Address already in use)" in taken.stderr
    began = time.monotonic()
    code, out, err = listening.end()
    assert code == 0, err
    assert time.monotonic() - began < 15
    assert "received: 1 echo" in out
    assert "Traceback" not in err


@pytest.mark.server
def test_push_says_what_was_stored_and_exits_1_where_a_file_was_not(
    series: Path, noduleflow: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for file in sorted(series.iterdir())[:3]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "zz-Zwetschge.txt").write_text("no DICOM")
    with Orthanc(tmp_path / "orthanc") as orthanc:
        web = noduleflow(tmp_path / "ws", "--json", "push", folder, "--dicomweb", orthanc.url)
        assert web.returncode == 1
        record: dict[str, Any] = json.loads(web.stdout)
        assert (record["stored"], record["failed"]) == (3, 1)
        assert record["failed_files"] == [{"file": 4, "reason": "not a DICOM file"}]
        assert "Zwetschge" not in web.stdout + web.stderr
        (folder / "zz-Zwetschge.txt").unlink()
        node = f"127.0.0.1:{orthanc.dicom_port}"
        dicom = noduleflow(tmp_path / "ws", "push", folder, "--dicom", node, "--called", "ORTHANC")
        assert (dicom.returncode, dicom.stdout.strip()) == (0, "3 of 3 files stored")
        assert orthanc.count() == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "--dicomweb", "pacs", "--study", "1.2"], "not the address of a DICOMweb server"),
        (["ingest", "--dicomweb", "https://u:p@pacs/", "--study", "1.2"], "holds credentials"),
        (["ingest", "--dicomweb", "http://127.0.0.1:1/", "--study", "Zwetschge"], "--study 1 is no UID"),
        (["ingest", "--dicomweb", "http://127.0.0.1:1/", "--since", "soon"], "--since takes a day"),
        (["ingest", "--dicomweb", "http://127.0.0.1:1/", "--inbox"], "one of them"),
        (["ingest", "--study", "1.2", "--inbox"], "need --dicomweb"),
        (["ingest"], "Missing argument"),
        (["ingest", "{pipe}"], "is a pipe, a device or a socket"),
        (["push", "{file}", "--dicom", "127.0.0.1:104"], "--called AET"),
        (["push", "{file}", "--dicom", "127.0.0.1", "--called", "X"], "HOST:PORT"),
        (["push", "{file}"], "--dicomweb or --dicom"),
        (["listen", "--aet", "A TITLE THAT IS TOO LONG"], "not an AE title"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    given = [word.format(file=tmp_path / "file", pipe=tmp_path / "pipe") for word in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["--workspace", str(tmp_path / "ws"), *given])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert "Zwetschge" not in said
