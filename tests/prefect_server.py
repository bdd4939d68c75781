"""A real Prefect server of a test's own: on a free port, reachable from this machine alone, and gone with the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from orthanc_server import free_port

START_TIMEOUT_S = 120


def quiet_environment(home: Path) -> dict[str, str]:
    """This process's environment without anybody's Prefect in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(START_TIMEOUT_S),
    }


class PrefectServer:
    """`prefect server start` on a folder; it may be killed and started again on the same database."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {**quiet_environment(folder / "home"), **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrefectServer:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as stream:
            # A group of its own: its children end with it, and nobody else's server does.
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=stream, stderr=stream, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Prefect server does not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.5)
        return self

    def stop(self) -> None:
        if self.process is None:
            return
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, stop)
                self.process.wait(timeout=20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def __enter__(self) -> PrefectServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST of `body`, below an API address."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data=data, headers={"Content-Type": "application/json"})
    for attempt in range(10):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
            return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == 9:  # sqlite is busy
                raise
            time.sleep(1)
    raise AssertionError("every attempt ended above")


def run_now(url: str, deployment: str) -> str:
    """Ask for a run of FLOW/NAME at once; returns the id of the flow run."""
    found = ask(url, f"deployments/name/{deployment}")
    return str(ask(url, f"deployments/{found['id']}/create_flow_run", {})["id"])


def state_of(url: str, run_id: str) -> tuple[str, str]:
    """Type and name of a run's state, such as ("COMPLETED", "NothingNew")."""
    run = ask(url, f"flow_runs/{run_id}")
    return str(run["state"]["type"]), str(run["state"]["name"])


def wait_for(url: str, run_id: str, types: set[str], timeout_s: float) -> tuple[str, str]:
    """The state of a run once its type is one of `types`; fails the test where it is not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = state_of(url, run_id)
        if found[0] in types:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"the run is {found} after {timeout_s:.0f} s")
        time.sleep(0.5)
