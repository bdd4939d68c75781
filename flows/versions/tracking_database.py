"""A workspace's embedded MLflow database begins whole.

A kill among MLflow's migrations would leave tables that no later start gets past.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from data_contracts.errors import damaged_database

_PREFIX = "mlflow-"


def begin_database(path: Path, scratch: Path) -> None:
    """Make MLflow's tables in a folder of scratch and put the file in place; one that was ever in use stays.

    The caller holds the lock of the set-up, so that what is in scratch of another one was left by a kill. scratch: on
    the same file system as path.
    """
    for left in scratch.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    if _is_begun(path):
        return
    # The heart of MLflow's server: only those who have no database yet wait for its imports.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=_PREFIX) as folder:
        new = Path(folder) / path.name
        SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "mlruns").as_uri()).engine.dispose()
        new.replace(path)


def _is_begun(path: Path) -> bool:
    """Whether it got as far as the experiment that MLflow makes last.

    Raises
    ------
    WorkspaceError: the file is damaged, or no database.
    """
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as database:
            return database.execute("SELECT 1 FROM experiments").fetchone() is not None
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)
    except sqlite3.DatabaseError as error:
        raise damaged_database(str(path), str(error)) from None
