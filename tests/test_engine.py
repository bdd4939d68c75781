"""The embedded Prefect server: one a workspace, taken over after a kill; tasks whose errors show no value."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_contracts.errors import NoduleflowError, UsageError
from flows.engine import scrubbed
from flows.presence import others, presence
from flows.workspace import Workspace

RUN = """
import sys, time
from pathlib import Path
from flows.settings import Settings, apply_environment
settings = Settings(workspace=Path(sys.argv[1]))
apply_environment(settings)
from flows.workspace import Workspace
from flows.engine import engine, step
with engine(Workspace(settings.workspace)) as address:
    print(address, flush=True)
    from prefect import flow
    @step("nap")
    def nap(until):
        while not until.exists():
            time.sleep(0.1)
    @flow(name="sleeper", log_prints=False)
    def sleeper():
        print("asleep", flush=True)
        nap(Path(sys.argv[2]))
    sleeper()
print("awake", flush=True)
"""


def start(workspace: Path, until: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(workspace), str(until)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.server
@pytest.mark.slow
def test_a_killed_run_is_marked_crashed_and_its_server_is_taken_over_and_ended(tmp_path: Path) -> None:
    killed = start(tmp_path / "ws", tmp_path / "never")
    address = line(killed)
    assert address.startswith("http://127.0.0.1:")
    assert line(killed) == "asleep"
    server = json.loads((tmp_path / "ws" / "prefect" / "server.json").read_text())["pid"]
    time.sleep(1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert psutil.pid_exists(server)

    signal_to_wake = tmp_path / "wake"
    following = start(tmp_path / "ws", signal_to_wake)
    assert line(following) == address, "the server of the killed run is used again"
    assert line(following) == "asleep"
    beside = start(tmp_path / "ws", signal_to_wake)
    assert line(beside) == address, "two runs at once share it"
    signal_to_wake.touch()
    for process in (following, beside):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "awake" in out
    deadline = time.monotonic() + 30
    while psutil.pid_exists(server) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not psutil.pid_exists(server), "the last one to leave stops it"
    with sqlite3.connect(tmp_path / "ws" / "prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("select state_type from flow_run order by created")]
    assert states == ["CRASHED", "COMPLETED", "COMPLETED"]


def test_a_foreign_error_is_named_by_its_place_and_shows_no_value() -> None:
    @scrubbed
    def careless() -> None:
        raise ValueError("Doe^Jane")

    with pytest.raises(NoduleflowError) as raised:
        careless()
    assert "ValueError" in str(raised.value)
    assert "test_engine.py" in str(raised.value)
    assert "Doe" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_our_own_error_passes_unchanged() -> None:
    @scrubbed
    def wrong() -> None:
        raise UsageError("no preset", todo="Known: probe.")

    with pytest.raises(UsageError, match="no preset"):
        wrong()


def test_who_comes_alone_clears_what_a_kill_left_and_who_does_not_leaves_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    (workspace.series_root / ".abc.x.tmp").mkdir(parents=True)
    (workspace.series_root / ".abc.x.tmp" / "volume.nii").write_bytes(b"half")
    (tmp_path / ".series.parquet.1.tmp").write_bytes(b"half")
    left = [tmp_path / "runs" / "a" / ".serving.x.tmp" / "model.pt2", workspace.scratch_root / "version-x" / "m.pt2"]
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / ".users").mkdir()
        (tmp_path / ".users" / str(other.pid)).touch()
        with presence(workspace) as alone:
            assert not alone
            assert others(workspace) == [other.pid]
            assert (tmp_path / ".series.parquet.1.tmp").exists()
    finally:
        other.kill()
        other.wait()
    with presence(workspace) as alone:
        assert alone
        assert list(tmp_path.rglob("*.tmp")) == []
        assert not any(file.parent.exists() for file in left)
        assert (tmp_path / ".users" / str(os.getpid())).exists()
    assert not (tmp_path / ".users" / str(os.getpid())).exists()


def test_a_file_that_a_promotion_is_writing_is_no_leftover(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom data_contracts.records import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as file:\n    file.write_text('half')\n    print(file, flush=True)\n"
        "    sys.stdin.readline()\n    file.write_text('whole')"
    )
    target = tmp_path / "registry" / "anchor.json"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        temporary = Path(writer.stdout.readline().strip())
        with presence(workspace) as alone:
            assert alone and temporary.exists()
        writer.communicate("\n", timeout=60)
    assert (writer.returncode, target.read_text()) == (0, "whole")
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    temporary = Path(killed.stdout.readline().strip())
    killed.kill()
    killed.communicate()
    with presence(workspace):
        assert not temporary.exists()


@pytest.mark.server
@pytest.mark.slow
def test_a_run_killed_while_its_server_starts_leaves_one_that_the_next_run_finds(tmp_path: Path) -> None:
    state = tmp_path / "ws" / "prefect" / "server.json"
    killed = start(tmp_path / "ws", tmp_path / "never")
    while not state.exists():
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    server = json.loads(state.read_text())["pid"]
    (tmp_path / "wake").touch()
    following = start(tmp_path / "ws", tmp_path / "wake")
    assert line(following) == json.loads(state.read_text())["address"]
    assert json.loads(state.read_text())["pid"] == server
    out, err = following.communicate(timeout=120)
    assert following.returncode == 0, err
    assert "awake" in out
