"""C-STORE in both directions: with Orthanc, dcmtk's storescu and pynetdicom, transcoding nothing, losing nothing."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_factory import CT, NAME, compress, save, slices_of, truth_of, write_series
from orthanc_server import Orthanc, free_port
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from data_contracts.errors import ExchangeError, UsageError
from pipeline.exchange.dimse import DicomNode, echo, push_dimse
from pipeline.exchange.inbox import Inbox
from pipeline.exchange.listener import Listener, ListenerParams, contexts_we_take

pytestmark = pytest.mark.server

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "jpegls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "jpeg": JPEGLosslessSV1,
    "rle": RLELossless,
}


def key(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind} {value}".encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slice in each of eight transfer syntaxes."""
    folder = tmp_path_factory.mktemp("mixed")
    for dataset, (name, syntax) in zip(slices_of(truth_of(), "P1"), SYNTAXES.items(), strict=False):
        if name in ("jpegls", "j2k", "jpeg", "rle"):
            compress(dataset, syntax)
        save(dataset, folder / f"{name}.dcm", syntax)
    return folder


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox", key, reserve_bytes=0)


def started(inbox: Inbox, **params: object) -> Listener:
    listener = Listener(inbox, ListenerParams(port=free_port(), timeout_s=10, **params))  # type: ignore[arg-type]
    listener.start()
    return listener


@pytest.fixture
def listener(inbox: Inbox) -> Iterator[Listener]:
    running = started(inbox)
    yield running
    running.stop(0)


def node_of(listener: Listener, **options: object) -> DicomNode:
    values = {"called_aet": "NODULEFLOW", "calling_aet": "SCANNER", "timeout_s": 10.0, "attempts": 2, **options}
    return DicomNode("127.0.0.1", listener._params.port, **values)  # type: ignore[arg-type]


def received(inbox: Inbox) -> list[Path]:
    return sorted(file for folder in inbox.waiting() for file in folder.iterdir())


def assert_same_instances(originals: Path, files: list[Path]) -> None:
    found = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, files)}
    expected = [pydicom.dcmread(path) for path in sorted(originals.iterdir())]
    assert found.keys() == {dataset.SOPInstanceUID for dataset in expected}
    for dataset in expected:
        other = found[dataset.SOPInstanceUID]
        assert other.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        assert other.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert other.file_meta.MediaStorageSOPClassUID == CT
        assert other.PixelData == dataset.PixelData


def test_every_transfer_syntax_arrives_as_it_was_sent(listener: Listener, inbox: Inbox, mixed: Path) -> None:
    result = push_dimse(sorted(mixed.iterdir()), node_of(listener))
    assert (len(result.stored), result.failed) == (8, {})
    assert_same_instances(mixed, received(inbox))
    assert list(inbox.root.glob(".incoming/*")) == []


