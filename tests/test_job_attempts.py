"""What a scheduled job says of itself when it took more than one attempt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_serving import environment, write_plan

pytestmark = [pytest.mark.server, pytest.mark.slow]

#: a job whose first attempt fails, after it has brought in a series where it is told to
JOB = """
import sys
from pathlib import Path
from flows.cli import session
session.workspace_path = Path(sys.argv[1])
with session.engine("flows.scheduled.jobs"):
    from prefect import flow
    from flows.scheduled.jobs import Outcome, conduct
    attempts = []

    def work(workspace, settings, plan):
        attempts.append(1)
        if len(attempts) == 1:
            if sys.argv[2] == "after work":
                (workspace.series_root / "a").mkdir(parents=True)
            raise OSError("the server is away")
        return Outcome("nothing new", is_new=False)

    @flow(name="job")
    def job():
        return conduct("ingest-watch", work)

    state = job(return_state=True)
print(state.type.value, state.name, len(attempts))
"""


@pytest.mark.parametrize(("first", "name"), [("after work", "Done"), ("before work", "NothingNew")])
def test_a_job_that_failed_once_says_done_where_either_attempt_found_work(
    first: str, name: str, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, 'path = "/nowhere"\nsite = "a"')
    workspace = str(tmp_path / "ws")
    variables = environment(tmp_path, NODULEFLOW_CONFIG=str(plan), NODULEFLOW_WORKSPACE=workspace)
    command = [sys.executable, "-c", JOB, workspace, first]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["COMPLETED", name, "2"]
