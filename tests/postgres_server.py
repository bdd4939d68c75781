"""A real PostgreSQL of a test's own: on a free port of this machine, as a user without rights, gone with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from orthanc_server import free_port


def _programs() -> Path | None:
    """Debian keeps initdb and postgres off the PATH, in a folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """One cluster in a temporary folder; `url` names its database."""

    def __init__(self) -> None:
        programs = _programs()
        if programs is None:
            pytest.skip("the Debian package postgresql is not installed")
        pytest.importorskip("psycopg2", reason="the driver psycopg2 is not installed")
        self._programs = programs
        # Not below pytest's folder, which another user cannot enter.
        self.folder = Path(tempfile.mkdtemp(prefix="noduleflow-postgres-"))
        self._user = self._other_user()
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self.port = free_port()
        self.url = f"postgresql://noduleflow@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _other_user() -> pwd.struct_passwd | None:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        pytest.skip("there is no user but root to run PostgreSQL as")

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {"cwd": self.folder}
        return {"cwd": self.folder, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def start(self) -> Postgres:
        data = self.folder / "data"
        if not data.exists():
            command = [
                self._programs / "initdb",
                "-D",
                data,
                "-U",
                "noduleflow",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=120, **self._as_user())  # type: ignore[call-overload]
        command = [
            self._programs / "postgres", "-D", data, "-p", str(self.port), "-k", self.folder,
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())  # type: ignore[call-overload]
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        return self

    def _answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.Error:
            return False
        return True

    def database(self, name: str) -> str:
        """The address of another, new database."""
        import psycopg2

        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return self.url.replace("/postgres", f"/{name}")

    def stop(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown, its children too
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