def test_storescu_of_dcmtk_is_served(listener: Listener, inbox: Inbox, mixed: Path, tmp_path: Path) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("the Debian package dcmtk is not installed")
    for name, option in {"explicit": "-xe", "jpegls": "-xt", "jpeg": "-xs", "rle": "-xr", "deflated": "-xd"}.items():
        command = [program, option, "-aet", "DCMTK", "-aec", "NODULEFLOW", "127.0.0.1", str(listener._params.port)]
        done = subprocess.run([*command, str(mixed / f"{name}.dcm")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (tmp_path / "sent").mkdir(exist_ok=True)
        shutil.copy(mixed / f"{name}.dcm", tmp_path / "sent")
    assert_same_instances(tmp_path / "sent", received(inbox))


def test_orthanc_takes_a_push_as_it_is_and_again_without_change(mixed: Path, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        node = DicomNode("127.0.0.1", orthanc.dicom_port, "ORTHANC", timeout_s=10)
        echo(node)
        for _ in range(2):
            result = push_dimse(sorted(mixed.iterdir()), node)
            assert (len(result.stored), result.failed) == (8, {})
        assert orthanc.count() == 8
        for file in sorted((tmp_path / "orthanc" / "storage").rglob("*")):
            if file.is_file() and file.stat().st_size > 1000 and file.read_bytes()[128:132] == b"DICM":
                dataset = pydicom.dcmread(file)
                (original,) = [
                    other
                    for other in map(pydicom.dcmread, mixed.iterdir())
                    if other.SOPInstanceUID == dataset.SOPInstanceUID
                ]
                assert dataset.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
                assert dataset.PixelData == original.PixelData


def test_the_same_instance_twice_is_kept_once_and_another_one_under_its_uid_beside_it(
    listener: Listener, inbox: Inbox, tmp_path: Path
) -> None:
    dataset = slices_of(truth_of(), "P1")[0]
    save(dataset, tmp_path / "a" / "1.dcm")
    dataset.RescaleIntercept = -1000
    save(dataset, tmp_path / "b" / "2.dcm")
    for _ in range(2):
        assert len(push_dimse([tmp_path / "a" / "1.dcm"], node_of(listener)).stored) == 1
    assert len(received(inbox)) == 1
    push_dimse([tmp_path / "b" / "2.dcm"], node_of(listener))
    files = received(inbox)
    assert len(files) == 2
    assert len({file.name.split("-")[0] for file in files}) == 1
    assert listener.outcomes == {"stored": 2, "repeated": 1}


def test_no_name_of_the_inbox_shows_an_identifier(listener: Listener, inbox: Inbox, mixed: Path) -> None:
    push_dimse(sorted(mixed.iterdir()), node_of(listener))
    names = "\n".join(str(path.relative_to(inbox.root)) for path in inbox.root.rglob("*"))
    for path in mixed.iterdir():
        dataset = pydicom.dcmread(path)
        for value in (dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.PatientID, "SCANNER"):
            assert str(value) not in names


def test_nothing_of_a_data_set_reaches_a_log(
    listener: Listener, mixed: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        push_dimse(sorted(mixed.iterdir()), node_of(listener))
    text = caplog.text + "".join(capfd.readouterr())
    uid = str(pydicom.dcmread(mixed / "explicit.dcm").SOPInstanceUID)
    assert uid not in text
    assert NAME.split("^")[0] not in text


def test_titles_and_hosts_that_are_not_on_the_list_are_turned_away(inbox: Inbox, mixed: Path) -> None:
    files = sorted(mixed.iterdir())[:1]
    listener = started(inbox, calling_aets=("SCANNER", "OTHER"), check_called_aet=True)
    try:
        assert len(push_dimse(files, node_of(listener)).stored) == 1
        for wrong in ({"calling_aet": "STRANGER"}, {"called_aet": "SOMEBODY"}):
            with pytest.raises(ExchangeError, match="refuses the association"):
                push_dimse(files, node_of(listener, attempts=1, **wrong))
    finally:
        listener.stop(0)
    listener = started(inbox, calling_hosts=("10.1.2.0/24",))
    try:
        with pytest.raises(ExchangeError, match="refuses the association"):
            push_dimse(files, node_of(listener, attempts=1))
    finally:
        listener.stop(0)
    listener = started(inbox, calling_hosts=("10.1.2.0/24", "127.0.0.0/8"))
    try:
        assert len(push_dimse(files, node_of(listener, called_aet="ANY-SCP")).stored) == 1
    finally:
        listener.stop(0)


@pytest.mark.parametrize(
    "values", [{"aet": ""}, {"aet": "A" * 17}, {"aet": "A\\B"}, {"calling_aets": ("Ä",)}, {"calling_hosts": ("pacs",)}]
)
def test_what_is_no_title_or_host_is_a_usage_error(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ListenerParams(**values)  # type: ignore[arg-type]


def sent(listener: Listener, dataset: bytes, sop_instance: str, sop_class: str = CT) -> int:
    """The status of a C-STORE of any bytes whatsoever, in explicit little endian."""
    entity = AE("SCANNER")
    entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", listener._params.port, ae_title="NODULEFLOW")
    assert association.is_established
    from io import BytesIO

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance
    request.DataSet = BytesIO(dataset)
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.001)
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert isinstance(answer, C_STORE)
    return int(answer.Status or 0)


def test_what_cannot_be_understood_is_refused_and_leaves_nothing(listener: Listener, inbox: Inbox, mixed: Path) -> None:
    whole = (mixed / "explicit.dcm").read_bytes()
    dataset = pydicom.dcmread(mixed / "explicit.dcm")
    body = whole[132 + 12 + dataset.file_meta.FileMetaInformationGroupLength :]
    assert sent(listener, body, dataset.SOPInstanceUID) == 0x0000
    assert sent(listener, body[:-50], dataset.SOPInstanceUID) == 0xC000
    assert sent(listener, b"garbage" * 50, dataset.SOPInstanceUID) == 0xC000
    assert sent(listener, body, "1.2.3.4") == 0xA900
    assert sent(listener, body, dataset.SOPInstanceUID, "1.2.840.10008.5.1.4.1.1.4") == 0xA900
    assert len(received(inbox)) == 1
    assert list(inbox.root.glob(".incoming/*")) == []
    assert listener.outcomes == {"stored": 1, "malformed": 2, "not as announced": 2}


def test_a_full_disk_is_told_to_the_sender_and_spoils_nothing(tmp_path: Path, mixed: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(room)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        small = Inbox(room / "inbox", key, reserve_bytes=0)
        listener = started(small)
        try:
            files = []
            for number, dataset in enumerate(slices_of(truth_of(), "FULL")):
                save(dataset, tmp_path / "many" / f"{number}.dcm")
                files.append(tmp_path / "many" / f"{number}.dcm")
            result = push_dimse(files, node_of(listener, attempts=1))
        finally:
            listener.stop(0)
        assert 4 <= len(result.stored) <= 16
        assert set(result.failed.values()) == {"out of resources (A700H)"}
        assert len(received(small)) == len(result.stored)
        assert list(small.root.glob(".incoming/*")) == []
        uids = {pydicom.dcmread(file).SOPInstanceUID for file in received(small)}
        assert uids == {pydicom.dcmread(file).SOPInstanceUID for file in result.stored}
    finally:
        subprocess.run(["umount", str(room)], check=True)


def test_the_reserve_of_the_disk_is_kept(tmp_path: Path, mixed: Path) -> None:
    careful = Inbox(tmp_path / "inbox", key, reserve_bytes=1 << 60)
    listener = started(careful)
    try:
        result = push_dimse([mixed / "explicit.dcm"], node_of(listener, attempts=1))
    finally:
        listener.stop(0)
    assert list(result.failed.values()) == ["out of resources (A700H)"]


def test_a_taken_port_is_one_clear_line(listener: Listener, inbox: Inbox) -> None:
    with pytest.raises(ExchangeError) as caught:
        Listener(inbox, listener._params).start()
    assert "cannot listen (Address already in use)" in caught.value.line()


def test_too_many_associations_are_turned_away_and_idle_ones_are_ended(inbox: Inbox) -> None:
    listener = Listener(inbox, ListenerParams(port=free_port(), timeout_s=1.0, max_associations=2))
    listener.start()
    try:
        entity = AE("SCANNER")
        entity.add_requested_context(CT)
        entity.network_timeout = None
        held = [entity.associate("127.0.0.1", listener._params.port, ae_title="NODULEFLOW") for _ in range(3)]
        assert [association.is_established for association in held] == [True, True, False]
        assert listener.idle_s() == 0.0
        deadline = time.monotonic() + 10
        while listener.idle_s() == 0.0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert listener.idle_s() > 0, "silent associations are aborted after the timeout"
    finally:
        listener.stop(0)
        entity.shutdown()


def test_stopping_waits_for_an_open_association_and_no_longer_than_told(listener: Listener, mixed: Path) -> None:
    entity = AE("SCANNER")
    entity.add_requested_context(CT)
    association = entity.associate("127.0.0.1", listener._params.port, ae_title="NODULEFLOW")
    stopping = threading.Thread(target=listener.stop, args=(5.0,))
    stopping.start()
    time.sleep(0.6)
    assert association.is_established
    assert association.send_c_store(pydicom.dcmread(mixed / "explicit.dcm")).Status == 0
    association.release()
    stopping.join(3)
    assert not stopping.is_alive()


def test_an_association_that_never_ends_is_aborted_after_the_grace(listener: Listener) -> None:
    entity = AE("SCANNER")
    entity.add_requested_context(CT)
    association = entity.associate("127.0.0.1", listener._params.port, ae_title="NODULEFLOW")
    assert association.is_established
    began = time.monotonic()
    listener.stop(0.3)
    assert time.monotonic() - began < 4
    entity.shutdown()


def test_a_sender_is_served_in_the_transfer_syntax_it_names_first(listener: Listener) -> None:
    entity = AE("SCANNER")
    entity.add_requested_context(CT, [JPEGLSLossless, ImplicitVRLittleEndian])
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2.1", [ExplicitVRLittleEndian, JPEG2000Lossless])
    association = entity.associate("127.0.0.1", listener._params.port, ae_title="NODULEFLOW")
    chosen = [context.transfer_syntax[0] for context in association.accepted_contexts]
    association.release()
    assert chosen == [JPEGLSLossless, ExplicitVRLittleEndian]


def test_every_ct_class_is_taken_in_every_syntax_that_can_be_decoded_and_in_no_video() -> None:
    contexts = {
        str(context.abstract_syntax): {str(s) for s in context.transfer_syntax} for context in contexts_we_take()
    }
    for sop_class in (CT, "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"):
        assert set(SYNTAXES.values()) <= contexts[sop_class]
        assert "1.2.840.10008.1.2.4.102" not in contexts[sop_class]
    assert "1.2.840.10008.1.1" in contexts


def test_files_that_cannot_be_sent_are_named_and_stop_no_other(listener: Listener, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no DICOM")
    whole = (mixed / "explicit.dcm").read_bytes()
    (tmp_path / "torn.dcm").write_bytes(whole[:-90])
    video = pydicom.dcmread(mixed / "jpegls.dcm")
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    video.save_as(tmp_path / "video.dcm", enforce_file_format=False)
    files = [tmp_path / "note.txt", tmp_path / "torn.dcm", tmp_path / "video.dcm", mixed / "rle.dcm"]
    result = push_dimse(files, node_of(listener))
    assert result.stored == [mixed / "rle.dcm"]
    assert result.failed[tmp_path / "note.txt"] == "not a DICOM file"
    assert result.failed[tmp_path / "torn.dcm"] == "the file is cut short"
    assert "does not take" in result.failed[tmp_path / "video.dcm"]


def test_a_push_goes_on_over_a_new_association_where_one_was_lost(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.exchange.dimse._FIRST_PAUSE_S", 0.02)
    write_series(tmp_path / "s", slices_of(truth_of(), "LOST")[:6])
    listener = started(inbox)
    put, calls = inbox.put, iter(range(100))

    def put_and_lose(*arguments: object) -> object:
        if next(calls) == 3:
            for association in listener._entity.active_associations:
                association.abort()
        return put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(inbox, "put", put_and_lose)
    try:
        result = push_dimse(sorted((tmp_path / "s").iterdir()), node_of(listener, attempts=3))
    finally:
        listener.stop(0)
    assert (len(result.stored), result.failed) == (6, {})
    assert len(received(inbox)) == 6


def test_a_node_that_is_not_there_is_one_clear_line(mixed: Path) -> None:
    node = DicomNode("127.0.0.1", free_port(), "NOBODY", attempts=1, timeout_s=5)
    with pytest.raises(ExchangeError, match="cannot be reached"):
        push_dimse(sorted(mixed.iterdir()), node)
    with pytest.raises(UsageError):
        DicomNode("127.0.0.1", 0, "NOBODY")
