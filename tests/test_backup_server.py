"""A backup through MLflow's server with sign-in, on PostgreSQL, comes back into another server with its users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_server import MlflowServer
from postgres_server import Postgres
from registry_factory import OPEN, add_version

from flows.registry import Registry
from flows.registry.faults import all_faults
from flows.registry.promotion import promote
from flows.settings import Settings, apply_environment
from flows.workspace import Workspace

PASSWORD = "a password of seventeen words"


def environment(server: MlflowServer, url: str) -> dict[str, str]:
    return {
        "NODULEFLOW_MLFLOW_TRACKING_URI": server.url,
        "NODULEFLOW_MLFLOW_DATABASE": url,
        "NODULEFLOW_MLFLOW_USER": "noduleflow",
        "NODULEFLOW_MLFLOW_PASSWORD": PASSWORD,
    }


def noduleflow(workspace: Path, given: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--json", "--workspace", str(workspace), *words]
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("MLFLOW_", "NODULEFLOW_"))}
    return subprocess.run(command, env={**plain, **given}, capture_output=True, text=True, check=False)


@pytest.mark.server
@pytest.mark.slow
def test_a_backup_through_a_server_with_sign_in_comes_back_into_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = Postgres()
    try:
        postgres.start()
        first, second = postgres.database("first"), postgres.database("second")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back as they were when the test ends
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
        with MlflowServer(tmp_path / "one", first, PASSWORD) as server:
            given = environment(server, first)
            for name, text in given.items():
                monkeypatch.setenv(name, text)
            settings = Settings(workspace=tmp_path / "ws", _env_file=None)
            apply_environment(settings)
            workspace = Workspace(settings.workspace).create()
            add_version(workspace, settings, 1)
            promote(workspace, settings, "1", expect="none", policy=OPEN)
            done = noduleflow(workspace.root, given, "backup", str(tmp_path / "backup"))
            assert done.returncode == 0, done.stderr
            record = json.loads(done.stdout)
            assert record["databases"] == {"mlflow": "databases/mlflow.dump"} and record["artifacts"]
            assert any((tmp_path / "backup" / "artifacts").rglob("*"))
            assert PASSWORD not in done.stdout + done.stderr
        workspace.root.rename(tmp_path / "gone")
        (tmp_path / "one" / "artifacts").rename(tmp_path / "gone-artifacts")
        there = Workspace(tmp_path / "elsewhere")
        with MlflowServer(tmp_path / "two", second, PASSWORD) as server:
            given = environment(server, second)
            done = noduleflow(there.root, given, "restore", str(tmp_path / "backup"))
            assert done.returncode == 0, done.stderr
            for name, text in given.items():
                monkeypatch.setenv(name, text)
            settings = Settings(workspace=there.root, _env_file=None)
            apply_environment(settings)
            registry = Registry(there.require(), settings.model_name)
            assert registry.alias("champion") == "1"
            assert all_faults(registry) == []
            registry.verified_folder("champion")
    finally:
        postgres.remove()
