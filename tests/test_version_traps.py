"""Two combinations of versions that install and import without a word, and then serve nothing or schedule nothing.

Prefect 3.8 starts no server with fastapi >= 0.155, and its cron schedules create no runs with SQLAlchemy 2.1.
Neither `pip check` nor an import shows it, so a server is started and a schedule is waited for.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="the server tests need Prefect installed")
pytestmark = [pytest.mark.server, pytest.mark.slow]

START_TIMEOUT_S = 120
SCHEDULE_TIMEOUT_S = 90

RUN_A_FLOW = """
from prefect import flow, task

@task
def double(value):
    return 2 * value

@flow
def doubled(value):
    return double(value)

assert doubled(21) == 42
print("the flow ran")
"""

DEPLOY_A_CRON = """
import sys
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="* * * * *"), active=True)
with SyncPrefectClient(api=sys.argv[1]) as client:
    flow_id = client.create_flow_from_name("nightly")
    print(client.create_deployment(flow_id, "every-minute", entrypoint="nightly.py:nightly", schedules=[schedule]))
"""

COUNT_SCHEDULED = """
import sys
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType

scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=["SCHEDULED"])))
with SyncPrefectClient(api=sys.argv[1]) as client:
    print(len(client.read_flow_runs(flow_run_filter=scheduled)))
"""


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_CLI_PROMPT": "false",
    }


def _python(script: str, *arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def prefect_server(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """API address, environment and log of a `prefect server start` of this test's own, ended afterwards."""
    environment = _environment(tmp_path / "prefect")
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Prefect server does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        yield url, {**environment, "PREFECT_API_URL": url}, log
    finally:
        # The server is a group of its own: its children end with it, and nobody else's server does.
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, stop)
                server.wait(timeout=20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def test_the_embedded_prefect_server_starts_and_runs_a_flow(tmp_path: Path) -> None:
    environment = _environment(tmp_path / "prefect")
    assert _python(RUN_A_FLOW, environment=environment).endswith("the flow ran")


def test_a_cron_schedule_on_a_real_server_creates_scheduled_runs(
    prefect_server: tuple[str, dict[str, str], Path],
) -> None:
    url, environment, log = prefect_server
    _python(DEPLOY_A_CRON, url, environment=environment)
    deadline = time.monotonic() + SCHEDULE_TIMEOUT_S
    scheduled = 0
    while not scheduled and time.monotonic() < deadline:
        time.sleep(3)
        scheduled = int(_python(COUNT_SCHEDULED, url, environment=environment))
    assert scheduled > 0, f"no run within {SCHEDULE_TIMEOUT_S} s; the server says:\n{log.read_text()[-4000:]}"
