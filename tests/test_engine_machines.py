"""Two machines on one folder: locks hold without flock, each counts the other, only one has an embedded server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_contracts.errors import WorkspaceError
from flows.engine import engine
from flows.presence import machines, others, presence
from flows.running.lease import STALE_S
from flows.workspace import Workspace

#: a machine whose file system keeps no flock among machines, as NFS does where it is mounted so
ELSEWHERE = """
import contextlib, os, socket, sys, time
from pathlib import Path
name, root, work = sys.argv[1:4]
socket.gethostname = lambda: name
import filelock
filelock.FileLock = lambda *given, **named: contextlib.nullcontext()
from flows.presence import presence
from flows.workspace import Workspace
workspace = Workspace(Path(root)).create()
if work == "count":
    counter = Path(root) / "counter"
    for _ in range(60):
        with workspace.lock("counter"):
            number = int(counter.read_text() or 0) if counter.exists() else 0
            time.sleep(0.001)
            counter.write_text(str(number + 1))
else:
    with presence(workspace) as alone:
        print("alone" if alone else "not alone", flush=True)
        sys.stdin.readline()
"""


def elsewhere(name: str, workspace: Workspace, work: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ELSEWHERE, name, str(workspace.root), work]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_machines_without_a_common_flock_do_not_enter_a_lock_together(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    running = [elsewhere(name, workspace, "count") for name in ("night", "day")]
    for process in running:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert (tmp_path / "counter").read_text() == "120"
    assert [path.name for path in (tmp_path / ".locks").iterdir() if ".held" in path.name] == []


def test_a_lock_that_a_dead_machine_left_is_taken_over_and_a_living_one_is_waited_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    held = tmp_path / ".locks" / "tables.held"
    held.parent.mkdir()
    held.write_text("another-machine")
    with pytest.raises(WorkspaceError, match="holds the lock"), workspace.lock("tables", 0.3):
        pass
    long_ago = time.time() - 2 * STALE_S
    os.utime(held, (long_ago, long_ago))
    with workspace.lock("tables", 0.3):
        assert held.read_text() == socket.gethostname()
    held.write_text(socket.gethostname())  # left by a process of ours that was killed
    with workspace.lock("tables", 0.3):
        pass
    assert not held.exists()


def test_a_process_of_another_machine_counts_though_its_number_is_nobodys_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.running.embedded_server._MACHINE_TIMEOUT_S", 0.5)
    workspace = Workspace(tmp_path).create()
    half = tmp_path / "series" / ".abc.x.tmp"
    half.mkdir(parents=True)
    other = elsewhere("night", workspace, "stay")
    assert other.stdout is not None
    assert other.stdout.readline() == "alone\n"
    assert not half.exists()
    half.mkdir()
    with presence(workspace) as alone:
        assert not alone and half.exists(), "what another machine is writing stays"
        assert machines(workspace) == {"night"}
        server = {"pid": os.getpid(), "create_time": 0, "address": "http://127.0.0.1:1/api", "host": "night"}
        workspace.prefect_home.mkdir()
        (workspace.prefect_home / "server.json").write_text(json.dumps(server))
        with pytest.raises(WorkspaceError, match="NODULEFLOW_PREFECT_API_URL"), engine(workspace):
            pass
    other.communicate("\n", timeout=60)
    assert others(workspace) == [] and machines(workspace) == set()


def test_a_machine_that_lost_its_power_is_counted_for_a_while_only(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    mark = tmp_path / ".users" / "4711"
    mark.parent.mkdir()
    mark.write_text("night")
    assert others(workspace) == [4711]
    long_ago = time.time() - 2 * STALE_S
    os.utime(mark, (long_ago, long_ago))
    assert others(workspace) == [] and not mark.exists()
