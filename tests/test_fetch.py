"""Public studies arrive whole, by size and hash, through drops, damage and kills; and nothing is said to be there that
is not. The bucket is a stand-in on loopback."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from bucket_server import BucketPlan, bucket_server, folder_files
from filelock import FileLock

from data_contracts.errors import ContractError, ExchangeError, NothingUsableError, WorkspaceError
from flows.intake.fetch import fetch_lidc
from pipeline.exchange import public_bucket, public_data
from pipeline.exchange.public_index import citations, index_files, lidc_series

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_bucket, "_LONGEST_WAIT_S", 0.02)


def row(patient: str, series: str, **values: object) -> dict[str, object]:
    facts = {
        "collection_id": "lidc_idri",
        "analysis_result_id": None,
        "PatientID": patient,
        "StudyInstanceUID": f"1.2.{patient[-1]}",
        "SeriesInstanceUID": f"1.2.{patient[-1]}.{series}",
        "Modality": "CT",
        "instanceCount": 3,
        "series_size_MB": 0.3,
        "aws_bucket": "idc-open-data",
        "crdc_series_uuid": f"uuid-{patient[-1]}-{series}",
        "source_DOI": "10.7937/k9/tcia.2015.lo9ql9sx",
        "license_short_name": "CC BY 3.0",
    }
    return {**facts, **values}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Three patients, the first with a report, and another collection's patient."""
    rows = [
        row("P-3", "1"),
        row("P-1", "1"),
        row("P-2", "1"),
        row("P-1", "2", Modality="DX"),
        row("P-1", "3", Modality="SEG", analysis_result_id="dicom_lidc_idri_nodules", instanceCount=1),
        row("P-1", "4", Modality="SR", analysis_result_id="dicom_lidc_idri_nodules", instanceCount=1),
        row("P-1", "5", Modality="SEG", analysis_result_id="qin_lungct_seg"),
        row("P-0", "1", collection_id="nlst"),
    ]
    path = tmp_path / "index.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture
def plan() -> BucketPlan:
    random.seed(7)
    counts = {"uuid-1-1": 3, "uuid-2-1": 3, "uuid-3-1": 3, "uuid-1-3": 1, "uuid-1-4": 1}
    return BucketPlan(
        {f"{uuid}/{n}.dcm": random.randbytes(100_000 + n) for uuid, count in counts.items() for n in range(count)}
    )


def fetched(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*.dcm") if not path.name.startswith(".")}


def assert_whole(out: Path, plan: BucketPlan, patients: int = 3) -> None:
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.suffix in (".dcm", ".part"))
    assert len(files) == 3 * patients
    contents = set(plan.files.values())
    assert all(path.read_bytes() in contents for path in files)


