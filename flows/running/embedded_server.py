"""The embedded Prefect server of a workspace: found where it runs, started where there is none, stopped at the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.errors import WorkspaceError
from data_contracts.records import write_bytes_atomic
from flows.presence import machines, others
from flows.progress import say
from flows.running.lease import STALE_S
from flows.running.server_database import lay_out_database
from flows.workspace import Workspace

if TYPE_CHECKING:
    import psutil

#: of a living server; a machine that is busy with a fit takes minutes for what an idle one does in ten seconds
_START_TIMEOUT_S = 400
#: how long a schedule waits for single commands to end
_LEAVE_TIMEOUT_S = 600
#: how long a machine is waited for that may have lost its power
_MACHINE_TIMEOUT_S = STALE_S + 30
#: services that only a scheduler of deployments needs; other commands call their flows directly
CLOCK_SERVICES = ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "TRIGGERS")
#: half of the start would import every collection that is installed and register blocks, which nothing here reads
_NO_BLOCKS = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}


def _state_file(workspace: Workspace) -> Path:
    return workspace.prefect_home / "server.json"


def running_server(workspace: Workspace, by_the_clock: bool) -> str | None:
    """Address of the server this workspace has noted, once it answers; None where there is none or it has ended.

    One that keeps no schedules where they are needed is stopped.
    """
    import psutil

    try:
        state = _noted_server(workspace)
        _wait_for_machine(workspace, str(state.get("host", socket.gethostname())))
        process = psutil.Process(state["pid"])
        if abs(process.create_time() - state["create_time"]) > 1:
            return None
        address = str(state["address"])
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    if by_the_clock and not state.get("by_the_clock"):
        stop_server(workspace)
        return None
    return address if _answers(address, lambda: _is_alive(process)) else None


def _wait_for_machine(workspace: Workspace, host: str) -> None:
    """Wait until the marks of a machine that is no more grow old; raises WorkspaceError where it is at work."""
    deadline = time.monotonic() + _MACHINE_TIMEOUT_S
    while host in machines(workspace):
        if time.monotonic() > deadline:
            raise WorkspaceError(
                "another machine is at work here with an embedded Prefect server, which only it can use",
                where=f"{workspace.root} ({host})",
                todo="Start one Prefect server for both and name it in NODULEFLOW_PREFECT_API_URL.",
            )
        time.sleep(0.2)


def _noted_server(workspace: Workspace) -> dict[str, Any]:
    return dict(json.loads(_state_file(workspace).read_text()))


def wait_for_single_commands(workspace: Workspace) -> None:
    """Wait while others use a server that keeps no schedules; raises WorkspaceError where that takes too long."""
    deadline = time.monotonic() + _LEAVE_TIMEOUT_S
    is_said = False
    while others(workspace):
        with suppress(OSError, ValueError):
            if _noted_server(workspace).get("by_the_clock"):
                return
        if not is_said:
            say("another command is at work here; the schedule starts when it has ended")
            is_said = True
        if time.monotonic() > deadline:
            raise WorkspaceError(
                "another command is at work on this workspace", where=str(workspace.root), todo="Start again after it."
            )
        time.sleep(1)


def start_server(workspace: Workspace, meanwhile: Callable[[], object], by_the_clock: bool) -> str:
    """Start one and return its API address; `meanwhile` is done while it starts, which takes some ten seconds.

    Raises
    ------
    WorkspaceError: it does not start.
    """
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **_NO_BLOCKS,
        "PREFECT_HOME": str(workspace.prefect_home),
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    }
    if not by_the_clock:
        environment.update({f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in CLOCK_SERVICES})
    environment.pop("PREFECT_API_URL", None)
    lay_out_database(workspace.prefect_home)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (workspace.prefect_home / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}/api"
    # Noted at once: a run that is killed from here on leaves a server that the next one finds.
    state = {
        "pid": server.pid,
        "create_time": psutil.Process(server.pid).create_time(),
        "address": address,
        "by_the_clock": by_the_clock,
        "host": socket.gethostname(),
    }
    write_bytes_atomic(_state_file(workspace), json.dumps(state).encode())
    meanwhile()
    if _answers(address, lambda: server.poll() is None):
        return address
    server.kill()
    raise WorkspaceError(
        "the embedded Prefect server does not start",
        where=str(workspace.prefect_home / "server.log"),
        todo="Read that log; `noduleflow doctor` checks the installation.",
    )


def _answers(address: str, is_alive: Callable[[], bool]) -> bool:
    """Wait until the server answers; False where it ends or takes too long."""
    import httpx

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and is_alive():
        try:
            httpx.get(f"{address}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return True
    return False


def _is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != "zombie")


def stop_server(workspace: Workspace) -> None:
    """Stop the server this workspace has noted, if it runs."""
    import psutil

    with suppress(OSError, ValueError, KeyError, psutil.Error):
        state = _noted_server(workspace)
        process = psutil.Process(state["pid"])
        if abs(process.create_time() - state["create_time"]) <= 1:
            # Task states reach the database behind the client; give the last ones time to land.
            time.sleep(1)
            process.terminate()
            try:
                process.wait(20)
            except psutil.TimeoutExpired:
                process.kill()
    _state_file(workspace).unlink(missing_ok=True)
