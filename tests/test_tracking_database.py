"""A workspace's MLflow database is there whole or not at all, and one that was in use is never made anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_contracts.errors import WorkspaceError
from flows.versions.tracking import EXPERIMENT, connect
from flows.versions.tracking_database import begin_database
from flows.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws").create()


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]


def drop_all_but(path: Path, kept: int) -> None:
    """Leave the first tables that MLflow made, as a kill among its migrations does."""
    with closing(sqlite3.connect(path)) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names[kept:]:
            database.execute(f'DROP TABLE "{name}"')
        database.commit()


@pytest.mark.parametrize("kept", [0, 1, 12])
def test_tables_that_a_kill_left_half_made_are_made_anew(kept: int, workspace: Workspace) -> None:
    begin_database(workspace.mlflow_database, workspace.scratch_root)
    whole = tables(workspace.mlflow_database)
    assert len(whole) > 12
    drop_all_but(workspace.mlflow_database, kept)
    with closing(sqlite3.connect(workspace.mlflow_database)) as database, database:
        if "experiments" in tables(workspace.mlflow_database):
            database.execute("DELETE FROM experiments")
    assert connect(workspace).get_experiment_by_name(EXPERIMENT) is not None
    assert tables(workspace.mlflow_database) == whole
    assert list(workspace.scratch_root.iterdir()) == []


def test_one_with_experiments_stays_as_it_is(workspace: Workspace) -> None:
    connect(workspace)
    before = workspace.mlflow_database.read_bytes()
    begin_database(workspace.mlflow_database, workspace.scratch_root)
    assert workspace.mlflow_database.read_bytes() == before


def test_what_is_no_database_is_named_and_left_as_it_is(workspace: Workspace) -> None:
    workspace.mlflow_database.write_bytes(b"this is no database" * 300)
    with pytest.raises(WorkspaceError, match=r"a database is damaged .*mlflow\.db.*restore"):
        begin_database(workspace.mlflow_database, workspace.scratch_root)
    assert workspace.mlflow_database.read_bytes().startswith(b"this is no database")
