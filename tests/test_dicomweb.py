"""Pull and push by DICOMweb against a real Orthanc: every byte kept, every failure named, nothing twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dicom_factory import compress, save, slices_of, truth_of, write_series
from faulty_proxy import Fault, FaultyProxy
from orthanc_server import Orthanc, free_port
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless
from small_studies import write_studies

from data_contracts.errors import DecodeError, ExchangeError, UsageError
from pipeline.exchange.dicomweb import PulledSeries, parse_moment, pull_study
from pipeline.exchange.instance_file import examine
from pipeline.exchange.multipart import CutShortError, MultipartFiles, MultipartReader, boundary_of
from pipeline.exchange.qido import find_instances, find_series, find_studies
from pipeline.exchange.stow import push_dicomweb
from pipeline.exchange.wado import RetrievedSeries, manifest_of, retrieve_series
from pipeline.exchange.web_client import RefusedError, WebClient
from pipeline.exchange.web_server import WebServer

pytestmark = pytest.mark.server


def key_of(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def name_of(uid: str) -> str:
    return f"{key_of(uid)}.dcm"


def server(url: str, **options: object) -> WebServer:
    return WebServer(url, **{"timeout_s": 5.0, "attempts": 3, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def series_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 slices in JPEG-LS."""
    folder = tmp_path_factory.mktemp("series")
    datasets = slices_of(truth_of(), "P1")
    for dataset in datasets:
        compress(dataset, JPEGLSLossless)
    write_series(folder, datasets, JPEGLSLossless)
    return folder


