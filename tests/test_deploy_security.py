"""Who may reach a server, where secrets come from and never go, and what the lock is made of."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_contracts.errors import UsageError
from flows.keeping.binding import check_binding, is_loopback
from flows.keeping.databases import dump
from flows.settings import Settings, apply_environment, shared_registry_secrets

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    return subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """deploy/start, where no server can come up: its programs only say how they were called."""
    return run("sh", str(DEPLOY / "start"), *words, **environment)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that print their command line and their environment instead of serving."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("mlflow", "prefect", "noduleflow"):
        (folder / name).write_text('#!/bin/sh\necho "line: $0 $*"\nenv\n')
        (folder / name).chmod(0o755)
    (folder / "python").write_text("#!/bin/sh\nexit 0\n")
    (folder / "python").chmod(0o755)
    return folder


MLFLOW = {"MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow@db/mlflow", "MLFLOW_ARTIFACTS_DESTINATION": "/artifacts"}
PREFECT = {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect@db/prefect"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_loopback_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "pacs", "127.0.0.1.example", "localhost.example"])
def test_everything_else_may_lead_anywhere(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="would answer everybody"):
        check_binding(host, authenticated=False, server="it", todo="")
    check_binding(host, authenticated=True, server="it", todo="")


def test_the_dicom_listener_does_not_listen_to_the_world_before_it_is_told_who_may_send(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "--workspace", str(tmp_path / "ws"), "listen", "--once-idle", "1"]
    refused = run(*command, "--bind", "0.0.0.0", NODULEFLOW_DICOM_CALLING_AETS="PACS")
    assert refused.returncode == 2
    assert "NODULEFLOW_DICOM_CALLING_HOSTS" in refused.stderr


@pytest.mark.parametrize(
    ("service", "given"),
    [("mlflow", {**MLFLOW, "MLFLOW_HOST": "0.0.0.0"}), ("prefect", {**PREFECT, "PREFECT_SERVER_API_HOST": "0.0.0.0"})],
)
def test_a_server_that_asks_nobody_is_not_started_on_an_address_of_others(
    programs: Path, service: str, given: dict[str, str]
) -> None:
    refused = start(service, NODULEFLOW_BIN=str(programs), **given)
    assert refused.returncode == 2
    assert "would answer everybody at 0.0.0.0" in refused.stderr
    assert "line:" not in refused.stdout
    at_home = {name: value.replace("0.0.0.0", "127.0.0.1") for name, value in given.items()}
    assert "line:" in start(service, NODULEFLOW_BIN=str(programs), **at_home).stdout


def test_secrets_reach_the_servers_from_files_and_stand_on_no_command_line(programs: Path, tmp_path: Path) -> None:
    for name in ("admin", "key", "db", "auth"):
        (tmp_path / name).write_text(f"secret-{name}-0123456789\n")
    mlflow = start(
        "mlflow", NODULEFLOW_BIN=str(programs), RUNTIME_DIRECTORY=str(tmp_path), MLFLOW_HOST="0.0.0.0", **MLFLOW,
        MLFLOW_AUTH_ADMIN_PASSWORD_FILE=str(tmp_path / "admin"), PGPASSWORD_FILE=str(tmp_path / "db"),
        MLFLOW_FLASK_SERVER_SECRET_KEY_FILE=str(tmp_path / "key"),
    )  # fmt: skip
    line, *environment = mlflow.stdout.splitlines()
    assert "secret-" not in line
    assert "--app-name basic-auth" in line
    assert "--allowed-hosts" in line
    assert "MLFLOW_AUTH_ADMIN_PASSWORD=secret-admin-0123456789" in environment
    assert "PGPASSWORD=secret-db-0123456789" in environment
    (settings,) = tmp_path.glob("noduleflow-mlflow-auth.*")
    assert "secret-" not in settings.read_text()
    assert settings.stat().st_mode & 0o077 == 0
    prefect = start(
        "prefect", NODULEFLOW_BIN=str(programs), PREFECT_SERVER_API_HOST="0.0.0.0", **PREFECT,
        PREFECT_SERVER_API_AUTH_STRING_FILE=str(tmp_path / "auth"),
    )  # fmt: skip
    line, *environment = prefect.stdout.splitlines()
    assert "secret-" not in line
    assert "PREFECT_SERVER_API_AUTH_STRING=secret-auth-0123456789" in environment
    for name in ("DO_NOT_TRACK=true", "PREFECT_SERVER_ANALYTICS_ENABLED=false", "MLFLOW_DISABLE_TELEMETRY=true"):
        assert name in environment


@pytest.mark.parametrize("fault", ["missing", "empty", "both"])
def test_a_secret_that_is_not_there_stops_a_server_before_it_starts(programs: Path, tmp_path: Path, fault: str) -> None:
    file = tmp_path / "auth"
    if fault != "missing":
        file.write_text("" if fault == "empty" else "secret-auth")
    given = {"PREFECT_SERVER_API_AUTH_STRING": "secret-other"} if fault == "both" else {}
    answer = start(
        "prefect", NODULEFLOW_BIN=str(programs), PREFECT_SERVER_API_AUTH_STRING_FILE=str(file), **PREFECT, **given
    )
    assert answer.returncode == 2
    assert "PREFECT_SERVER_API_AUTH_STRING_FILE" in answer.stderr
    assert "secret-" not in answer.stderr + answer.stdout


def test_made_secrets_are_long_different_closed_and_kept(tmp_path: Path) -> None:
    made = run("sh", str(DEPLOY / "make-secrets"), str(tmp_path / "secrets"))
    assert made.returncode == 0
    assert made.stdout == made.stderr == ""
    files = sorted((tmp_path / "secrets").iterdir())
    texts = {file.name: file.read_text() for file in files}
    plain = [text for name, text in texts.items() if not name.endswith((".json", "-url"))]
    assert len(set(plain)) == len(plain) >= 11
    assert all(len(text) >= 40 for text in plain)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    json.loads(texts["s3.json"])
    json.loads(texts["orthanc-users.json"])
    (tmp_path / "secrets" / "review-token").unlink()
    run("sh", str(DEPLOY / "make-secrets"), str(tmp_path / "secrets"))
    again = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert again.pop("review-token") != texts.pop("review-token")
    assert again == texts


def test_a_setting_that_is_a_secret_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("of the file\n")
    monkeypatch.setenv("NODULEFLOW_MLFLOW_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("NODULEFLOW_MLFLOW_USER", "noduleflow")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "before")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "before")
    settings = Settings(_env_file=None)
    assert settings.mlflow_password is not None
    assert "of the file" not in repr(settings)
    apply_environment(settings)
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == (
        "noduleflow",
        "of the file",
    )


def test_a_changed_file_of_the_audit_key_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    monkeypatch.setenv("NODULEFLOW_AUDIT_KEY_FILE", str(file))
    assert shared_registry_secrets()[0] == "one"
    file.write_text("another\n")
    os.utime(file, (1, 1))
    assert shared_registry_secrets()[0] == "another"


@pytest.mark.parametrize("fault", ["missing", "empty", "large", "binary", "both"])
def test_a_file_that_is_no_secret_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = tmp_path / "token"
    content = {"empty": b"\n", "large": b"x" * 70_000, "binary": b"\xff\xfe", "both": b"of the file"}
    if fault in content:
        file.write_bytes(content[fault])
    if fault == "both":
        monkeypatch.setenv("NODULEFLOW_DICOMWEB_TOKEN", "of the environment")
    monkeypatch.setenv("NODULEFLOW_DICOMWEB_TOKEN_FILE", str(file))
    with pytest.raises(UsageError, match="NODULEFLOW_DICOMWEB_TOKEN") as caught:
        Settings(_env_file=None)
    assert "of the file" not in str(caught.value)
    assert "of the environment" not in str(caught.value)


def test_a_password_of_a_database_is_not_on_the_command_line_of_pg_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text(f'#!/bin/sh\necho "$*|$PGPASSWORD" > {tmp_path}/called\n')
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    dump("mlflow", "postgresql+psycopg2://mlflow:p%40ss@db:5432/mlflow", tmp_path / "mlflow.dump")
    line, password = (tmp_path / "called").read_text().strip().split("|")
    assert password == "p@ss"
    assert "ss@" not in line
    assert line.endswith("postgresql://mlflow@db:5432/mlflow")


# ---- what the lock is made of


def tools() -> str:
    python = ROOT / ".venv" / "tools" / "bin" / "python"
    found = str(python) if python.exists() else os.environ.get("TOOLS_PYTHON", "")
    if not found:
        pytest.skip("the tools are not installed: make test installs them (requirements-tools.txt)")
    return found


def test_the_bill_of_materials_names_every_pinned_package_and_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made = run(tools(), str(DEPLOY / "sbom.py"), str(ROOT / "requirements.lock"), str(tmp_path / name))
        assert made.returncode == 0, made.stderr
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    bill: dict[str, Any] = json.loads((tmp_path / "one").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    urls = {component["purl"] for component in bill["components"]}
    assert any(url.startswith("pkg:pypi/torch@") for url in urls)
    lock = (ROOT / "requirements.lock").read_text()
    assert len(urls) == sum(line[:1].isalnum() and "==" in line for line in lock.splitlines())
    hashed = [
        item for item in bill["components"] if any(note["name"].endswith("sha256") for note in item["properties"])
    ]
    assert len(hashed) == len(urls)


def _module(name: str) -> ModuleType:
    """A script of deploy/ as a module, with its neighbours."""
    sys.path.insert(0, str(DEPLOY))
    try:
        spec = importlib.util.spec_from_file_location(f"deploy_{name}", DEPLOY / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DEPLOY))
        sys.modules.pop("lock_entries", None)
    return module


@pytest.fixture
def audit() -> ModuleType:
    return _module("audit")


def advisory(name: str, **affected: Any) -> dict[str, Any]:
    return {
        "id": f"OSV-{name}",
        "modified": "2026-11-01T00:00:00Z",
        "summary": f"{name} is weak",
        "aliases": ["CVE-2026-1"],
        "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}],
    }


def between(**events: str) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": [{kind: text} for kind, text in events.items()]}]}


LOCK = "numpy==2.4.6 ; python_version < '4' \\\n    --hash=sha256:" + "0" * 64 + "\nFlask-Cors==6.0.5\n"


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        (advisory("numpy", **between(introduced="0", fixed="2.4.7")), True),
        (advisory("numpy", **between(introduced="0", fixed="2.4.6")), False),
        (advisory("numpy", **between(introduced="2.4.6")), True),
        (advisory("numpy", **between(introduced="2.5")), False),
        (advisory("numpy", **between(introduced="0", last_affected="2.4.6")), True),
        (advisory("numpy", **between(introduced="0", last_affected="2.4.5")), False),
        (advisory("numpy", versions=["2.4.5", "2.4.6"]), True),
        (advisory("numpy", versions=["2.4.5"]), False),
        (advisory("flask_cors", **between(introduced="6.0.0", fixed="6.1")), True),
        (advisory("another", **between(introduced="0")), False),
        ({**advisory("numpy", **between(introduced="0")), "withdrawn": "2026-01-01T00:00:00Z"}, False),
    ],
)
def test_an_advisory_fits_the_versions_that_it_names(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], found: dict[str, Any], fits: bool
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    (tmp_path / "advisories").mkdir()
    (tmp_path / "advisories" / "one.json").write_text(json.dumps(found))
    status = audit.main(["--advisories", str(tmp_path / "advisories"), str(tmp_path / "lock")])
    assert status == (1 if fits else 0)
    said = capsys.readouterr().out
    assert ("is weak" in said) == fits
    assert "2 packages, 1 advisories, the newest of 2026-11-01" in said


def test_a_version_that_was_weak_twice_is_judged_by_its_own_range(audit: ModuleType) -> None:
    events = [{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.5"}]
    version = audit.Version
    judged = {text: audit._is_within(version(text), events) for text in ("0.9", "1.0", "1.9", "2.0", "2.4", "2.5")}
    assert judged == {"0.9": True, "1.0": False, "1.9": False, "2.0": True, "2.4": True, "2.5": False}


def test_an_archive_of_advisories_is_read_and_the_mended_version_is_named(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.json", json.dumps(advisory("numpy", **between(introduced="0", fixed="2.4.7"))))
        archive.writestr("b.json", "not JSON")
    assert audit.main(["--advisories", str(tmp_path / "all.zip"), str(tmp_path / "lock")]) == 1
    assert "numpy 2.4.6: OSV-numpy CVE-2026-1: numpy is weak (mended in 2.4.7)" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["", "missing", "empty"])
def test_without_advisories_nothing_is_called_safe(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    (tmp_path / "empty").mkdir()
    given = str(tmp_path / place) if place else ""
    assert audit.main(["--advisories", given, str(tmp_path / "lock")]) == 3
    assert "nothing was compared" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["torn", "cut", "in a folder", "lock", "no lock"])
def test_what_cannot_be_read_is_one_line_and_never_called_safe(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    lock, folder = tmp_path / "lock", tmp_path / "advisories"
    lock.write_text(LOCK)
    folder.mkdir()
    one = json.dumps(advisory("numpy", **between(introduced="0", fixed="2.4.7")))
    (folder / "a.json").write_text(one)
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", one * 50)
    whole = (folder / "all.zip").read_bytes()
    if kind in ("torn", "in a folder"):
        (folder / "all.zip").write_bytes(b"PK\3\4 no zip")
    elif kind == "cut":
        (folder / "all.zip").write_bytes(whole[:40] + b"\0" * 8 + whole[48:])
    elif kind == "lock":
        lock.write_bytes(whole)
    else:
        lock.unlink()
    place = folder if kind == "in a folder" else folder / "all.zip"
    assert audit.main(["--advisories", str(place), str(lock)]) == (2 if "lock" in kind else 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("audit: ") and ("lock" if "lock" in kind else "all.zip") in line


def test_old_backups_beyond_the_number_to_keep_are_taken_away(tmp_path: Path, programs: Path) -> None:
    backups = tmp_path / "backups"
    for day in range(1, 6):
        folder = backups / f"2026-11-0{day}T003000Z"
        folder.mkdir(parents=True)
        (folder / "backup.json").write_text("{}")
    (backups / "20-notes").mkdir()
    (backups / "2026-11-00T003000Z").mkdir()  # not ours: it has no record
    done = start("backup", NODULEFLOW_BIN=str(programs), NODULEFLOW_BACKUPS=str(backups), NODULEFLOW_BACKUPS_KEPT="2")
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in backups.iterdir())
    assert left == ["20-notes", "2026-11-00T003000Z", "2026-11-04T003000Z", "2026-11-05T003000Z"]


def test_a_backup_to_a_named_folder_is_made_there_and_takes_none_away(tmp_path: Path, programs: Path) -> None:
    done = start("backup", "--tables-only", str(tmp_path / "one"), NODULEFLOW_BIN=str(programs))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(f"noduleflow backup --tables-only {tmp_path / 'one'}")
    assert start("backup", NODULEFLOW_BIN=str(programs)).returncode == 2


def test_the_worker_s_health_page_is_on_loopback_unless_another_address_is_named(programs: Path) -> None:
    given = {"NODULEFLOW_BIN": str(programs), "NODULEFLOW_PREFECT_API_URL": "http://127.0.0.1:4200/api"}
    assert "PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1" in start("worker", **given).stdout.splitlines()
    said = start("worker", **given, PREFECT_WORKER_WEBSERVER_HOST="0.0.0.0").stdout.splitlines()
    assert "PREFECT_WORKER_WEBSERVER_HOST=0.0.0.0" in said


def test_a_command_as_the_service_has_its_settings_and_its_user(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become the user of the services")
    opened = Path(tempfile.mkdtemp(prefix="noduleflow-as-service-"))  # pytest's own folders are closed to others
    request.addfinalizer(lambda: shutil.rmtree(opened))
    opened.chmod(0o755)
    etc, place = opened / "etc", opened / "opt"
    run("sh", str(DEPLOY / "make-secrets"), str(etc / "secrets"))
    (etc / "noduleflow.env").write_text("NODULEFLOW_MLFLOW_TRACKING_URI=\n# a comment\nNODULEFLOW_THREADS=3\n")
    place.mkdir()
    shutil.copy(DEPLOY / "as-service", place)
    (place / "start").write_text('#!/bin/sh\necho "line: $*"\nid -un\nenv\n')
    (place / "start").chmod(0o755)
    done = run("sh", str(place / "as-service"), "status", NODULEFLOW_ETC=str(etc), NODULEFLOW_USER="nobody")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["line: status", "nobody"]
    assert "NODULEFLOW_THREADS=3" in lines
    assert f"NODULEFLOW_AUDIT_KEY={(etc / 'secrets' / 'audit-key').read_text()}" in lines
    assert not any(line.startswith("NODULEFLOW_REGISTRY_LOCK_URL=") for line in lines)


def test_the_file_of_a_secret_may_be_named_in_dotenv_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of the file\n")
    (tmp_path / ".env").write_text(f"NODULEFLOW_REVIEW_TOKEN_FILE={tmp_path}/token\n")
    found = Settings(_env_file=tmp_path / ".env").review_token
    assert found is not None
    assert found.get_secret_value() == "of the file"
    monkeypatch.setenv("NODULEFLOW_REVIEW_TOKEN", "of the environment")
    found = Settings(_env_file=tmp_path / ".env").review_token
    assert found is not None
    assert found.get_secret_value() == "of the environment"
