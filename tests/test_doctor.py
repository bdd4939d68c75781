"""doctor finds what is really broken, each with its mend, and falls over nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from broken_prefect import PrefectDatabase
from prefect_server import PrefectServer, ask
from small_disk import small_disk

from flows.doctor import examine
from flows.oncall import checks_machine as machine
from flows.oncall import checks_site as site
from flows.oncall.check import Check
from flows.settings import Settings, apply_to_work
from flows.workspace import Workspace

MOST = (
    "python versions packages disk permissions keys clock egress weights tables policy schedules prefect mlflow "
    "registry"
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    for name in ("DO_NOT_TRACK", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"):  # set back after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    apply_to_work(Settings())
    return Workspace(tmp_path / "w").create()


def failed(check: Check, words: str) -> None:
    assert check.state == "failed", check
    assert words in check.detail, check
    assert check.todo, "a fault has its mend"


def test_this_installation_is_sound(workspace: Workspace) -> None:
    for check in (machine.python(), machine.versions(), machine.packages(), machine.egress()):
        assert check.state == "ok", check
    for check in (machine.keys(workspace), machine.permissions(workspace), machine.clock(workspace)):
        assert check.state == "ok", check


@pytest.mark.parametrize(
    ("package", "release", "words"),
    [("fastapi", "0.155.0", "Prefect starts no server"), ("sqlalchemy", "2.1.0", "cron schedules never fire")],
)
def test_the_two_traps_are_named(package: str, release: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = machine.metadata.version
    monkeypatch.setattr(machine.metadata, "version", lambda name: release if name == package else asked(name))
    failed(machine.versions(), words)


@pytest.mark.parametrize("name", ["secret.key", "registry/audit.key"])
def test_a_key_that_others_may_read(workspace: Workspace, name: str) -> None:
    path = workspace.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("key\n")
    path.chmod(0o644)
    failed(machine.keys(workspace), f"{path.name} has mode 644")
    assert path.stat().st_mode & 0o777 == 0o644, "looking mends nothing"
    path.chmod(0o600)
    assert machine.keys(workspace).state == "ok"
    path.write_text("")
    failed(machine.keys(workspace), "is empty")


def test_a_key_that_is_gone_from_under_its_series(workspace: Workspace) -> None:
    (workspace.series_root / "0123456789abcdef").mkdir(parents=True)
    failed(machine.keys(workspace), "the key of the pseudonyms is gone")


def test_a_key_that_is_not_the_one_its_series_were_named_with(workspace: Workspace) -> None:
    workspace.secret()
    (workspace.series_root / "0123456789abcdef").mkdir(parents=True)
    assert machine.keys(workspace).state == "ok"
    workspace.secret_file.write_text("another\n")
    failed(machine.keys(workspace), "named with another secret")


def test_a_file_of_settings_with_a_password_that_others_may_read(workspace: Workspace) -> None:
    Path(".env").write_text("# a comment\nNODULEFLOW_THREADS=2\n")
    Path(".env").chmod(0o644)
    assert machine.keys(workspace).state == "ok"
    Path(".env").write_text("NODULEFLOW_DICOMWEB_PASSWORD=hunter2\n")
    check = machine.keys(workspace)
    failed(check, ".env has mode 644")
    assert "hunter2" not in check.line()


def test_a_secret_file_that_a_setting_names_and_that_is_not_there(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEFLOW_SECRET_FILE", str(workspace.root / "nowhere"))
    failed(machine.keys(workspace), "nowhere is named by a setting")


def test_a_secret_that_a_container_engine_handed_over_keeps_the_mode_it_has(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit-key"
    file.write_text("key")
    file.chmod(0o444)
    monkeypatch.setenv("NODULEFLOW_AUDIT_KEY_FILE", str(file))
    failed(machine.keys(workspace), "audit-key has mode 444")
    asked = os.statvfs

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(machine.os, "statvfs", lambda path: ReadOnly if path == file else asked(path))
    assert machine.keys(workspace).state == "ok"
    monkeypatch.setattr(machine.os, "statvfs", asked)
    file.chmod(0o440)
    failed(machine.keys(workspace), "audit-key has mode 440")
    monkeypatch.setattr(machine.os, "geteuid", lambda: file.stat().st_uid + 1)
    assert machine.keys(workspace).state == "ok"


def test_a_full_and_a_read_only_disk(tmp_path: Path, workspace: Workspace) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        small = Workspace(disk.folder / "w").create()
        failed(machine.disk(small), "MiB free")
        disk.fill()
        failed(machine.permissions(small), "No space left")
        disk.free()
        assert machine.permissions(small).state == "ok"
        disk.read_only()
        failed(machine.permissions(small), "Read-only")


def test_everybody_may_write_the_workspace(workspace: Workspace) -> None:
    workspace.root.chmod(0o777)
    assert machine.permissions(workspace).state == "warning"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_between_us_and_our_own_servers(
    workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.upper(), raising=False)
    monkeypatch.setenv(name, "http://user:hunter2@proxy.example:3128")
    check = machine.egress()
    failed(check, "proxy.example")
    assert "hunter2" not in check.line()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1, localhost")
    assert machine.egress().state == "ok"


def test_telemetry_that_was_switched_on(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    failed(machine.egress(), "DO_NOT_TRACK")


def test_a_clock_that_was_set_back_and_a_zone_that_is_none(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.audit_file.write_text("")
    ahead = workspace.audit_file.stat().st_mtime + 3 * 3600
    os.utime(workspace.audit_file, (ahead, ahead))
    failed(machine.clock(workspace), "3 h ahead of this clock")
    workspace.audit_file.unlink()
    monkeypatch.setenv("TZ", "Europa/Berlin")
    assert machine.clock(workspace).state == "warning"


def test_weights_that_are_not_what_their_name_says(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.root / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(workspace.root / "torch"))
    assert site.weights(workspace).state == "warning"
    (folder / "resnet50-11ad3fa6.pth").write_bytes(b"half a download")
    failed(site.weights(workspace), "resnet50-11ad3fa6.pth is not what its name says")


@pytest.mark.parametrize("name", ["series.parquet", "rejected.parquet", "nodules.parquet"])
def test_a_corrupt_table(workspace: Workspace, name: str) -> None:
    (workspace.root / name).write_bytes(b"PAR1 and no more")
    failed(site.tables(workspace), name)


def test_a_torn_record_of_a_series(workspace: Workspace) -> None:
    folder = workspace.series_root / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "series.json").write_text('{"series_key": ')
    failed(site.tables(workspace), "0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("min_acu = 0.9\n", "unknown parameter 'min_acu'"),
        ('require_statements = ["ethicss"]\n', "ethicss"),
        ("min_auc = \n", "not TOML"),
    ],
)
def test_a_policy_of_the_installation_that_no_promotion_can_read(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "house.toml"
    settings = Settings(policy=path, _env_file=None)
    if text is not None:
        path.write_text(text)
    failed(site.policy(settings), words)
    path.write_text('name = "house"\n')
    assert site.policy(settings).state == "ok"
    assert site.policy(Settings(_env_file=None)).state == "ok"


def test_schedules_that_are_paused_make_no_runs_or_are_not_deployed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = PrefectDatabase(workspace.root)
    monkeypatch.setattr(site, "server_note", lambda _: {"by_the_clock": True})
    database.deployment("ingest-watch", paused=True)
    failed(site.schedules(workspace, Settings()), "ingest-watch is paused")
    database.rows.execute("DELETE FROM deployment")
    made = database.deployment("nightly-review")
    failed(site.schedules(workspace, Settings()), "nightly-review has no run to come")
    database.run("nightly-review", "SCHEDULED", began=-timedelta(hours=1), deployment=made)
    assert site.schedules(workspace, Settings()).state == "ok"
    (workspace.root / "ct").mkdir()
    plan = workspace.root / "plan.toml"
    plan.write_text(f'[[sources]]\npath = "{workspace.root / "ct"}"\nsite = "ours"\n\n[schedule]\n')
    failed(site.schedules(workspace, Settings(config=plan)), "ingest-watch")


def test_a_database_that_is_none_is_not_started_upon(workspace: Workspace) -> None:
    workspace.prefect_home.mkdir()
    (workspace.prefect_home / "prefect.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    failed(site.prefect(workspace, Settings()), "prefect.db")
    workspace.mlflow_database.write_bytes(b"no database" * 900)
    failed(site.mlflow(workspace), "mlflow.db cannot be read")


def test_a_check_that_falls_over_is_said_and_the_others_are_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object) -> Check:
        raise RuntimeError("secret path")

    for name in ("weights", "tables", "prefect", "registry"):
        monkeypatch.setattr(site, name, fall)
    record, text = examine(workspace, Settings())
    assert [check["name"] for check in record["checks"]] == MOST.split()
    assert not record["healthy"]
    assert "secret path" not in text
    assert text.count("could not be looked at (RuntimeError)") == 4


@pytest.mark.server
@pytest.mark.slow
def test_the_command_on_a_broken_site_is_one_record_and_status_1(workspace: Workspace) -> None:
    workspace.secret()
    workspace.secret_file.chmod(0o644)
    workspace.series_table.write_bytes(b"torn")
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "--json", "doctor"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 1, done.stderr
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert list(states) == MOST.split()
    assert {name for name, state in states.items() if state == "failed"} == {"keys", "tables"}
    assert "Traceback" not in done.stderr


@pytest.mark.server
@pytest.mark.slow
def test_a_server_that_asks_for_a_password_has_a_paused_deployment_or_is_away(
    workspace: Workspace, tmp_path: Path
) -> None:
    from pydantic import SecretStr

    from flows.status import describe

    (tmp_path / "ct").mkdir()
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[[sources]]\npath = "{tmp_path / "ct"}"\nsite = "ours"\n\n[schedule]\n')
    with PrefectServer(tmp_path / "server") as server:
        settings = Settings(prefect_api_url=server.url, workspace=workspace.root)
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "deploy", "--config", str(plan)]
        environment = {**server.environment, "NODULEFLOW_PREFECT_API_URL": server.url, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        found = ask(server.url, "deployments/name/ingest-watch/ingest-watch")
        ask(server.url, f"deployments/{found['id']}/pause_deployment", {})
        failed(site.schedules(workspace, settings), "ingest-watch is paused")
        record, _ = describe(workspace, settings)
        assert any("ingest-watch is paused" in line for line in record["stuck"])
        assert {one["job"] for one in record["schedules"]} >= {"ingest-watch", "nightly-review"}
        assert site.prefect(workspace, settings).state == "ok"
        # the same rows, read from its database as an embedded server leaves it
        workspace.prefect_home.parent.joinpath("prefect").symlink_to(tmp_path / "server" / "home")
        record, _ = describe(workspace, Settings(workspace=workspace.root))
        paused = {one["job"]: one["paused"] for one in record["schedules"]}
        assert paused["ingest-watch"] and not paused["nightly-review"]
        workspace.prefect_home.unlink()
    record, _ = examine(workspace, settings.model_copy(update={"prefect_auth": SecretStr("a:b")}))
    away = {check["name"]: check for check in record["checks"]}
    assert "does not answer" in away["prefect"]["detail"] and away["prefect"]["state"] == "failed"