@pytest.fixture(scope="module")
def orthanc(series_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that holds the series; its tests add only studies of their own."""
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        result = push_dicomweb(sorted(series_folder.iterdir()), server(running.url))
        assert (len(result.stored), result.failed) == (24, {})
        yield running


@pytest.fixture
def proxy(orthanc: Orthanc) -> Iterator[FaultyProxy]:
    with FaultyProxy(orthanc.root) as running:
        yield running


@pytest.fixture(scope="module")
def study(series_folder: Path) -> str:
    return str(pydicom.dcmread(series_folder / "000.dcm").StudyInstanceUID)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.exchange.web_client._FIRST_PAUSE_S", 0.02)


def fetch(url: str, study_uid: str, folder: Path, **options: object) -> RetrievedSeries:
    with WebClient(server(url, **options)) as client:
        (series,) = find_series(client, study_uid, modality="CT")
        return retrieve_series(client, series, find_instances(client, series), folder, name_of)


def assert_same_files(original: Path, retrieved: Path) -> None:
    """Every instance once, in the transfer syntax it was stored in, its pixel data byte by byte."""
    fetched = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, retrieved.iterdir())}
    originals = [pydicom.dcmread(path) for path in sorted(original.rglob("*.dcm"))]
    assert fetched.keys() == {dataset.SOPInstanceUID for dataset in originals}
    for dataset in originals:
        other = fetched[dataset.SOPInstanceUID]
        assert other.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        assert other.PixelData == dataset.PixelData
        assert {e.tag: e.value for e in other if e.tag.group < 0x7FE0} == {
            e.tag: e.value for e in dataset if e.tag.group < 0x7FE0
        }


def test_a_series_comes_back_in_its_own_transfer_syntax_with_every_byte_of_its_pixels(
    orthanc: Orthanc, study: str, series_folder: Path, tmp_path: Path
) -> None:
    result = fetch(orthanc.url, study, tmp_path / "s")
    assert (result.n_fetched, result.n_kept, result.missing) == (24, 0, {})
    assert_same_files(series_folder, tmp_path / "s")
    assert list(tmp_path.glob(".*")) == []


def test_file_names_and_messages_show_no_uid(orthanc: Orthanc, study: str, tmp_path: Path) -> None:
    fetch(orthanc.url, study, tmp_path / "s")
    names = " ".join(path.name for path in tmp_path.rglob("*"))
    manifest = manifest_of(tmp_path / "s").read_text()
    for path in (tmp_path / "s").iterdir():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        for uid in (dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID):
            assert uid not in names + manifest


def test_big_endian_and_deflated_instances_come_back_as_they_were(orthanc: Orthanc, tmp_path: Path) -> None:
    for number, syntax in enumerate((ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)):
        datasets = slices_of(truth_of(), f"SYNTAX{number}")[:3]
        write_series(tmp_path / f"in{number}", datasets, syntax)
        files = sorted((tmp_path / f"in{number}").iterdir())
        assert push_dicomweb(files, server(orthanc.url)).failed == {}
        fetch(orthanc.url, datasets[0].StudyInstanceUID, tmp_path / f"out{number}")
        assert_same_files(tmp_path / f"in{number}", tmp_path / f"out{number}")


def test_the_second_time_nothing_is_fetched(proxy: FaultyProxy, study: str, tmp_path: Path) -> None:
    fetch(proxy.url, study, tmp_path / "s")
    proxy.seen.clear()
    again = fetch(proxy.url, study, tmp_path / "s")
    assert (again.n_fetched, again.n_kept) == (0, 24)
    assert not [item for item in proxy.seen if "multipart" in item.headers["Accept"]]


def test_files_that_a_power_cut_tore_or_emptied_are_fetched_again(orthanc: Orthanc, study: str, tmp_path: Path) -> None:
    fetch(orthanc.url, study, tmp_path / "s")
    torn, zeroed, stranger = sorted((tmp_path / "s").iterdir())[:3]
    torn.write_bytes(torn.read_bytes()[:-100])
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    stranger.rename(tmp_path / "s" / "half.dcm")
    again = fetch(orthanc.url, study, tmp_path / "s")
    assert (again.n_fetched, again.n_kept) == (3, 21)
    assert len(list((tmp_path / "s").iterdir())) == 24


@pytest.mark.parametrize("kind", ["busy", "broken", "dropped"])
def test_a_server_that_fails_now_and_then_is_asked_again(
    kind: str, proxy: FaultyProxy, study: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault("/series", kind), Fault("/instances", kind), Fault("series/[0-9.]+$", kind)]
    result = fetch(proxy.url, study, tmp_path / "s")
    assert (result.n_fetched, result.missing) == (24, {})
    assert all(fault.times == 0 for fault in proxy.faults)


def test_a_server_that_asks_for_a_pause_gets_it(proxy: FaultyProxy, study: str, tmp_path: Path) -> None:
    proxy.faults = [Fault("series/[0-9.]+$", "busy", value="1")]
    fetch(proxy.url, study, tmp_path / "s")
    first, second = (item.at for item in proxy.seen if item.path.rsplit("/", 2)[1] == "series")
    assert 1.0 <= second - first < 3


def test_a_server_that_asks_for_an_hour_is_left_alone_at_once(proxy: FaultyProxy, study: str, tmp_path: Path) -> None:
    proxy.faults = [Fault("/series", "busy", times=9, value="3600")]
    with pytest.raises(ExchangeError, match="come back in 3600 s"):
        fetch(proxy.url, study, tmp_path / "s")
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("kind", ["shorter", "torn"])
def test_a_series_that_breaks_off_goes_on_instance_by_instance(
    kind: str, proxy: FaultyProxy, study: str, series_folder: Path, tmp_path: Path
) -> None:
    proxy.faults = [Fault("series/[0-9.]+$", kind)]
    result = fetch(proxy.url, study, tmp_path / "s")
    assert (result.n_fetched, result.missing) == (24, {})
    alone = proxy.paths("/instances/[0-9.]+$")
    assert 6 <= len(alone) <= 10, "only what had not arrived is asked for"
    assert_same_files(series_folder, tmp_path / "s")


def test_an_instance_that_is_cut_is_fetched_again_and_then_listed(
    proxy: FaultyProxy, study: str, series_folder: Path, tmp_path: Path
) -> None:
    bad = str(pydicom.dcmread(series_folder / "005.dcm").SOPInstanceUID)
    good = str(pydicom.dcmread(series_folder / "009.dcm").SOPInstanceUID)
    proxy.faults = [
        Fault("series/[0-9.]+$", "html", times=99),
        Fault(f"/instances/{bad}$", "torn", times=99),
        Fault(f"/instances/{good}$", "torn", times=1),
    ]
    result = fetch(proxy.url, study, tmp_path / "s")
    assert list(result.missing) == [bad]
    assert "before its last boundary" in result.missing[bad]
    assert len(proxy.paths(f"/instances/{bad}$")) == 2
    assert result.n_fetched == 23


def test_a_file_whose_pixels_are_cut_inside_a_whole_answer_is_not_taken(
    proxy: FaultyProxy, study: str, tmp_path: Path
) -> None:
    def cut_pixels(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        mark = b"\r\n--" + boundary_of(headers["Content-Type"]).encode()
        end = body.rindex(mark, 0, body.rindex(mark))
        last = body.rindex(mark)
        return status, headers, body[: last - 60] + body[last:] if end else body

    proxy.faults = [Fault("series/[0-9.]+$", cut_pixels)]
    result = fetch(proxy.url, study, tmp_path / "s")
    assert result.missing == {}
    assert len(proxy.paths("/instances/[0-9.]+$")) == 1
    for file in (tmp_path / "s").iterdir():
        examine(file)


@pytest.mark.parametrize(
    ("kind", "words"), [("html", "an HTML page"), ("xml", "XML"), ("json", "no valid JSON")], ids=lambda value: value
)
def test_an_answer_that_is_no_dicom_json_is_one_clear_line(
    kind: str, words: str, proxy: FaultyProxy, study: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault("/series", kind, times=9)]
    with pytest.raises(ExchangeError) as caught:
        fetch(proxy.url, study, tmp_path / "s")
    assert words in caught.value.line()
    assert study not in caught.value.line()


def test_a_login_page_in_place_of_instances_is_named_and_not_asked_for_without_end(
    proxy: FaultyProxy, study: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault("series/[0-9.]+(/instances/[0-9.]+)?$", "html", times=999)]
    result = fetch(proxy.url, study, tmp_path / "s", connections=1)
    assert len(result.missing) == 24
    assert "an HTML page in place of DICOM" in next(iter(result.missing.values()))
    assert len(proxy.seen) < 30


def test_a_server_that_only_drips_is_given_up_in_bounded_time(proxy: FaultyProxy, study: str, tmp_path: Path) -> None:
    proxy.faults = [Fault("/series", "drip", times=9)]
    started = time.monotonic()
    with pytest.raises(ExchangeError, match="not answer in time"):
        fetch(proxy.url, study, tmp_path / "s", timeout_s=0.6, attempts=2)
    assert time.monotonic() - started < 6


def test_a_gzip_encoded_answer_is_understood(proxy: FaultyProxy, study: str, tmp_path: Path) -> None:
    proxy.faults = [Fault("/series", "gzip", times=9)]
    assert fetch(proxy.url, study, tmp_path / "s").n_fetched == 24


def test_an_old_server_that_refuses_the_wildcard_is_asked_more_plainly(
    proxy: FaultyProxy, study: str, tmp_path: Path
) -> None:
    def refuse(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 406, {}, b""

    proxy.faults = [Fault("series/[0-9.]+$", refuse)]
    assert fetch(proxy.url, study, tmp_path / "s").n_fetched == 24
    assert len(proxy.paths("series/[0-9.]+$")) == 2


def test_redirects_are_followed_and_another_host_gets_no_credentials(
    orthanc: Orthanc, study: str, tmp_path: Path
) -> None:
    with FaultyProxy(orthanc.root) as other, FaultyProxy(orthanc.root) as first:
        stranger = other.root.replace("127.0.0.1", "localhost")
        first.faults = [Fault("/series", "redirect", times=99, value=f"{stranger}/dicom-web/studies/{study}/series")]
        with WebClient(server(first.url, user="doctor", password="hunter2")) as client:
            assert len(find_series(client, study)) == 1
        assert "Authorization" in first.seen[0].headers
        assert other.seen
        assert all("Authorization" not in item.headers for item in other.seen)


def test_credentials_are_sent_only_where_they_are_safe_and_are_never_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unencrypted") as caught:
        WebServer("http://pacs.example/dicom-web", user="doctor", password="hunter2")
    assert "hunter2" not in caught.value.line()
    allowed = WebServer("http://pacs.example/dicom-web", user="doctor", password="hunter2", allow_plain_http=True)
    assert "hunter2" not in repr(allowed)
    with pytest.raises(UsageError, match="holds credentials") as caught:
        WebServer("https://doctor:hunter2@pacs.example/dicom-web")
    assert "hunter2" not in caught.value.line()
    for wrong in ("pacs.example", "ftp://pacs.example/", "http://", "http://host:port/"):
        with pytest.raises(UsageError, match="not the address"):
            WebServer(wrong)
    with pytest.raises(UsageError, match="certificate"):
        WebServer("https://pacs.example", ca_bundle=tmp_path / "absent.pem")


def test_basic_authentication_opens_a_server_and_its_absence_is_named(
    series_folder: Path, study: str, tmp_path: Path
) -> None:
    options = {"AuthenticationEnabled": True, "RegisteredUsers": {"doctor": "hunter2"}}
    with Orthanc(tmp_path / "orthanc", **options) as closed:
        known = server(closed.url, user="doctor", password="hunter2")
        assert push_dicomweb(sorted(series_folder.iterdir())[:2], known).failed == {}
        for wrong in (
            server(closed.url),
            server(closed.url, user="doctor", password="x"),
            server(closed.url, token="t"),
        ):
            with WebClient(wrong) as client, pytest.raises(RefusedError, match="401") as caught:
                list(find_studies(client))
            assert "NODULEFLOW_DICOMWEB_USER" in caught.value.line()
            with pytest.raises(ExchangeError, match="401"):
                push_dicomweb(sorted(series_folder.iterdir())[:2], wrong)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem and client.pem (certificate and key in one file), made for these tests."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.now(UTC)

    def issue(name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> Any:
        own, subject = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        )
        by_name, by_key = issuer or (subject, own)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by_name).public_key(own.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = builder.add_extension(address, critical=False).sign(by_key, hashes.SHA256())
        secret = own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
        return subject, own

    authority = issue("ca", None)
    issue("server", authority)
    issue("client", authority)
    return folder


def test_tls_needs_the_right_authority_and_shows_our_certificate(
    orthanc: Orthanc, study: str, certificates: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with FaultyProxy(orthanc.root, tls=context) as proxy:
        whole = {"ca_bundle": certificates / "ca.pem", "client_certificate": certificates / "client.pem"}
        with WebClient(server(proxy.url, **whole, user="doctor", password="hunter2")) as client:
            assert len(find_series(client, study)) == 1
        for missing, words in (("ca_bundle", "TLS connection is refused"), ("client_certificate", "")):
            some = {name: value for name, value in whole.items() if name != missing}
            with WebClient(server(proxy.url, **some, attempts=2)) as client, pytest.raises(ExchangeError) as caught:
                find_series(client, study)
            assert words in caught.value.line()


def paged(proxy: FaultyProxy, rule: str) -> None:
    """Make the proxy page as `rule` says, whatever it is asked."""

    def page(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        items = json.loads(body)
        if rule == "caps":
            items = items[:7]
        if rule == "ignores the offset, caps and says so":
            items, headers["Warning"] = items[:7], '299 service "The number of results exceeded the maximum"'
        return status, headers, json.dumps(items).encode()

    proxy.faults = [Fault("/instances\\?", page, times=99)]


def test_a_server_that_gives_fewer_matches_a_page_than_asked_is_asked_to_the_end(
    proxy: FaultyProxy, study: str
) -> None:
    paged(proxy, "caps")
    with WebClient(server(proxy.url)) as client:
        (series,) = find_series(client, study)
        assert len(set(find_instances(client, series))) == 24
    assert len(proxy.paths("/instances")) == 5  # 7, 7, 7, 3, and the empty one


def test_a_server_that_ignores_limit_and_offset_gives_each_match_once(
    proxy: FaultyProxy, orthanc: Orthanc, study: str
) -> None:
    with WebClient(server(orthanc.url)) as client:
        (series,) = find_series(client, study)
        whole = find_instances(client, series)
    everything = json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in whole]).encode()
    proxy.faults = [Fault("/instances", lambda status, headers, body: (200, headers, everything), times=99)]
    with WebClient(server(proxy.url)) as client:
        assert find_instances(client, series) == whole


def test_a_server_that_cannot_page_and_holds_more_is_refused(proxy: FaultyProxy, study: str) -> None:
    some = json.dumps([{"00080018": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(5)]).encode()
    warned = {"Warning": "299 pacs more", "Content-Type": "application/dicom+json"}
    proxy.faults = [Fault("/instances", lambda status, headers, body: (200, warned, some), times=99)]
    with WebClient(server(proxy.url)) as client:
        (series,) = find_series(client, study)
        with pytest.raises(ExchangeError, match="cannot page"):
            find_instances(client, series)


@pytest.mark.parametrize("n", [3, 4, 9])
def test_a_server_that_takes_the_offset_off_its_limit_hides_no_study(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc does so for a list by modality: of 2000 studies it showed one page."""
    monkeypatch.setattr("pipeline.exchange.qido._PAGE", 2)
    files = sorted(write_studies(tmp_path / "studies", 2 * n, n_slices=1).rglob("*.dcm"))
    for file in files[::2]:
        other = pydicom.dcmread(file)
        other.Modality = "MR"
        other.save_as(file)
    with Orthanc(tmp_path / "orthanc") as pacs:
        assert not push_dicomweb(files, server(pacs.url)).failed
        with WebClient(server(pacs.url)) as client:
            for modality, n_there in (("CT", n), ("", 2 * n)):
                found = [study.uid for study in find_studies(client, modality=modality)]
                assert len(found) == len(set(found)) == n_there


def test_malformed_uids_of_a_server_are_passed_over(proxy: FaultyProxy, study: str) -> None:
    hostile = ["../../etc/passwd", "1.2.840", "1.2\r\nX: y", "9" * 65, None, 7, {"a": 1}]
    body = json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in hostile] + [{}]).encode()
    proxy.faults = [Fault("/instances", lambda status, headers, _: (200, headers, body), times=99)]
    with WebClient(server(proxy.url)) as client:
        (series,) = find_series(client, study)
        assert find_instances(client, series) == ["1.2.840", "7"]


