"""A rollback's short way to MLflow's registry: the few rows it needs, without the seconds that MLflow's import takes.

Taken only where MLflow's tables have exactly the schema this was written for; anywhere else MLflow itself is asked.
The methods are those of MlflowClient, and a missing row is a LookupError.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: MLflow's own name of its last change of schema, 3.17
SCHEMA = "dc11669786a5"
_TIMEOUT_S = 30.0


class DirectClient:
    """Rows of one MLflow database; every call is one transaction."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._sqlite = uri.startswith("sqlite:///")

    def fits(self) -> bool:
        """Whether the database is there, with the schema this was written for, and no workspaces of MLflow's in it."""
        try:
            if self._sqlite and not Path(self._uri.removeprefix("sqlite:///")).is_file():
                return False
            with self._cursor() as ask:
                others = ask("SELECT count(*) FROM registered_models WHERE workspace <> 'default'")
                return ask("SELECT version_num FROM alembic_version") == [(SCHEMA,)] and others == [(0,)]
        except Exception:  # whatever it is, MLflow says it better
            return False

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A function that runs a statement and gives its rows, within one transaction."""
        connection: Any
        if self._sqlite:
            connection = sqlite3.connect(self._uri.removeprefix("sqlite:///"), timeout=_TIMEOUT_S, isolation_level=None)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
        else:
            import psycopg2

            scheme, _, rest = self._uri.partition("://")
            connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=10)
        cursor = connection.cursor()

        def ask(statement: str, *values: Any) -> list[tuple[Any, ...]]:
            cursor.execute(statement if self._sqlite else statement.replace("?", "%s"), values)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

        try:
            yield ask
            connection.commit()
        finally:
            connection.close()  # rolls back what was not committed

    def get_registered_model(self, name: str) -> SimpleNamespace:
        """Aliases and tags."""
        with self._cursor() as ask:
            if not ask("SELECT 1 FROM registered_models WHERE name = ?", name):
                raise LookupError(name)
            aliases = ask("SELECT alias, version FROM registered_model_aliases WHERE name = ?", name)
            tags = ask("SELECT key, value FROM registered_model_tags WHERE name = ?", name)
        return SimpleNamespace(aliases={alias: str(version) for alias, version in aliases}, tags=dict(tags))

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        """Number and tags."""
        with self._cursor() as ask:
            self._require_version(ask, name, version)
            tags = ask("SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", name, int(version))
        return SimpleNamespace(version=version, tags=dict(tags))

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where the artifacts are."""
        with self._cursor() as ask:
            return self._require_version(ask, name, version)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        """Write one tag."""
        with self._cursor() as ask:
            ask(
                "INSERT INTO registered_model_tags (workspace, name, key, value) VALUES ('default', ?, ?, ?) "
                "ON CONFLICT (workspace, key, name) DO UPDATE SET value = excluded.value",
                name,
                key,
                value,
            )

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version that is there."""
        with self._cursor() as ask:
            self._require_version(ask, name, version)
            ask(
                "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES ('default', ?, ?, ?) "
                "ON CONFLICT (workspace, name, alias) DO UPDATE SET version = excluded.version",
                name,
                alias,
                int(version),
            )

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""
        with self._cursor() as ask:
            ask("DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", name, alias)

    def _require_version(self, ask: Any, name: str, version: str) -> str:
        found = ask(
            "SELECT coalesce(storage_location, source) FROM model_versions "
            "WHERE name = ? AND version = ? AND current_stage <> 'Deleted_Internal'",
            name,
            int(version),
        )
        if not found:
            raise LookupError(f"{name} {version}")
        return str(found[0][0])


def is_missing(error: Exception) -> bool:
    """Whether an answer of MLflow or of the short way says that there is no such row."""
    return isinstance(error, LookupError) or getattr(error, "error_code", "") in (
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
    )
