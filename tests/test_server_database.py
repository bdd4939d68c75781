"""A workspace begins with the installation's empty database of Prefect, and none is ever overwritten."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from flows.running import server_database
from flows.running.server_database import keep_database, lay_out_database

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One made by Prefect's own migrations, elsewhere than that of this installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.prefix", str(tmp_path_factory.mktemp("installation")))
        return keep_database()


@pytest.fixture(autouse=True)
def installation(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_database, "kept_database", lambda: kept)


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_it_is_at_the_last_migration_and_holds_no_run_and_no_key(kept: Path) -> None:
    assert rows(kept, "alembic_version") == 1
    assert [rows(kept, table) for table in ("flow_run", "task_run", "log", "configuration")] == [0, 0, 0, 0]
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_new_home_gets_a_copy_that_only_its_owner_reads(kept: Path, tmp_path: Path) -> None:
    lay_out_database(tmp_path)
    (made,) = tmp_path.iterdir()
    assert made.read_bytes() == kept.read_bytes()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_a_database_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"runs")
    lay_out_database(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b"runs"


def test_a_server_that_keeps_its_runs_elsewhere_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql://127.0.0.1/prefect")
    lay_out_database(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_kept_one_prefect_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_database, "kept_database", lambda: tmp_path / "missing.db")
    lay_out_database(tmp_path)
    assert list(tmp_path.iterdir()) == []
