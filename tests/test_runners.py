"""The same work on threads, and on a real Dask cluster of two workers, of which one may be killed: the same tables."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_factory import NAME
from orthanc_server import free_port
from prefect_server import PrefectServer
from s3_server import s3_server
from small_studies import write_studies

from data_contracts.errors import ExchangeError, UsageError
from data_contracts.params import IngestParams, PhantomParams
from flows.intake.batch import SealedBatch, _series_as_json, _series_from_json
from flows.remote.opening import open_bucket
from flows.running.batches import MOST_TASKS, batches
from flows.running.elsewhere import Terms, terms_of
from flows.running.opaque import Heard, Opaque
from flows.running.plan import RunnerPlan, configured_batch, configured_plan, runner_plan, take_from_file
from flows.settings import Settings
from flows.workspace import Workspace
from pipeline.cohort.phantom import generate_cohort
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover

SECRET = "a secret of this test"
TABLES = ("series.parquet", "rejected.parquet", "nodules.parquet")


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("", RunnerPlan("threads")),
        ("Processes", RunnerPlan("processes")),
        ("dask", RunnerPlan("dask")),
        ("dask://head:8786", RunnerPlan("dask", "tcp://head:8786")),
        ("tls://10.0.0.1:8786", RunnerPlan("dask", "tls://10.0.0.1:8786")),
        ("ray://[::1]:10001", RunnerPlan("ray", "ray://[::1]:10001")),
    ],
)
def test_one_word_or_an_address_names_the_runner(text: str, plan: RunnerPlan) -> None:
    assert runner_plan(text) == plan


@pytest.mark.parametrize(
    "text", ["spark", "dask://", "dask://head", "http://head:80", "tcp://a:99999", "dask://u:p@h:1"]
)
def test_what_names_none_is_refused_with_what_there_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"threads, processes, dask, ray"):
        runner_plan(text)
    monkeypatch.setenv("NODULEFLOW_RUNNER", text)
    with pytest.raises(ValueError, match="dask://host:8786"):
        Settings()


def test_the_environment_goes_before_the_configuration_file(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        take_from_file("processes", 7)
        assert configured_plan().kind == "processes" and configured_batch() == 7
        monkeypatch.setenv("NODULEFLOW_RUNNER", "threads")
        monkeypatch.setenv("NODULEFLOW_BATCH", "3")
        assert configured_plan().kind == "threads" and configured_batch() == 3
    finally:
        take_from_file("", None)


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("n", [0, 1, 5, 100, 1000, 10_000, 123_457])
def test_ten_thousand_studies_are_at_most_so_many_tasks_and_none_is_left_out(n: int, weight: float) -> None:
    for workers in (1, 2, 16, 500):
        found = list(batches(range(n), weight=lambda item: weight, full=10.0, workers=workers, size=0))
        assert [item for batch in found for item in batch] == list(range(n))
        assert len(found) <= MOST_TASKS
    assert [len(batch) for batch in batches(range(7), size=3)] == [3, 3, 1]


def test_few_large_series_are_a_task_each_so_that_every_worker_has_one() -> None:
    assert len(list(batches(range(20), weight=lambda item: 100.0, full=10.0, workers=2, size=0))) == 20


def test_an_item_is_told_once_and_travels_without_its_listener() -> None:
    told: list[str] = []
    heard = Heard(told.append)
    for key in ("a", "b", "a"):
        heard(key)
    assert told == ["a", "b"]
    far = pickle.loads(pickle.dumps(Opaque(("x",), heard)))  # noqa: S301 - our own, made above
    far.told("c")
    assert far.value == ("x",) and told == ["a", "b"]


@pytest.fixture
def terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terms]:
    monkeypatch.setenv("NODULEFLOW_RUNNER", "processes")
    monkeypatch.setenv("NODULEFLOW_SECRET", SECRET)
    with terms_of(Workspace(tmp_path / "workspace").create()) as found:
        assert found is not None
        yield found


def a_batch(terms: Terms, source: Path) -> SealedBatch:
    found = discover(source, Pseudonymizer(SECRET.encode()), IngestParams(), source / "none")
    return SealedBatch.of(terms, "batch-0", [source], found.series)


def test_neither_a_header_nor_the_key_travels_or_lies_open(terms: Terms, tmp_path: Path) -> None:
    source = write_studies(tmp_path / NAME.replace("^", "-"), 2)
    stream = io.BytesIO()
    pickle.dump(a_batch(terms, source), stream)
    desk = Path(terms.root) / "scratch" / terms.desk
    for content in (stream.getvalue(), *(path.read_bytes() for path in desk.iterdir())):
        for text in ("Zwetschge", "ACC4711", "P0000", SECRET, str(source)):
            assert text.encode() not in content
    assert {path.stat().st_mode & 0o077 for path in desk.iterdir()} == {0}


def test_a_series_comes_out_of_its_seal_as_it_went_in(tmp_path: Path) -> None:
    source = write_studies(tmp_path / "source", 3)
    for raw in discover(source, Pseudonymizer(b"x"), IngestParams(), source / "none").series:
        assert _series_from_json(json.loads(json.dumps(_series_as_json(raw)))) == raw


def test_a_worker_that_does_not_share_workspace_key_or_program_is_refused(
    terms: Terms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms.enter()
    with pytest.raises(UsageError, match="does not see the workspace"):
        Terms(str(tmp_path / "elsewhere"), terms.desk, terms.program, terms.key, terms.mlflow).enter()
    with pytest.raises(UsageError, match="another version"):
        Terms(terms.root, terms.desk, "other", terms.key, terms.mlflow).enter()
    monkeypatch.setenv("NODULEFLOW_SECRET", "another")
    with pytest.raises(UsageError, match="another key"):
        terms.enter()


def test_a_cluster_that_is_away_or_a_runner_that_is_not_installed_is_one_clear_line() -> None:
    from flows.running.runners import _runner

    with pytest.raises(UsageError, match="prefect-ray, which is not installed"):
        _runner(runner_plan("ray://127.0.0.1:9"), 1)
    pytest.importorskip("prefect_dask")
    with pytest.raises(ExchangeError, match=r"no cluster answers.*tcp://127\.0\.0\.1:9"):
        _runner(runner_plan("dask://127.0.0.1:9"), 1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    params = PhantomParams(seed=5, n_patients=12, matrix=128, spacing_a_mm=4.0, spacing_b_mm=5.0)
    generate_cohort(params, folder / "phantoms")
    (folder / "run.toml").write_text(
        f"""
