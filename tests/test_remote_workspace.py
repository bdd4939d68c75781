"""A workspace in a bucket: two machines lose nothing, a kill leaves it readable, databases are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from s3_server import S3Server, s3_server

from data_contracts.errors import ExchangeError, UsageError, WorkspaceError
from data_contracts.nodules import NODULE_TABLE
from data_contracts.reasons import ReasonCode
from data_contracts.records import sha256_file
from data_contracts.series import Rejection, SeriesRecord
from data_contracts.volume import CTVolume
from flows.registry.audit import append_audit, verify_audit
from flows.remote.address import checked_url, is_url, working_copy
from flows.remote.kinds import file_of, kind_of, object_of
from flows.remote.opening import open_bucket
from flows.remote.store import ChangedError, Store
from flows.settings import Settings
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.vault import StudyIdentity, Vault
from pipeline.intake.store import store_series

pytestmark = pytest.mark.server

KEYS = {"NODULEFLOW_SECRET": "a secret of this test", "NODULEFLOW_AUDIT_KEY": "an audit key of this test"}
TABLES = ("series.parquet", "rejected.parquet", "nodules.parquet")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def machine(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Machine]:
    for name, value in {**server.environment, **KEYS}.items():
        monkeypatch.setenv(name, value)
    url = f"s3://hospital/{request.node.name[:60]}"
    return lambda name: Machine(tmp_path / name, url)


class Machine:
    """One of the machines that share a bucket: a working copy of its own."""

    def __init__(self, cache: Path, url: str) -> None:
        self.settings = Settings(workspace=Path(url), cache=cache)
        self.workspace = Workspace(self.settings.workspace)
        self.url = url

    def open(self) -> Any:
        copy = open_bucket(self.settings)
        copy.bring_in()
        return copy

    def ingest(self, number: int) -> None:
        """Store a series and note a refusal, as an ingest does."""
        hu = np.full((3, 8, 8), number, dtype=np.int16)
        affine = np.diag([2.0, 1.0, 1.0, 1.0])
        record = a_record(f"{number:016x}", hu, affine)
        store_series(self.workspace.series_root, record, CTVolume(hu, affine, ""))
        refusal = Rejection(path=f"file-{number}", reason=ReasonCode.NOT_DICOM, detail="")
        self.workspace.add_rejections(f"source-{number}", [refusal])
        self.workspace.rebuild_series_tables()

    def series(self) -> set[str]:
        return set(pd.read_parquet(self.workspace.series_table)["series_key"])


def a_record(key: str, hu: np.ndarray, affine: np.ndarray) -> SeriesRecord:
    return SeriesRecord(
        series_key=key,
        study_key=key,
        patient_key=key,
        site="site",
        volume_path=f"series/{key}/volume.nii",
        n_slices=len(hu),
        shape_kji=hu.shape,
        spacing_kji_mm=(2.0, 1.0, 1.0),
        affine_lps=tuple(tuple(float(value) for value in row) for row in affine),
        series_uid_key=key,
        sop_uid_keys=tuple(f"{key}-{number}" for number in range(len(hu))),
        pixel_sha256="0" * 64,
        source_path="",
        transfer_syntax="1.2.840.10008.1.2.1",
    )


def test_an_address_has_one_form_and_a_working_copy_of_its_own(tmp_path: Path) -> None:
    assert checked_url(Path("s3://bucket/a//b/")) == checked_url("s3://bucket/a/b") == "s3://bucket/a/b"
    assert is_url(Path("s3://bucket/a")) and not is_url(Path("/data/s3/x")) and not is_url("C:/data")
    assert working_copy("s3://bucket/a", tmp_path) != working_copy("s3://bucket/b", tmp_path)
    for wrong in ("gs://bucket/a", "s3://", "s3://bucket/../other", "s3:///key", "s3:", "file://", "file:///data"):
        with pytest.raises(ValueError, match="s3://bucket/prefix"):
            checked_url(wrong)
        with pytest.raises(ValidationError, match="s3://bucket/prefix"):
            Settings(workspace=wrong)  # type: ignore[arg-type]


def test_keys_identified_files_and_databases_never_leave_the_machine() -> None:
    kept = ["secret.key", "registry/audit.key", "inbox/x/1.dcm", "mlflow.db", "prefect/prefect.db", "scratch/a/b"]
    kept += [
        "known/x.npz",
        ".remote/state.json",
        ".users/1",
        "series/.x.tmp/volume.nii",
        "cache/x",
        "features/a.parts/p",
    ]
    assert [name for name in kept if kind_of(name) is not None] == []


def test_what_a_machine_says_of_itself_has_its_name_in_the_bucket() -> None:
    for name in ("audit.jsonl", "registry/anchor.json", "rejected/abc.jsonl"):
        assert file_of(object_of(name, "one"), "one") == name
    assert file_of(object_of("audit.jsonl", "one"), "two") is None
    assert file_of(object_of("rejected/abc.jsonl", "one"), "two") == "rejected/abc@one.jsonl"
    assert object_of("series/a/series.json", "one") == "series/a/series.json"


def test_a_write_overwrites_only_what_was_expected(machine: Callable[[str], Machine], tmp_path: Path) -> None:
    store, file = Store(machine("a").url), tmp_path / "file"
    file.write_text("one")
    first = store.put("file", file, expect=None)
    with pytest.raises(ChangedError):
        store.put("file", file, expect=None)
    file.write_text("two")
    store.put("file", file, expect=first)
    with pytest.raises(ChangedError):
        store.put("file", file, expect=first)
    assert store.read("file") == b"two"


def test_what_one_machine_made_another_finds_with_its_volume_when_it_asks(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    copy = one.open()
    one.ingest(1)
    assert copy.hand_on() > 0
    assert copy.hand_on() == 0, "nothing is sent twice"
    other = two.open()
    assert two.series() == one.series()
    for table in TABLES[:2]:
        assert sha256_file(two.workspace.root / table) == sha256_file(one.workspace.root / table)
    volume = two.workspace.series_root / f"{1:016x}" / "volume.nii"
    assert not volume.exists(), "volumes are large"
    other.fetch([volume.relative_to(two.workspace.root).as_posix()])
    assert sha256_file(volume) == sha256_file(one.workspace.series_root / f"{1:016x}" / "volume.nii")
    assert other.hand_on() == 0


def test_two_machines_at_once_lose_nothing(machine: Callable[[str], Machine]) -> None:
    machines = [machine(name) for name in ("one", "two", "three")]
    copies = [one.open() for one in machines]
    for number, one in enumerate(machines):
        for series in range(3):
            one.ingest(10 * number + series)
        append_audit(one.workspace, actor=f"person {number}", action="policy", subject="x", detail={})
    with ThreadPoolExecutor(len(copies)) as pool:
        list(pool.map(lambda copy: copy.hand_on(), copies))
    late = machine("late")
    late.open()
    expected = {f"{10 * number + series:016x}" for number in range(3) for series in range(3)}
    assert late.series() == expected
    assert len(pd.read_parquet(late.workspace.rejected_table)) == 9
    store = Store(late.url)
    assert sum(name.startswith("audit/") and name.endswith(".jsonl") for name in store.entries()) == 3
    for one in machines:
        assert verify_audit(one.workspace) == []


def test_a_sealed_identity_that_two_machines_added_to_knows_both(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    copies = one.open(), two.open()
    secret = KEYS["NODULEFLOW_SECRET"].encode()
    key = Pseudonymizer(secret).uid_key("1.2.3")
    for side, number in ((one, 1), (two, 2)):
        identity = StudyIdentity(study_key=key, study_instance_uid="1.2.3", series={f"s{number}": f"1.2.3.{number}"})
        Vault(side.workspace.identity_root, secret).seal(key, identity)
    for copy in copies:
        copy.hand_on()
    three = machine("three")
    three.open()
    assert set(Vault(three.workspace.identity_root, secret).open(key).series) == {"s1", "s2"}
    assert (three.workspace.identity_root / f"{key}.sealed").stat().st_mode & 0o077 == 0
    assert b"1.2.3" not in Store(three.url).read(f"identity/{key}.sealed")


def test_annotations_that_were_taken_out_are_gone_for_everybody(machine: Callable[[str], Machine]) -> None:
    one, two = machine("one"), machine("two")
    copy = one.open()
    for name in ("first", "second"):
        NODULE_TABLE.write(one.workspace.annotation_parts / f"{name}.parquet", NODULE_TABLE.empty())
    copy.hand_on()
    other = two.open()
    assert {path.stem for path in two.workspace.annotation_parts.iterdir()} == {"first", "second"}
    (one.workspace.annotation_parts / "first.parquet").unlink()
    copy.hand_on()
    other.bring_in()
    assert {path.stem for path in two.workspace.annotation_parts.iterdir()} == {"second"}


PUSH = """
import sys, time
from pathlib import Path
from flows.remote.store import Store
from flows.settings import Settings
put = Store.put
def slowly(self, name, source, *, expect):
    entry = put(self, name, source, expect=expect)
    print(name, flush=True)
    time.sleep(0.05)
    return entry
