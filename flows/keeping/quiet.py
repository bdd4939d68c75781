"""A moment in which nobody moves the champion, appends to the audit or writes a table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from data_contracts.errors import WorkspaceError
from flows.registry.lock import registry_lock
from flows.workspace import Workspace

#: of every writer of what must fit together
_LOCKS = ("annotations", "tables", "registry", "identity-policy", "audit")
_EACH_S, _ALL_S = 5.0, 900.0


@contextmanager
def writers_held(workspace: Workspace, model_name: str) -> Iterator[None]:
    """Hold every writer of tables, registry and audit; they wait meanwhile.

    Others take several of these locks in an order of their own. So none is waited for long while others are held: all
    are let go, and it is tried again.

    Raises
    ------
    WorkspaceError: one of them is held for too long, or PostgreSQL, which the registry is locked in, does not answer.
    """
    deadline = time.monotonic() + _ALL_S
    while True:
        with ExitStack() as held:
            try:
                held.enter_context(registry_lock(workspace, model_name, timeout_s=_EACH_S))
                for name in _LOCKS:
                    held.enter_context(workspace.lock(name, _EACH_S))
            except WorkspaceError as error:
                if time.monotonic() > deadline or "does not answer" in error.what:
                    raise
                continue
            yield
            return