review = 2
presets = ["probe"]
[split]
train = 0.5
validation = 0.25
salt = "runners-139"
[[sources]]
path = "{folder}/phantoms/site-a"
site = "site-a"
[[sources]]
path = "{folder}/phantoms/site-b"
site = "site-b"
[[annotations]]
files = ["{folder}/phantoms/nodules.csv"]
format = "csv"
[train]
weights = "none"
backbone = "resnet18"
input_size_px = 32
"""
    )
    return folder


class Run:
    """`noduleflow run` on a workspace of its own, with its lines as they come."""

    def __init__(self, cohort: Path, workspace: Path | str, **environment: str) -> None:
        self.workspace = Workspace(Path(workspace))
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "run"]
        self.process = subprocess.Popen(
            [*command, "--config", str(cohort / "run.toml")],
            env={**os.environ, "NODULEFLOW_SECRET": SECRET, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def until(self, beginning: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith(beginning):
                return
        pytest.fail("".join(self.lines[-40:]))

    def record(self) -> dict[str, Any]:
        try:
            out, err = self.process.communicate(timeout=800)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.returncode == 0, "".join(self.lines[-20:]) + err[-3000:]
        self.lines += err.splitlines(keepends=True)
        return dict(json.loads(out))


@pytest.fixture(scope="module")
def on_threads(cohort: Path) -> Run:
    run = Run(cohort, cohort / "on-threads")
    run.record()
    return run


@contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as programs of their own: (address, workers)."""
    pytest.importorskip("prefect_dask", reason="prefect-dask is not installed")
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *words: str) -> None:
        with (folder / f"{program}-{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *words, "--no-dashboard"]
            environment = {**os.environ, "NODULEFLOW_SECRET": SECRET}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))

    start("scheduler", "--host", "127.0.0.1", "--port", str(port))
    for _ in range(2):
        start("worker", f"tcp://127.0.0.1:{port}", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny")
    try:
        _wait_for_workers(f"tcp://127.0.0.1:{port}")
        yield f"dask://127.0.0.1:{port}", started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait_for_workers(address: str) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)


