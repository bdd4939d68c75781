"""Scheduled jobs on real Prefect servers: they run, they survive kills, and nobody finds a schedule paused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import psutil
import pytest
from dicom_factory import body_hu, save, slices_of, truth_of
from prefect_server import PrefectServer, ask, quiet_environment, run_now, state_of, wait_for
from pydicom.uid import ExplicitVRLittleEndian

pytestmark = [pytest.mark.server, pytest.mark.slow]

WATCH = "ingest-watch/ingest-watch"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def write_series(folder: Path, patient: str) -> None:
    folder.mkdir(parents=True)
    for number, ds in enumerate(slices_of(truth_of(body_hu(4, 32, 32)), patient)):
        save(ds, folder / f"{number}.dcm", ExplicitVRLittleEndian)


def write_plan(folder: Path, source: str) -> Path:
    """A plan whose jobs come once a year, so that only what a test asks for runs."""
    plan = folder / "night.toml"
    yearly = "0 0 1 1 *"
    plan.write_text(
        f'[[sources]]\n{source}\n[schedule]\ningest_watch = "{yearly}"\nnightly_review = "{yearly}"\n'
        'weekly_retrain = ""\ndrift_check = ""\ntimezone = "Europe/Berlin"\n'
    )
    return plan


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {**quiet_environment(tmp_path / "home"), "NODULEFLOW_SETTLE_S": "0", "NODULEFLOW_JOB_RETRY_S": "0.2", **more}


def n_series(workspace: Path) -> int:
    return len(pd.read_parquet(workspace / "series.parquet"))


@contextmanager
def serve(workspace: Path, plan: Path, variables: dict[str, str], log: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """`noduleflow serve`, once its jobs stand on its server; the address of the server beside it."""
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "serve", "--config", str(plan)]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process, address_of(workspace, process, log)
    finally:
        with_children = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for one in with_children:
            one.kill()
        if process.poll() is None:
            process.kill()
            process.wait()


def address_of(workspace: Path, process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            state = json.loads((workspace / "prefect" / "server.json").read_text())
            assert psutil.pid_exists(state["pid"])
            ask(state["address"], f"deployments/name/{WATCH}")
            return str(state["address"])
        except (OSError, ValueError, AssertionError):
            time.sleep(0.5)
    pytest.fail(f"nothing is served:\n{log.read_text()[-3000:]}")


def stop_server(workspace: Path) -> None:
    state = json.loads((workspace / "prefect" / "server.json").read_text())
    if psutil.pid_exists(state["pid"]):
        os.kill(state["pid"], signal.SIGKILL)


def test_served_jobs_run_survive_a_kill_and_are_not_left_paused(tmp_path: Path) -> None:
    workspace, variables, log = tmp_path / "workspace", environment(tmp_path), tmp_path / "serve.log"
    write_series(tmp_path / "ct" / "one", "P^1")
    plan = write_plan(tmp_path, 'path = "ct"')
    with serve(workspace, plan, variables, log) as (process, url):
        assert wait_for(url, run_now(url, WATCH), ENDED, 120) == ("COMPLETED", "Done")
        assert n_series(workspace) == 1
        assert wait_for(url, run_now(url, WATCH), ENDED, 120) == ("COMPLETED", "NothingNew")
        scheduled = ask(url, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        assert {run["name"] for run in scheduled}, "the clock creates no runs"
        write_series(tmp_path / "ct" / "two", "P^2")
        run_now(url, WATCH)
        time.sleep(4)
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            if "server" not in " ".join(one.cmdline() if isinstance(one, psutil.Process) else []):
                one.kill()
        process.wait()
    stop_server(workspace)
    with serve(workspace, plan, variables, log) as (process, url):
        while (ended := wait_for(url, run_now(url, WATCH), ENDED, 180)) == ("COMPLETED", "Skipped"):
            time.sleep(2)  # the run of before the kill had not begun, and is at work now
        assert ended[0] == "COMPLETED"
        assert n_series(workspace) == 2
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert process.returncode == 0
    assert not list(workspace.rglob(".*.tmp"))
    with serve(workspace, plan, variables, log) as (_, url):
        assert ask(url, f"deployments/name/{WATCH}")["paused"] is False
    assert "P^" not in log.read_text()


def test_a_webhook_hears_of_a_served_job_that_failed(tmp_path: Path) -> None:
    heard: list[bytes] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        variables = environment(tmp_path, NODULEFLOW_NOTIFY_URL=f"http://127.0.0.1:{hook.server_port}/")
        workspace, plan = tmp_path / "workspace", write_plan(tmp_path, 'path = "not-there"')
        with serve(workspace, plan, variables, tmp_path / "serve.log") as (_, url):
            assert wait_for(url, run_now(url, WATCH), ENDED, 180)[0] == "FAILED"
            deadline = time.monotonic() + 60
            while not heard and time.monotonic() < deadline:
                time.sleep(0.2)
        stop_server(workspace)
        hook.shutdown()
    assert b"ingest-watch Failed" in heard[0]


@contextmanager
def worker(variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "noduleflow", "--type", "process"]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_worker_killed_with_its_run_blocks_nothing_and_the_next_run_finishes(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    write_series(tmp_path / "ct" / "one", "P^1")
    with PrefectServer(tmp_path / "server") as server, socket.create_server(("127.0.0.1", 0)) as silent:
        variables = environment(tmp_path, NODULEFLOW_PREFECT_API_URL=server.url, PREFECT_API_URL=server.url)
        port = silent.getsockname()[1]
        plan = write_plan(tmp_path, f'dicomweb = "http://127.0.0.1:{port}/dicom-web"')
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "deploy", "--config", str(plan)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        again = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
        assert again.returncode == 0, again.stderr
        assert len(ask(server.url, "automations/filter", {})) == len(done.stdout.split("automation ")) - 1
        with worker(variables, tmp_path / "worker.log") as first:
            hanging = run_now(server.url, WATCH)
            wait_for(server.url, hanging, {"RUNNING", *ENDED}, 120)
            second = run_now(server.url, WATCH)
            assert wait_for(server.url, second, ENDED, 120) == ("COMPLETED", "Skipped")
            os.killpg(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        write_plan(tmp_path, 'path = "ct"')
        with worker(variables, tmp_path / "worker.log"):
            # The lease of the killed run on the server ends by itself.
            while wait_for(server.url, run_now(server.url, WATCH), ENDED, 120) != ("COMPLETED", "Done"):
                assert time.monotonic() - killed_at < 180, "the slot is not free after three minutes"
                time.sleep(5)
            assert n_series(workspace) == 1
            while state_of(server.url, hanging)[0] not in ENDED:
                assert time.monotonic() - killed_at < 180, "the killed run still counts as running"
                time.sleep(2)
        assert state_of(server.url, hanging)[0] == "CRASHED"


def test_a_deployment_needs_a_server_that_stays(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, 'path = "ct"')
    command = [sys.executable, "-m", "flows", "--workspace", str(tmp_path / "w"), "deploy", "--config", str(plan)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "NODULEFLOW_PREFECT_API_URL" in done.stderr