Store.put = slowly
from flows.remote.opening import open_bucket
open_bucket(Settings(workspace=Path(sys.argv[1]), cache=Path(sys.argv[2]))).hand_on()
"""


@pytest.mark.parametrize("after", [6, 22])
def test_a_push_that_is_killed_leaves_the_bucket_readable_and_the_next_one_ends_it(
    machine: Callable[[str], Machine], after: int
) -> None:
    one = machine("one")
    one.open()
    for number in range(8):
        one.ingest(number)
    command = [sys.executable, "-c", PUSH, one.url, str(one.workspace.root.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reader = machine("reader")
    copy = reader.open()
    if reader.workspace.series_table.exists():
        for key in reader.series():
            assert Store(one.url).entry(f"series/{key}/volume.nii") is not None
    for record in reader.workspace.series_records():
        copy.fetch([record.volume_path])
        assert (reader.workspace.root / record.volume_path).stat().st_size > 0
    one.open().hand_on()
    reader.open()
    assert reader.series() == one.series() and len(one.series()) == 8


def test_another_secret_or_none_is_refused(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    machine("one").open()
    monkeypatch.setenv("NODULEFLOW_SECRET", "another")
    with pytest.raises(UsageError, match="another secret"):
        machine("two").open()
    monkeypatch.delenv("NODULEFLOW_SECRET")
    with pytest.raises(UsageError, match="NODULEFLOW_SECRET"):
        machine("three").open()


def command(*words: str, url: str, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NODULEFLOW_WORKSPACE": url, "NODULEFLOW_CACHE": str(cache), **more}
    return subprocess.run(
        [sys.executable, "-m", "flows", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def test_a_server_that_is_away_gives_one_line(machine: Callable[[str], Machine], tmp_path: Path) -> None:
    one = machine("one")
    started = time.monotonic()
    done = command("status", url=one.url, cache=tmp_path / "x", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "bucket" in done.stderr and one.url in done.stderr
    assert time.monotonic() - started < 60
    with pytest.raises(ExchangeError):
        Store("s3://no-such-bucket/x").entries()


def test_a_database_in_a_bucket_is_refused_with_the_setting_that_names_a_server(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("x")
    done = command("ingest", str(tmp_path / "source"), url=one.url, cache=tmp_path / "x")
    assert done.returncode == 2, done.stderr
    assert "NODULEFLOW_PREFECT_API_URL" in done.stderr
    done = command("audit", url=one.url, cache=tmp_path / "x")
    assert "Traceback" not in done.stderr


def test_two_machines_of_one_name_are_told_apart(machine: Callable[[str], Machine]) -> None:
    one = machine("one")
    copy = one.open()
    append_audit(one.workspace, actor="a", action="policy", subject="x", detail={})
    copy.hand_on()
    name = next(name for name in Store(one.url).entries() if name.startswith("audit/") and name.endswith(".jsonl"))
    other = one.workspace.root / "other"
    other.write_text("{}\n")
    Store(one.url).put(name, other, expect=Store(one.url).entry(name))
    append_audit(one.workspace, actor="a", action="policy", subject="y", detail={})
    with pytest.raises(WorkspaceError, match="same name and folder"):
        copy.hand_on()