def assert_same(one: Workspace, other: Workspace) -> None:
    """Tables and content-addressed files byte for byte; what a network computed to its rounding."""
    for table in TABLES:
        assert (one.root / table).read_bytes() == (other.root / table).read_bytes(), table
    for room in ("series", "datasets"):
        assert files_of(one.root / room) == files_of(other.root / room)
    tables = [sorted(path.name for path in workspace.features_root.glob("*.parquet")) for workspace in (one, other)]
    assert tables[0] == tables[1] != []
    for name in tables[0]:
        ours, theirs = (pd.read_parquet(workspace.features_root / name) for workspace in (one, other))
        assert ours.drop(columns="vector").equals(theirs.drop(columns="vector"))
        np.testing.assert_allclose(np.stack(ours["vector"]), np.stack(theirs["vector"]), rtol=1e-5, atol=1e-5)
    reviews = [sorted(path.parent.name for path in one.reviews_root.glob("*/review.json")) for one in (one, other)]
    assert reviews[0] == reviews[1] != []
    for key in reviews[0]:
        ours, theirs = (json.loads((one.reviews_root / key / "review.json").read_text()) for one in (one, other))
        assert [finding["finding_id"] for finding in ours["findings"]] == [
            finding["finding_id"] for finding in theirs["findings"]
        ]


