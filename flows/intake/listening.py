"""Listen for what is sent by C-STORE, and hand each study over once it has settled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from data_contracts.errors import WorkspaceError
from flows.progress import say
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.exchange.inbox import Inbox
from pipeline.exchange.listener import Listener, ListenerParams

_TICK_S = 0.25
#: how long open associations may go on after we were told to end
_GRACE_S = 10.0

#: ingests claimed folders; the files that stay are tried again by the next process
IngestClaimed = Callable[[tuple[Path, ...]], dict[str, Any]]


def inbox_of(workspace: Workspace) -> Inbox:
    """The inbox of a workspace; its names are digests with the workspace's secret."""
    return Inbox(workspace.inbox_root, Pseudonymizer(workspace.secret(configured_secret())).key)


@contextmanager
def sole_listener(workspace: Workspace) -> Iterator[None]:
    """Be the only process that receives for a workspace; raises WorkspaceError where another does."""
    with _sole(workspace, "listener", "receives for this workspace"):
        yield


@contextmanager
def sole_ingest(workspace: Workspace) -> Iterator[None]:
    """Be the only process that empties the inbox of a workspace; raises WorkspaceError where another does."""
    with _sole(workspace, "inbox", "empties this inbox"):
        yield


@contextmanager
def _sole(workspace: Workspace, name: str, what: str) -> Iterator[None]:
    lock = workspace.lock(name, timeout_s=0)
    try:
        lock.__enter__()
    except WorkspaceError:
        raise WorkspaceError(
            f"another process {what}", where=str(workspace.root), todo="Wait for it, or end it."
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def is_listening(workspace: Workspace) -> bool:
    """Whether a process receives for this workspace now."""
    try:
        with sole_listener(workspace):
            return False
    except WorkspaceError:
        return True


def listen(
    workspace: Workspace,
    params: ListenerParams,
    *,
    settle_s: float,
    once_idle_s: float,
    ingest: IngestClaimed | None,
) -> dict[str, Any]:
    """Receive until SIGTERM or SIGINT, or until nothing came for `once_idle_s` where that is above 0.

    Every study to which nothing was added for `settle_s`, and which no open association adds to, goes to `ingest`.
    At the end open associations have some seconds to finish; then what is on disk is safe and waits for the next start.

    Raises
    ------
    WorkspaceError: another process listens for this workspace.
    ExchangeError: the port is taken.
    """
    inbox = inbox_of(workspace)
    listener = Listener(inbox, params)
    ended = threading.Event()
    tried: set[Path] = set()
    ingested: list[dict[str, Any]] = []

    def hand_over(wait_s: float) -> None:
        if ingest is None:
            return
        claimed = tuple(folder for folder in inbox.claim_settled(wait_s, listener.busy()) if folder not in tried)
        if claimed:
            tried.update(claimed)
            ingested.append(ingest(claimed))

    with sole_listener(workspace), _ended_by_signal(ended, listener):
        listener.start()
        try:
            say(f"listening as {params.aet} on {params.host}:{params.port}")
            while not ended.wait(_TICK_S):
                hand_over(settle_s)
                if once_idle_s and listener.idle_s() >= once_idle_s:
                    break
        finally:
            listener.stop(_GRACE_S)
        if not ended.is_set():
            hand_over(0)  # nobody can add to a study any more
    return {
        "outcomes": dict(sorted(listener.outcomes.items())),
        "waiting": len(inbox.waiting()),
        "accepted": sum(record["accepted"] for record in ingested),
        "study_keys": sorted({key for record in ingested for key in record["study_keys"]}),
    }


@contextmanager
def _ended_by_signal(ended: threading.Event, listener: Listener) -> Iterator[None]:
    """SIGTERM and SIGINT stop the listener at once, also while an ingest goes on, and then end the loop."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()
        threading.Thread(target=listener.stop, args=(_GRACE_S,), daemon=True).start()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
