"""One mover of the champion at a time: a file lock on this machine, and PostgreSQL's advisory lock among machines."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from data_contracts.errors import UsageError, WorkspaceError
from flows.settings import shared_registry_secrets
from flows.versions.tracking import tracking_uri
from flows.workspace import Workspace

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812

_NAME = "promotion"
_TIMEOUT_S = 600.0
_POLL_S = 0.02
#: a machine that lost its power keeps the lock until the server has asked in vain: 30 s + 3 * 10 s
_KEEPALIVE = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"


def lock_database(workspace: Workspace) -> str:
    """Address of the PostgreSQL database whose advisory lock is taken too; "" where the file lock is all there is."""
    if given := shared_registry_secrets()[1]:
        return given
    uri = tracking_uri(workspace)
    return uri if uri.startswith("postgres") else ""


@contextmanager
def registry_lock(
    workspace: Workspace, model_name: str, *, timeout_s: float = _TIMEOUT_S
) -> Iterator[Callable[[], None]]:
    """Hold the right to move the champion of a model; yields a check that it is still held.

    The check raises WorkspaceError where the database ended the connection, and with it the lock.

    Raises
    ------
    WorkspaceError: another holds it for too long, or the database does not answer.
    UsageError: a PostgreSQL database is named and its driver is not installed.
    """
    database = lock_database(workspace)
    with workspace.lock(_NAME, timeout_s):
        if not database:
            yield lambda: None
            return
        with _advisory_lock(database, model_name, timeout_s) as check:
            yield check


@contextmanager
def _advisory_lock(database: str, model_name: str, timeout_s: float) -> Iterator[Callable[[], None]]:
    connection = _connect(database)
    try:
        key = lock_key(model_name)
        deadline = time.monotonic() + timeout_s
        while not _ask(connection, "SELECT pg_try_advisory_lock(%s)", key):
            if time.monotonic() > deadline:
                raise WorkspaceError(
                    "another machine holds the lock of the registry",
                    where=model_name,
                    todo="Wait for it, or end it.",
                )
            time.sleep(_POLL_S)

        def check() -> None:
            _ask(connection, "SELECT 1 WHERE %s IS NOT NULL", key)

        yield check
    finally:
        connection.close()  # ends the session, and with it the lock


def lock_key(model_name: str) -> int:
    """The 64-bit number of a model's lock."""
    return int.from_bytes(hashlib.sha256(f"noduleflow registry {model_name}".encode()).digest()[:8], "big", signed=True)


def _connect(database: str) -> Connection:
    try:
        import psycopg2
    except ImportError:
        raise UsageError(
            "the registry is locked in PostgreSQL, and its driver psycopg2 is not installed",
            todo='Install it, in the checkout: pip install ".[postgres]".',
        ) from None
    scheme, _, rest = database.partition("://")
    try:
        connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=10)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_KEEPALIVE)
    except psycopg2.Error as error:
        raise _lost(error) from None
    return connection


def _ask(connection: Connection, statement: str, key: int) -> Any:
    import psycopg2

    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, (key,))
            row = cursor.fetchone()
    except psycopg2.Error as error:
        raise _lost(error) from None
    return row[0] if row else None


def _lost(error: Exception) -> WorkspaceError:
    """What the database said, without its address, which may hold a password."""
    said = str(error).strip().splitlines()
    return WorkspaceError(
        f"the database of the registry's lock does not answer ({type(error).__name__})",
        todo=f"{said[-1][:120]}" if said and "password=" not in said[-1] else "",
    )