def test_a_search_by_day_and_modality_finds_what_is_there(orthanc: Orthanc, study: str, tmp_path: Path) -> None:
    late = slices_of(truth_of(), "LATE")[0]
    late.StudyDate, late.StudyTime = "20250102", "235901.123"
    other = slices_of(truth_of(), "OTHER")[0]
    other.Modality, other.StudyDate = "MR", "20250103"
    save(late, tmp_path / "late.dcm")
    save(other, tmp_path / "other.dcm")
    assert push_dicomweb([tmp_path / "late.dcm", tmp_path / "other.dcm"], server(orthanc.url)).failed == {}
    with WebClient(server(orthanc.url)) as client:
        found = [item.uid for item in find_studies(client, modality="CT")]
        assert found[-1] == late.StudyInstanceUID, "oldest first"
        assert study in found
        assert other.StudyInstanceUID not in found
        since = [(item.uid, item.moment) for item in find_studies(client, since="20250102", modality="CT")]
        assert since == [(late.StudyInstanceUID, "20250102235901")]
        assert list(find_studies(client, since="20250102235902", modality="CT")) == []
        assert len(list(find_studies(client, since="20250102", modality=""))) == 2


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2026-11-20", "20261120"), ("20261120", "20261120"), ("2026-11-20T14:05", "20261120140500")],
)
def test_a_moment_is_a_day_or_a_day_and_a_time(text: str, moment: str) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "2026", "20261120251000"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_moment(text)


