"""Prefect without a server to look after: one embedded server a workspace, and tasks that keep secrets.

Several runs at once share the server through a state file; the last one to leave stops it. A run that was killed
leaves the server behind; the next run takes it over, and marks what the killed one left as Running as Crashed.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from data_contracts.errors import NoduleflowError, WorkspaceError, storage_error
from flows.presence import others, presence
from flows.remote.opening import needs_server
from flows.running.embedded_server import running_server, start_server, stop_server, wait_for_single_commands
from flows.running.prefect_reached import check_prefect
from flows.server_errors import server_error
from flows.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

_DRAIN_TIMEOUT_S = 20

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
    WorkspaceError: the embedded server does not start, or that of the settings is away or refuses us.
    """
    with presence(workspace.create()) as alone:
        if address := os.environ.get("PREFECT_API_URL"):
            check_prefect(address)
            meanwhile()
            yield address
            return
        needs_server(workspace, "Prefect", "NODULEFLOW_PREFECT_API_URL")
        workspace.prefect_home.mkdir(parents=True, exist_ok=True)
        if by_the_clock:
            wait_for_single_commands(workspace)
        with workspace.lock("prefect-server"):
            address = running_server(workspace, by_the_clock)
            if address is None:
                address = start_server(workspace, meanwhile, by_the_clock)
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
                    stop_server(workspace)


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
            if (known := storage_error(error) or server_error(error)) is not None:
                raise known from None
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
