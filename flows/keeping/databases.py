"""Databases into a backup and out of it: sqlite by its own backup, while it is used; PostgreSQL by pg_dump.

A password never stands on a command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from data_contracts.backup import DatabaseKind
from data_contracts.errors import UsageError, WorkspaceError
from data_contracts.records import digest_of

_BUSY_S = 120.0
#: rows of a table that only use puts there; a database of a server that was just started has none
_USED = {"mlflow": ("registered_models", "runs"), "prefect": ("flow_run", "deployment")}
#: where MLflow keeps addresses of artifacts
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def copy_sqlite(source: Path, target: Path) -> None:
    """A copy of a database as it stood at one moment, though others write to it.

    Raises
    ------
    WorkspaceError: it cannot be read, is damaged, or is never left alone for two minutes.
    """
    try:
        target.unlink(missing_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        address = f"file:{quote(str(source))}?mode=ro"
        with (
            closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S)) as read,
            closing(sqlite3.connect(target, timeout=_BUSY_S)) as write,
        ):
            read.backup(write)
            # One file: what a log beside it held is in it now.
            write.execute("PRAGMA journal_mode = DELETE")
            answer = str(write.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        raise WorkspaceError(
            f"the database cannot be copied ({error})", where=source.name, todo="`noduleflow doctor` says more."
        ) from None
    if answer != "ok":
        raise WorkspaceError(
            "the database is damaged", where=source.name, todo="Mend or restore it before you make a backup of it."
        )


def dump(kind: DatabaseKind, url: str, target: Path) -> None:
    """pg_dump of a database as it stands at one moment; raises UsageError or WorkspaceError."""
    address, environment = _address(url)
    _run(
        kind, ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}", address], environment
    )


def restore(kind: DatabaseKind, url: str, source: Path) -> None:
    """pg_restore into a database that is empty or was never used; whole or not at all."""
    address, environment = _address(url)
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--clean", "--if-exists"]
    _run(kind, ["pg_restore", *options, f"--dbname={address}", str(source)], environment)


def place_of(kind: DatabaseKind, url: str) -> str:
    """Which database it is, without user and password, as one short word."""
    parts = urlsplit(_address(url)[0])
    return digest_of([kind, parts.hostname, parts.port, parts.path, parts.query])


def dumped_rows(source: Path, table: str) -> list[dict[str, str]]:
    """The rows of one table in a dump, as text; none where the dump has no such table."""
    said = _run(
        "the backup", ["pg_restore", "--data-only", f"--table={table}", "--file=-", str(source)], {**os.environ}
    )
    rows: list[dict[str, str]] = []
    names: list[str] = []
    for line in said.splitlines():
        if line.startswith("COPY "):
            names = [name.strip(' "') for name in line.partition("(")[2].partition(")")[0].split(",")]
        elif line == "\\.":
            names = []
        elif names:
            rows.append(dict(zip(names, line.split("\t"), strict=False)))
    return rows


def check_unused(kind: DatabaseKind, url: str) -> None:
    """Raises UsageError where a database holds what a restore would throw away, WorkspaceError where none answers."""
    for table in _USED[kind]:
        if _ask(kind, url, "SELECT to_regclass(%s)", (table,)) is None:
            continue
        if _ask(kind, url, f'SELECT 1 FROM "{table}" LIMIT 1') is not None:
            raise UsageError(
                f"the database of {kind} is in use (its table {table} is not empty)",
                todo="Restore into an empty database; nothing was changed.",
            )


def move_locations(address: str, before: Path, now: Path) -> None:
    """Point MLflow to artifacts that lay in one workspace folder and are now in another.

    Parameters
    ----------
    address: of the database, as SQLAlchemy takes it.
    """
    if before == now:
        return
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(address, poolclass=NullPool)
    names = inspect(engine)
    with engine.begin() as connection:
        for table, column in _LOCATIONS:
            if not names.has_table(table) or column not in {found["name"] for found in names.get_columns(table)}:
                continue
            for old, new in ((before.as_uri(), now.as_uri()), (str(before), str(now))):
                statement = (
                    f"UPDATE {table} SET {column} = :new || substr({column}, :rest) "
                    f"WHERE {column} = :old OR substr({column}, 1, :length) = :below"
                )
                values = {"new": new, "rest": len(old) + 1, "old": old, "length": len(old) + 1, "below": f"{old}/"}
                connection.execute(text(statement), values)


def _address(url: str) -> tuple[str, dict[str, str]]:
    """(address without driver and password, environment that holds the password) for PostgreSQL's own programs."""
    parts = urlsplit(url)
    if not parts.scheme.startswith("postgres"):
        raise UsageError(
            "only databases of PostgreSQL are dumped", todo="A database of sqlite lies in the workspace and is copied."
        )
    password = unquote(parts.password or "")
    place = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    address = parts._replace(scheme="postgresql", netloc=f"{user}{place}").geturl()
    return address, {**os.environ, **({"PGPASSWORD": password} if password else {}), "PGCONNECT_TIMEOUT": "10"}


def _run(kind: str, command: Sequence[str], environment: dict[str, str]) -> str:
    """What the program wrote."""
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"the database of {kind} needs {command[0]}, which is not installed",
            todo="Install PostgreSQL's client programs (Debian: postgresql-client), at least as new as the server.",
        )
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if "password=" not in line]
        raise WorkspaceError(f"{command[0]} of the database of {kind} failed", todo=said[0][:200] if said else "")
    return done.stdout


def _ask(kind: str, url: str, statement: str, values: tuple[Any, ...] = ()) -> Any:
    address, environment = _address(url)
    try:
        import psycopg2
    except ImportError:
        raise UsageError(
            "PostgreSQL's driver psycopg2 is not installed",
            todo='Install it, in the checkout: pip install ".[postgres]".',
        ) from None
    try:
        password = environment.get("PGPASSWORD")
        with closing(psycopg2.connect(address, password=password, connect_timeout=10)) as connection:
            cursor = connection.cursor()
            cursor.execute(statement, values)
            row = cursor.fetchone()
    except psycopg2.Error as error:
        said = str(error).strip().splitlines()
        raise WorkspaceError(
            f"the database of {kind} does not answer ({type(error).__name__})",
            todo=said[0][:160] if said and "password=" not in said[0] else "",
        ) from None
    return row[0] if row else None