def test_a_server_killed_in_the_middle_leaves_what_arrived_and_the_next_run_goes_on(
    series_folder: Path, study: str, tmp_path: Path
) -> None:
    with Orthanc(tmp_path / "orthanc") as mortal:
        push_dicomweb(sorted(series_folder.iterdir()), server(mortal.url))
        with FaultyProxy(mortal.root) as proxy:
            proxy.faults = [Fault("series/[0-9.]+$", "html", times=99)]
            alone = iter(range(10**6))

            def kill_at_ten(path: str) -> None:
                if "/instances/" in path and next(alone) == 10:
                    mortal.kill()

            proxy.started = kill_at_ten
            with pytest.raises(ExchangeError) as caught:
                fetch(proxy.url, study, tmp_path / "s", attempts=2, connections=2)
            assert "run the same command again" in caught.value.line()
        arrived = len(list((tmp_path / "s").iterdir()))
        assert 8 <= arrived <= 12
        mortal.start()
        again = fetch(mortal.url, study, tmp_path / "s")
        assert (again.n_kept, again.n_fetched, again.missing) == (arrived, 24 - arrived, {})
        assert_same_files(series_folder, tmp_path / "s")


def test_a_server_that_is_not_there_is_one_clear_line(study: str, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError) as caught:
        fetch(f"http://127.0.0.1:{free_port()}/dicom-web", study, tmp_path / "s", attempts=2)
    line = caught.value.line()
    assert "cannot be reached" in line
    assert "Tried 2 times" in line
    assert study not in line