def files_of(folder: Path) -> dict[str, bytes]:
    """Content by path; a lock is of the machine that held it and does not travel."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_a_dask_cluster_gives_the_tables_that_threads_give(cohort: Path, on_threads: Run, tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as (address, _):
        run = Run(cohort, tmp_path / "workspace", NODULEFLOW_RUNNER=address)
        record = run.record()
        said = "".join(run.lines)
        assert "tasks run on 2 workers of the Dask cluster" in said
        assert record["ingest"]["accepted"] == 12
        assert_same(on_threads.workspace, run.workspace)
        assert list(run.workspace.scratch_root.glob("*desk*")) == []
        logs = b"".join(path.read_bytes() for path in tmp_path.glob("*.log"))
        names = [line.split(",")[0] for line in (cohort / "phantoms" / "nodules.csv").read_text().splitlines()[1:3]]
        assert [name for name in (*names, SECRET) if name.encode() in logs] == []


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_a_worker_killed_in_the_middle_changes_nothing_in_the_tables(
    cohort: Path, on_threads: Run, tmp_path: Path
) -> None:
    with dask_cluster(tmp_path) as (address, workers):
        run = Run(cohort, tmp_path / "workspace", NODULEFLOW_RUNNER=address)
        run.until("ingest 1/")
        workers[0].send_signal(signal.SIGKILL)
        run.record()
        assert workers[0].poll() is not None and workers[1].poll() is None
        assert_same(on_threads.workspace, run.workspace)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
def test_a_workspace_in_a_bucket_has_the_tables_that_a_folder_has(
    cohort: Path, on_threads: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefect = PrefectServer(tmp_path / "prefect").start()
    try:
        with s3_server(tmp_path) as server:
            keys = {"NODULEFLOW_SECRET": SECRET, "NODULEFLOW_AUDIT_KEY": "an audit key of this test"}
            for name, value in {**server.environment, **keys}.items():
                monkeypatch.setenv(name, value)
            servers = {
                "NODULEFLOW_PREFECT_API_URL": prefect.url,
                "NODULEFLOW_MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            }
            Run(cohort, "s3://hospital/lungs", NODULEFLOW_CACHE=str(tmp_path / "one"), **servers).record()
            settings = Settings(workspace=Path("s3://hospital/lungs"), cache=tmp_path / "another-machine")
            copy = open_bucket(settings)
            copy.bring_in()
            copy.fetch(["series/", "datasets/", "features/", "reviews/"])
            assert_same(on_threads.workspace, Workspace(settings.workspace))
            everything = b"\0".join(path.read_bytes() for path in settings.workspace.rglob("*") if path.is_file())
            assert SECRET.encode() not in everything
    finally:
        prefect.stop()


def ingest_tables(source: Path, root: Path, **environment: str) -> list[bytes]:
    """Ingest of six small studies by the command; the bytes of its tables."""
    command = [sys.executable, "-m", "flows", "--workspace", str(root), "ingest", str(source)]
    settings = {**os.environ, "NODULEFLOW_SECRET": SECRET, "NODULEFLOW_BATCH": "2", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "6 series accepted" in done.stdout
    return [(root / table).read_bytes() for table in TABLES[:2]]


@pytest.mark.slow
@pytest.mark.server
def test_processes_of_this_machine_give_the_tables_that_threads_give(tmp_path: Path) -> None:
    source = write_studies(tmp_path / "source", 6)
    tables = [ingest_tables(source, tmp_path / runner, NODULEFLOW_RUNNER=runner) for runner in ("threads", "processes")]
    assert tables[0] == tables[1]


@contextmanager
def ray_cluster(folder: Path) -> Iterator[str]:
    """The head of a Ray cluster as a program of its own; yields its address for clients."""
    pytest.importorskip("prefect_ray", reason="prefect-ray is not installed")
    port, client_port = free_port(), free_port()
    code = "from ray.scripts.scripts import main; main()"
    options = ["--num-cpus", "2", "--include-dashboard=false", "--node-ip-address", "127.0.0.1"]
    ports = ["--port", str(port), "--ray-client-server-port", str(client_port), "--min-worker-port", "0"]
    command = [sys.executable, "-c", code, "start", "--head", "--block", "--disable-usage-stats", *options, *ports]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(
            [*command, "--max-worker-port", "0"],
            env={**os.environ, "NODULEFLOW_SECRET": SECRET},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while b"Ray runtime started" not in (folder / "ray.log").read_bytes():
            assert time.monotonic() < deadline and head.poll() is None, (folder / "ray.log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{client_port}"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)


@pytest.mark.slow
@pytest.mark.server
def test_ray_here_and_a_ray_cluster_by_its_address_give_the_tables_that_threads_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prefect_ray", reason="prefect-ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be laid into the home of whoever runs this
    source = write_studies(tmp_path / "source", 6)
    on_threads = ingest_tables(source, tmp_path / "threads", NODULEFLOW_RUNNER="threads")
    assert ingest_tables(source, tmp_path / "ray", NODULEFLOW_RUNNER="ray") == on_threads
    with ray_cluster(tmp_path) as address:
        assert ingest_tables(source, tmp_path / "cluster", NODULEFLOW_RUNNER=address) == on_threads


def test_a_wrong_runner_ends_with_status_2_before_anything_is_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "--workspace", str(tmp_path / "ws"), "ingest", str(tmp_path)]
    (tmp_path / "file").touch()
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "NODULEFLOW_RUNNER": "sparks"}, check=False
    )
    assert done.returncode == 2 and "NODULEFLOW_RUNNER" in done.stderr and done.stderr.count("\n") == 1
    assert time.monotonic() - started < 30
    assert not (tmp_path / "ws").exists()
