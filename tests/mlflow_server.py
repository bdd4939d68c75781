"""MLflow's server as deploy/start makes it: with basic auth, on loopback, on a database and a folder of artifacts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import pytest
from orthanc_server import free_port

REPOSITORY = Path(__file__).resolve().parents[1]


class MlflowServer:
    """One server, which ends with its `with` and may be entered again; `url` is its address.

    database: as SQLAlchemy takes it. artifacts: a folder; that of the server where none is given.
    """

    def __init__(self, folder: Path, database: str, password: str, artifacts: Path | None = None) -> None:
        pytest.importorskip("flask_wtf", reason="what MLflow's sign-in needs is not installed: make servers")
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "mlflow.log"
        self.password_file = folder / "password"
        self.password_file.write_text(password)
        (folder / "pages-key").write_text("k" * 40)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")},
            "NODULEFLOW_BIN": str(Path(sys.executable).parent),
            "TMPDIR": str(folder),
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts or folder / "artifacts"),
            "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(self.password_file),
            "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE": str(folder / "pages-key"),
        }

    def __enter__(self) -> Self:
        command = ["sh", str(REPOSITORY / "deploy" / "start"), "mlflow"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                assert self._process.poll() is None, self._log.read_text()[-2000:]
            time.sleep(0.2)
        self.__exit__()
        raise AssertionError(f"MLflow does not answer: {self._log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