def test_a_study_is_pulled_series_by_series_and_what_is_known_is_left_out(
    orthanc: Orthanc, study: str, tmp_path: Path
) -> None:
    known: dict[str, tuple[int, str]] = {}

    def pull() -> list[PulledSeries | None]:
        with WebClient(server(orthanc.url)) as client:
            return list(
                pull_study(
                    client,
                    study,
                    tmp_path / "study",
                    modality="CT",
                    key_of=key_of,
                    is_known=lambda key, n, listing: key in known and n in (None, known[key][0]),
                )
            )

    (first,) = pull()
    assert first is not None
    assert (first.n_listed, first.gap) == (24, "")
    known[first.key] = first.n_listed, first.listing
    assert pull() == [None]
    known[first.key] = 23, first.listing
    (grown,) = pull()
    assert grown is not None


def test_a_series_of_which_an_instance_cannot_be_had_says_so(
    proxy: FaultyProxy, study: str, series_folder: Path, tmp_path: Path
) -> None:
    bad = str(pydicom.dcmread(series_folder / "005.dcm").SOPInstanceUID)

    def without_first(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 404, {}, b""

    proxy.faults = [
        Fault("series/[0-9.]+$", "html", times=99),
        Fault(f"/instances/{bad}$", without_first, times=99),
    ]
    with WebClient(server(proxy.url)) as client:
        (series,) = pull_study(
            client, study, tmp_path, modality="CT", key_of=key_of, is_known=lambda key, n, listing: False
        )
    assert series is not None
    assert series.gap == "1 of 24 instances cannot be had: 1 x the server no longer has it"


def test_a_push_says_the_fate_of_every_file_and_a_second_one_changes_nothing(orthanc: Orthanc, tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "PUSH")[:5]
    write_series(tmp_path / "s", datasets)
    files = sorted((tmp_path / "s").iterdir())
    (tmp_path / "note.txt").write_text("no DICOM")
    torn = tmp_path / "torn.dcm"
    torn.write_bytes(files[0].read_bytes()[:-500])
    before = orthanc.count()
    for _ in range(2):
        result = push_dicomweb([files[0], tmp_path / "note.txt", *files[1:], torn], server(orthanc.url), batch_files=2)
        assert sorted(result.stored) == files
        assert result.failed == {tmp_path / "note.txt": "not a DICOM file", torn: "the file is cut short"}
        assert orthanc.count() == before + 5


def test_one_file_that_a_server_refuses_stops_no_other_of_its_batch(
    proxy: FaultyProxy, orthanc: Orthanc, tmp_path: Path
) -> None:
    write_series(tmp_path / "s", slices_of(truth_of(), "BATCH")[:4])
    files = sorted((tmp_path / "s").iterdir())

    def refuse(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 400, {}, b"one of these is bad"

    proxy.faults = [Fault("/studies$", refuse), Fault("/studies$", refuse, skip=1)]
    result = push_dicomweb(files, server(proxy.url))
    assert len(result.stored) == 3
    assert list(result.failed.values()) == ["the server answers 400 without saying what it stored"]


def test_a_push_is_tried_again_where_the_server_is_busy_or_gone_for_a_moment(
    proxy: FaultyProxy, tmp_path: Path
) -> None:
    write_series(tmp_path / "s", slices_of(truth_of(), "AGAIN")[:4])
    files = sorted((tmp_path / "s").iterdir())
    proxy.faults = [Fault("/studies$", "busy", value="0"), Fault("/studies$", "dropped")]
    assert len(push_dicomweb(files, server(proxy.url)).stored) == 4
    assert len(proxy.seen) == 3


def test_a_push_reads_the_reasons_that_a_server_gives(proxy: FaultyProxy, tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "REASON")[:3]
    write_series(tmp_path / "s", datasets)
    uids = [dataset.SOPInstanceUID for dataset in datasets]

    def entry(uid: str, **more: object) -> dict[str, object]:
        return {"00081155": {"vr": "UI", "Value": [uid]}, **more}

    answer = {
        "00081199": {"vr": "SQ", "Value": [entry(uids[0])]},
        "00081198": {
            "vr": "SQ",
            "Value": [
                entry(uids[1], **{"00081197": {"vr": "US", "Value": [0x0111]}}),
                entry(uids[2], **{"00081197": {"vr": "US", "Value": [0xA700]}}),
            ],
        },
    }
    proxy.faults = [Fault("/studies$", lambda *_: (202, {}, json.dumps(answer).encode()))]
    result = push_dicomweb(sorted((tmp_path / "s").iterdir()), server(proxy.url))
    assert len(result.stored) == 2, "an instance that is there already is stored"
    assert result.failed == {tmp_path / "s" / "002.dcm": "out of resources (A700H)"}
    assert result.reasons() == {"out of resources (A700H)": 1}


def pieces_of(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_multipart_body_is_split_alike_however_it_arrives(size: int, tmp_path: Path) -> None:
    contents = [b"", b"\r\n--", b"--b--\r\n" * 9, bytes(range(256)) * 20, b"\r\n\r\n"]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    body = MultipartFiles([tmp_path / str(number) for number in range(len(contents))])
    whole = body.read()
    assert len(whole) == len(body)
    reader = MultipartReader(pieces_of(b"preamble" + whole + b"epilogue", size), body.boundary)
    assert [b"".join(part) for part in reader] == contents
    with pytest.raises(CutShortError):
        for part in MultipartReader(pieces_of(whole[:-40], size), body.boundary):
            for _ in part:
                pass


def test_a_large_part_is_handed_on_in_pieces() -> None:
    body = b"--b\r\n\r\n" + bytes(8 << 20) + b"\r\n--b--"
    (sizes,) = ([len(piece) for piece in part] for part in MultipartReader(pieces_of(body, 1 << 18), "b"))
    assert sum(sizes) == 8 << 20
    assert max(sizes) <= 2 << 20


def test_the_boundary_is_read_quoted_or_not() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == "a b"
    assert boundary_of("multipart/related;boundary=abc; type=x") == "abc"
    with pytest.raises(DecodeError):
        boundary_of("multipart/related")


def test_a_file_is_whole_or_named_in_every_transfer_syntax(series_folder: Path, tmp_path: Path) -> None:
    dataset = slices_of(truth_of(), "WHOLE")[0]
    for number, syntax in enumerate(
        ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    ):
        save(dataset, tmp_path / f"{number}.dcm", syntax)
    shutil.copy(series_folder / "000.dcm", tmp_path / "jpegls.dcm")
    report = slices_of(truth_of(), "REPORT")[0]
    for word in ("PixelData", "Rows", "Columns"):
        delattr(report, word)
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    save(report, tmp_path / "report.dcm")
    for path in sorted(tmp_path.glob("*.dcm")):
        examine(path)
        whole = path.read_bytes()
        for cut in (2, 5, 19, len(whole) // 3, len(whole) // 2):
            path.write_bytes(whole[:-cut])
            with pytest.raises(DecodeError):
                examine(path)


def test_two_threads_may_share_a_client(orthanc: Orthanc, study: str) -> None:
    found: list[int] = []
    with WebClient(server(orthanc.url)) as client:
        threads = [threading.Thread(target=lambda: found.append(len(find_series(client, study)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1] * 8
