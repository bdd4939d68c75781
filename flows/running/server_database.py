"""An empty database of the installed Prefect, made once an installation, for workspaces to begin with.

Prefect brings a new database through a hundred migrations, some seven seconds of a core in every new workspace. Where
no such file was made (`python -m flows.running.server_database`, which set-up does), Prefect makes its own as ever.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

_NAME = "prefect.db"
_UNFINISHED = ".new-"
#: where one of them is set, the server keeps its runs elsewhere
_ADDRESSES = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


def kept_database() -> Path:
    """Where this installation keeps it; the version of Prefect and of SQLite's library are in its name."""
    name = f"prefect-{version('prefect')}-sqlite-{sqlite3.sqlite_version}.db"
    return Path(sys.prefix) / "share" / "noduleflow" / name


def lay_out_database(prefect_home: Path) -> None:
    """Give a home without a database the kept one, whole or not at all; trouble with it is left to Prefect.

    The caller holds the lock of the server, so that another half-made one was left by a kill.
    """
    for left in prefect_home.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    if (prefect_home / _NAME).exists() or any(name in os.environ for name in _ADDRESSES):
        return
    with suppress(OSError), TemporaryDirectory(dir=prefect_home, prefix=_UNFINISHED) as folder:
        copy = Path(shutil.copy(kept_database(), folder))
        copy.chmod(0o600)
        os.link(copy, prefect_home / _NAME)  # where another process was first, its file stays


def keep_database() -> Path:
    """Make it with Prefect's own migrations and put it where `lay_out_database` looks; returns the file."""
    target = kept_database()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=_UNFINISHED) as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"PREFECT_HOME": folder, "DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        made = Path(folder) / _NAME
        with closing(sqlite3.connect(made)) as database:
            database.execute("DELETE FROM configuration")  # no key of one installation's secrets for all its workspaces
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("VACUUM")
        made.replace(target)
    return target


if __name__ == "__main__":
    keep_database()
