"""Prefect without a server to look after: one embedded server a workspace, and tasks that keep secrets.

Several runs at once share the server through a state file; the last one to leave stops it. A run that was killed
leaves the server behind; the next run takes it over, and marks what the killed one left as Running as Crashed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from data_contracts.errors import NoduleflowError, WorkspaceError
from data_contracts.records import write_bytes_atomic
from flows.presence import others, presence
from flows.progress import say
from flows.workspace import Workspace

if TYPE_CHECKING:
    import psutil

P = ParamSpec("P")
R = TypeVar("R")

_START_TIMEOUT_S = 120
_DRAIN_TIMEOUT_S = 20
#: how long a schedule waits for single commands to end
_LEAVE_TIMEOUT_S = 600
#: services that only a scheduler of deployments needs; other commands call their flows directly
_CLOCK_SERVICES = ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "TRIGGERS")

#: the last unexpected traceback, for --debug
last_traceback: list[str] = []


@contextmanager
def engine(
    workspace: Workspace, meanwhile: Callable[[], object] = lambda: None, *, by_the_clock: bool = False
) -> Iterator[str]:
    """Yield the API address of a Prefect server: the one of the settings, or this workspace's embedded one.

    meanwhile: done while a server of our own starts, which takes another process some ten seconds.
    by_the_clock: the embedded server must keep schedules, which costs it work that single commands do not need.

    Raises
    ------
    WorkspaceError: the embedded server does not start.
    """
    with presence(workspace.create()) as alone:
        if address := os.environ.get("PREFECT_API_URL"):
            meanwhile()
            yield address
            return
        workspace.prefect_home.mkdir(parents=True, exist_ok=True)
        if by_the_clock:
            _wait_for_single_commands(workspace)
        with workspace.lock("prefect-server"):
            address = _running_server(workspace, by_the_clock)
            if address is None:
                address = _start_server(workspace, meanwhile, by_the_clock)
            else:
                meanwhile()
        os.environ["PREFECT_API_URL"] = address
        try:
            if alone:
                _mark_killed_runs(address)
            with _known_to_prefect(address):
                yield address
        finally:
            _hand_over_the_last_lines()
            os.environ.pop("PREFECT_API_URL", None)
            with suppress(WorkspaceError), workspace.lock("prefect-server"):
                if not others(workspace):
                    _stop_server(workspace)


@contextmanager
def _known_to_prefect(address: str) -> Iterator[None]:
    """Prefect reads the environment when it is imported; where it was imported before, it is told."""
    if "prefect" not in sys.modules:
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}):
        yield


def _hand_over_the_last_lines() -> None:
    """Prefect sends logs and events behind our back; what is left when the server is gone is waited for in vain."""
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=_DRAIN_TIMEOUT_S, at_exit=False)
    EventsWorker.drain_all(timeout=_DRAIN_TIMEOUT_S, at_exit=False)


def _state_file(workspace: Workspace) -> Path:
    return workspace.prefect_home / "server.json"


def _running_server(workspace: Workspace, by_the_clock: bool) -> str | None:
    """Address of the server this workspace has noted, once it answers; None where there is none or it has ended.

    One that keeps no schedules where they are needed is stopped.
    """
    import psutil

    try:
        state = _noted_server(workspace)
        process = psutil.Process(state["pid"])
        if abs(process.create_time() - state["create_time"]) > 1:
            return None
        address = str(state["address"])
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    if by_the_clock and not state.get("by_the_clock"):
        _stop_server(workspace)
        return None
    return address if _answers(address, lambda: _is_alive(process)) else None


def _noted_server(workspace: Workspace) -> dict[str, Any]:
    return dict(json.loads(_state_file(workspace).read_text()))


def _wait_for_single_commands(workspace: Workspace) -> None:
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


def _start_server(workspace: Workspace, meanwhile: Callable[[], object], by_the_clock: bool) -> str:
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PREFECT_HOME": str(workspace.prefect_home), "PREFECT_LOGGING_SERVER_LEVEL": "ERROR"}
    if not by_the_clock:
        environment.update({f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _CLOCK_SERVICES})
    environment.pop("PREFECT_API_URL", None)
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


def _stop_server(workspace: Workspace) -> None:
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


def _mark_killed_runs(address: str) -> None:
    """A run that was killed stays Running for ever in Prefect; nobody else is here, so it is Crashed."""
    import httpx

    filters = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}, "limit": 200}
    with suppress(httpx.HTTPError, ValueError):
        for run in httpx.post(f"{address}/flow_runs/filter", json=filters, timeout=10).json():
            state = {"type": "CRASHED", "name": "Crashed", "message": "The process was killed."}
            body = {"state": state, "force": True}
            httpx.post(f"{address}/flow_runs/{run['id']}/set_state", json=body, timeout=10)


def scrubbed(function: Callable[P, R]) -> Callable[P, R]:
    """Let our own errors through; turn any other into one that names the place and shows no value.

    Prefect keeps the message of a failed task in its database, and a foreign message may quote a
    path or a header.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except NoduleflowError:
            raise
        except MemoryError:
            raise NoduleflowError("out of memory", where=function.__name__, todo="Use a smaller batch.") from None
        except Exception as error:
            last_traceback[:] = traceback.format_exception(error)
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            detail = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            raise NoduleflowError(
                f"unexpected {type(error).__name__}{detail}",
                where=place,
                todo="Run again with --debug for the traceback.",
            ) from None

    return guarded


def step(name: str) -> Callable[[Callable[P, R]], Any]:
    """A Prefect task over a pure step: no cache and no stored result (the workspace is the store)."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    def decorate(function: Callable[P, R]) -> Any:
        guarded = scrubbed(function)
        return task(name=name, cache_policy=NO_CACHE, persist_result=False, log_prints=False)(guarded)

    return decorate
