"""Two combinations of versions that install and import without a word, and then serve nothing or schedule nothing.

Prefect 3.8 starts no server with fastapi >= 0.155, and its cron schedules create no runs with SQLAlchemy 2.1.
Neither `pip check` nor an import shows it, so a server is started and a schedule is waited for.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect_server import START_TIMEOUT_S, PrefectServer, quiet_environment

pytest.importorskip("prefect", reason="the server tests need Prefect installed")
pytestmark = [pytest.mark.server, pytest.mark.slow]

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


def test_the_embedded_prefect_server_starts_and_runs_a_flow(tmp_path: Path) -> None:
    environment = quiet_environment(tmp_path / "prefect")
    assert _python(RUN_A_FLOW, environment=environment).endswith("the flow ran")


def test_a_cron_schedule_on_a_real_server_creates_scheduled_runs(tmp_path: Path) -> None:
    with PrefectServer(tmp_path) as server:
        environment = {**server.environment, "PREFECT_API_URL": server.url}
        _python(DEPLOY_A_CRON, server.url, environment=environment)
        deadline = time.monotonic() + SCHEDULE_TIMEOUT_S
        scheduled = 0
        while not scheduled and time.monotonic() < deadline:
            time.sleep(3)
            scheduled = int(_python(COUNT_SCHEDULED, server.url, environment=environment))
        said = server.log.read_text()[-4000:]
        assert scheduled > 0, f"no run within {SCHEDULE_TIMEOUT_S} s; the server says:\n{said}"