def test_the_first_patients_by_id_come_with_their_marks_licence_and_citation(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with bucket_server(plan) as url:
        record = fetch_lidc(out, 2, url, annotations=True, index=index)
    assert record["patients"] == ["P-1", "P-2"]
    assert (record["n_series"], record["n_files"], record["n_there"]) == (4, 8, 0)
    assert (out / "P-1" / "1.2.1" / "SEG_1.2.1.3" / "0.dcm").read_bytes() == plan.files["uuid-1-3/0.dcm"]
    assert "10.7937/k9/tcia.2015.lo9ql9sx" in (out / "LICENSE.txt").read_text()
    named = json.loads((out / "attribution.json").read_text())
    assert [series["patient_id"] for series in named["series"]] == ["P-1", "P-1", "P-1", "P-2"]


def test_the_same_command_again_asks_for_no_file_and_more_patients_bring_only_the_new(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with bucket_server(plan) as url:
        fetch_lidc(out, 1, url, index=index)
        plan.requests.clear()
        record = fetch_lidc(out, 1, url, index=index)
        assert (record["n_files"], record["n_there"]) == (0, 3)
        assert [name for name, _ in plan.requests] == ["list"]
        record = fetch_lidc(out, 3, url, index=index)
    assert (record["n_files"], record["n_there"]) == (6, 3)
    assert_whole(out, plan)
    assert len(json.loads((out / "attribution.json").read_text())["series"]) == 3


def test_excluded_patients_are_passed_over(index: Path, plan: BucketPlan, tmp_path: Path) -> None:
    (tmp_path / "not.txt").write_text("# kept apart\nP-1\n\nP-2  # too\n")
    with bucket_server(plan) as url:
        record = fetch_lidc(tmp_path / "out", 5, url, index=index, exclude=tmp_path / "not.txt")
        assert record["patients"] == ["P-3"]
        (tmp_path / "not.txt").write_text("P-1\nP-2\nP-3\n")
        with pytest.raises(NothingUsableError):
            fetch_lidc(tmp_path / "out", 5, url, index=index, exclude=tmp_path / "not.txt")


@pytest.mark.parametrize(
    "fault",
    [
        {"faults": Counter({"list": 2, "uuid-1-1/0.dcm": 3, "uuid-2-1/2.dcm": 1})},
        {"cut_bytes": 30_000},
        {"cut_bytes": 30_000, "no_range": True, "drops": 4},
        {"damaged_once": {"uuid-1-1/1.dcm", "uuid-3-1/0.dcm"}},
        {"page": 2},
        {"multipart": {"uuid-1-1/1.dcm"}},
    ],
    ids=["503", "drops", "drops without range", "damage", "pages", "no md5"],
)
def test_whatever_a_bucket_does_for_a_while_the_files_arrive_whole(
    index: Path, plan: BucketPlan, tmp_path: Path, fault: dict[str, object]
) -> None:
    for name, value in fault.items():
        setattr(plan, name, value)
    with bucket_server(plan) as url:
        fetch_lidc(tmp_path / "out", 3, url, index=index)
    assert_whole(tmp_path / "out", plan)


def test_a_dropped_file_goes_on_where_it_broke_off(index: Path, plan: BucketPlan, tmp_path: Path) -> None:
    plan.cut_bytes, plan.drops = 60_000, 3
    with bucket_server(plan) as url:
        fetch_lidc(tmp_path / "out", 1, url, index=index)
    resumed = [asked for name, asked in plan.requests if asked]
    assert resumed == ["bytes=60000-"] * 3


def test_a_file_that_never_fits_its_hash_is_not_there_and_the_others_are(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    plan.wrong_md5 = {"uuid-1-1/1.dcm"}
    with (
        bucket_server(plan) as url,
        pytest.raises(ExchangeError, match="1 of 3 series could not be had whole") as caught,
    ):
        fetch_lidc(tmp_path / "out", 3, url, index=index)
    assert "size or MD5" in caught.value.line()
    names = sorted(path.name for path in (tmp_path / "out" / "P-1").rglob("*.*") if path.is_file())
    assert names == ["0.dcm", "2.dcm"]
    plan.wrong_md5 = set()
    with bucket_server(plan) as url:
        assert fetch_lidc(tmp_path / "out", 3, url, index=index)["n_files"] == 1
    assert_whole(tmp_path / "out", plan)


def test_a_series_of_fewer_files_than_the_index_says_is_no_whole_series(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    del plan.files["uuid-2-1/1.dcm"]
    with bucket_server(plan) as url, pytest.raises(ExchangeError, match="lists 2 files where the index says 3"):
        fetch_lidc(tmp_path / "out", 3, url, index=index)


def test_a_series_of_another_size_than_the_index_says_is_not_that_series(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    table = pd.read_parquet(index)
    table.loc[table["PatientID"] == "P-2", "series_size_MB"] = 7.0
    table.to_parquet(index)
    with bucket_server(plan) as url, pytest.raises(ExchangeError, match=r"0\.3 MB where the index says 7\.0 MB"):
        fetch_lidc(tmp_path / "out", 3, url, index=index)


@pytest.mark.parametrize("suffix", ["", "/", "/idc-open-data"])
def test_an_endpoint_may_name_its_bucket(index: Path, plan: BucketPlan, tmp_path: Path, suffix: str) -> None:
    with bucket_server(plan) as url:
        assert fetch_lidc(tmp_path / "out", 1, url + suffix, index=index)["n_files"] == 3


def test_verify_finds_a_file_that_was_damaged_on_the_disk(index: Path, plan: BucketPlan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with bucket_server(plan) as url:
        fetch_lidc(out, 3, url, index=index)
        path = next(out.rglob("0.dcm"))
        path.write_bytes(bytes(path.stat().st_size))
        assert fetch_lidc(out, 3, url, index=index)["n_files"] == 0
        assert fetch_lidc(out, 3, url, index=index, verify=True)["n_files"] == 1
    assert_whole(out, plan)


def test_a_folder_serves_as_a_bucket(index: Path, plan: BucketPlan, tmp_path: Path) -> None:
    for key, content in plan.files.items():
        path = tmp_path / "mirror" / "idc-open-data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fetch_lidc(tmp_path / "out", 3, str(tmp_path / "mirror"), index=index)
    assert_whole(tmp_path / "out", plan)
    with pytest.raises(ExchangeError):
        fetch_lidc(tmp_path / "out", 3, str(tmp_path / "nowhere"), index=index)


def test_names_out_of_a_bucket_or_an_index_never_leave_the_folder(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    plan.files["uuid-1-1/../../../escaped.dcm"] = b"x"
    with bucket_server(plan) as url, pytest.raises(ExchangeError, match="plain file name"):
        fetch_lidc(tmp_path / "out", 1, url, index=index)
    assert not list(tmp_path.rglob("escaped*"))
    table = pd.read_parquet(index)
    table.loc[:, "PatientID"] = "../P-1"
    table.to_parquet(index)
    with pytest.raises(ContractError):
        lidc_series(index, 1)


def test_a_full_disk_is_said_before_anything_is_asked_for(
    index: Path, plan: BucketPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_data, "_SPARE_BYTES", 2**62)
    with bucket_server(plan) as url, pytest.raises(WorkspaceError, match="GB are to come"):
        fetch_lidc(tmp_path / "out", 3, url, index=index)
    assert plan.requests == []


def command(url: str, index: Path, out: Path, *more: str) -> list[str]:
    words = ["fetch", "lidc", "--patients", "3", "--bucket", url, "--index", str(index), "--out", str(out), *more]
    return [sys.executable, "-m", "flows", *words]


def test_without_a_network_one_line_says_what_where_and_what_to_do(index: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = subprocess.run(
            command(url, index, tmp_path / "out"), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("noduleflow: the public bucket cannot be reached: 127.0.0.1")
    assert "--bucket" in last


def test_a_bucket_that_goes_away_ends_the_fetch_and_a_later_one_goes_on(
    index: Path, plan: BucketPlan, tmp_path: Path
) -> None:
    gone = []

    class Leaving(public_bucket.HttpBucket):
        def objects(self, bucket: str, prefix: str) -> list[public_bucket.BucketObject]:
            if prefix == "uuid-2-1" and not gone:
                gone.append(True)
                self._endpoint = "http://127.0.0.1:9"
            return super().objects(bucket, prefix)

    series = lidc_series(index, 3)
    with bucket_server(plan) as url:
        with pytest.raises(public_bucket.UnreachableError):
            public_data.fetch_series(series, Leaving(url), tmp_path / "out", lambda line: None)
        assert len(fetched(tmp_path / "out")) == 3
        fetch_lidc(tmp_path / "out", 3, url, index=index)
    assert_whole(tmp_path / "out", plan)


def test_two_fetches_into_one_folder_at_once_are_told_apart(
    index: Path, plan: BucketPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.intake.fetch._LOCK_TIMEOUT_S", 0.05)
    (tmp_path / "out").mkdir()
    held = FileLock(tmp_path / "out" / ".fetch.lock")
    with bucket_server(plan) as url, held, pytest.raises(WorkspaceError, match="another fetch"):
        fetch_lidc(tmp_path / "out", 1, url, index=index)
    assert plan.requests == []


@pytest.mark.slow
def test_a_killed_fetch_goes_on_and_ends_whole(index: Path, plan: BucketPlan, tmp_path: Path) -> None:
    plan.delay_s, out = 0.1, tmp_path / "out"
    plan.cut_bytes, plan.drops = 50_000, 10**9
    with bucket_server(plan) as url:
        for wait_s in (0.35, 0.7):
            process = subprocess.Popen(
                command(url, index, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
            )
            before = len(plan.requests)
            deadline = time.monotonic() + 30
            while len(plan.requests) < before + 4 and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
            process.wait()
            whole = set(plan.files.values())
            assert all(content in whole for content in fetched(out).values())
        plan.delay_s = 0
        done = subprocess.run(
            [*command(url, index, out), "--json"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_series"] == 3
    assert_whole(out, plan)


def test_the_installed_index_names_the_studies_of_lidc_and_how_to_cite_them() -> None:
    pytest.importorskip("idc_index_data", reason="the extra `fetch` is not installed")
    files = index_files()
    series = lidc_series(files["series"], 2, annotations=True)
    assert [item.patient_id for item in series if item.modality == "CT"] == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    assert (series[0].n_instances, series[0].bucket) == (133, "idc-open-data")
    assert sum(item.modality == "SEG" and item.patient_id == "LIDC-IDRI-0001" for item in series) == 4
    image, marks = sorted(citations(files, series), key=lambda source: "Standardized" in source.title)
    assert "Armato" in image.citation
    assert "Fedorov" in marks.citation
    assert all(source.licence.startswith("Creative Commons Attribution 3.0") for source in (image, marks))


@pytest.mark.slow
def test_a_real_study_comes_through_the_real_index_as_it_is(lidc_0001_dicom: Path, tmp_path: Path) -> None:
    pytest.importorskip("idc_index_data", reason="the extra `fetch` is not installed")
    (scan,) = lidc_series(index_files()["series"], 1)
    files = folder_files(lidc_0001_dicom, scan.prefix)
    plan = BucketPlan(files, page=50, cut_bytes=400_000, drops=20)
    with bucket_server(plan) as url:
        record = fetch_lidc(tmp_path / "out", 1, url)
    assert record["n_files"] == 133
    assert sorted(fetched(tmp_path / "out").values()) == sorted(files.values())
