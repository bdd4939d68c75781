"""A backup is whole or none, fits together though others work meanwhile, and makes the same workspace elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering_server import answering
from postgres_server import Postgres
from registry_factory import OPEN, add_version, make_workspace

from data_contracts.backup import BackupManifest
from data_contracts.errors import NoduleflowError, UsageError, WorkspaceError
from flows.keeping import databases
from flows.keeping.backup import back_up
from flows.keeping.copying import Copies, Tree
from flows.keeping.restore import restore
from flows.keeping.sign_in import check_sign_in
from flows.registry import Registry
from flows.registry.audit import verify_audit
from flows.registry.faults import all_faults
from flows.registry.promotion import promote, rollback
from flows.settings import Settings, apply_environment
from flows.status import describe
from flows.workspace import UNRESTORED, Workspace

Site = tuple[Workspace, Settings]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A workspace with two versions, the second of which became champion after the first."""
    folder = tmp_path_factory.mktemp("template")
    workspace, settings = make_workspace(folder)
    promote(workspace, settings, "1", expect="none", policy=OPEN)
    promote(workspace, settings, "2", expect="1", policy=OPEN)
    workspace.secret()
    series = workspace.series_root / "a1"
    series.mkdir(parents=True)
    (series / "volume.nii.gz").write_bytes(os.urandom(300_000))
    (series / "series.json").write_text("{}")
    part = workspace.annotation_parts / "older.parquet"
    part.parent.mkdir()
    part.write_bytes(b"part")
    os.utime(part, (1_000_000_000, 1_000_000_000))
    return workspace, settings


def elsewhere(folder: Path) -> Site:
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow exports the address of the workspace before
    settings = Settings(workspace=folder, _env_file=None)
    return Workspace(folder), settings


def noduleflow(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def content(root: Path) -> dict[str, tuple[bytes, int]]:
    passing = {".locks", ".users", "scratch", "mlflow.db"}
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in passing
    }


def test_a_restore_elsewhere_gives_the_same_champion_audit_files_modes_and_times(
    template: Site, tmp_path: Path
) -> None:
    workspace, settings = template
    kept = content(workspace.root)
    record, text = back_up(workspace, settings, tmp_path / "backup")
    assert record["champion"] == "2"
    assert record["audit_records"] == 4
    assert "champion 2, 4 audit records" in text
    hidden = workspace.root.with_name("gone")
    workspace.root.rename(hidden)  # nothing of the old place may be needed
    try:
        there, its_settings = elsewhere(tmp_path / "elsewhere")
        restore(there, its_settings, tmp_path / "backup")
        assert content(there.root) == kept
        registry = Registry(there, its_settings.model_name)
        assert registry.alias("champion") == "2"
        assert all_faults(registry) == []
        assert verify_audit(there) == []
        registry.verified_folder("champion")
        assert describe(there, its_settings)[0]["stuck"] == []
        assert rollback(there, its_settings)["champion"] == "1"
    finally:
        hidden.rename(workspace.root)
    assert (there.root / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (there.root / "registry" / "audit.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700  # it holds the keys
    assert (there.annotation_parts / "older.parquet").stat().st_mtime == 1_000_000_000


def test_the_commands_say_what_they_did_and_a_workspace_with_something_in_it_is_refused(
    template: Site, tmp_path: Path
) -> None:
    workspace = template[0].root
    made = noduleflow(workspace, "--json", "backup", str(tmp_path / "one"))
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["champion"] == "2"
    again = noduleflow(workspace, "backup", str(tmp_path / "one"))
    assert again.returncode == 2
    assert "not empty" in again.stderr
    checked = noduleflow(tmp_path / "none", "restore", str(tmp_path / "one"), "--check")
    assert checked.returncode == 0
    assert not (tmp_path / "none").exists()
    before = content(workspace)
    refused = noduleflow(workspace, "restore", str(tmp_path / "one"))
    assert refused.returncode == 2
    assert "the workspace is not empty" in refused.stderr
    assert content(workspace) == before
    restored = noduleflow(tmp_path / "new", "restore", str(tmp_path / "one"))
    assert restored.returncode == 0, restored.stderr
    assert noduleflow(tmp_path / "new", "audit", "--verify").returncode == 0


def test_tables_only_leaves_out_what_is_large_and_says_so(template: Site, tmp_path: Path) -> None:
    workspace, settings = template
    record, text = back_up(workspace, settings, tmp_path / "small", tables_only=True)
    there, its_settings = elsewhere(tmp_path / "elsewhere")
    restore(there, its_settings, tmp_path / "small")
    assert not (there.series_root / "a1" / "volume.nii.gz").exists()
    assert (there.series_root / "a1" / "series.json").exists()
    assert not there.datasets_root.exists()
    assert Registry(there, its_settings.model_name).verified_folder("champion")[1].run_id == "run2"
    assert "not in it: volumes, datasets" in text
    assert record["left_out"]


@pytest.mark.parametrize("damage", ["changed", "missing", "record", "unsigned", "stripped", "other key"])
def test_a_damaged_backup_is_refused_before_anything_is_written(template: Site, tmp_path: Path, damage: str) -> None:
    workspace, settings = template
    folder = tmp_path / "backup"
    back_up(workspace, settings, folder, tables_only=True)
    victim = folder / "workspace" / "runs" / "run2" / "checkpoint.safetensors"
    manifest = json.loads((folder / "backup.json").read_text())
    if damage == "changed":
        body = bytearray(victim.read_bytes())
        body[-1] ^= 1
        victim.write_bytes(body)
    elif damage == "missing":
        victim.unlink()
    elif damage == "record":
        (folder / "backup.json").write_text(json.dumps(manifest)[:-40])
    elif damage == "unsigned":
        (folder / "backup.json").write_text(json.dumps({**manifest, "champion": "1"}))
    elif damage == "stripped":
        (folder / "backup.json").write_text(json.dumps({**manifest, "champion": "1", "mac": ""}))
    else:
        key = folder / "workspace" / "registry" / "audit.key"
        key.write_text("0" * 64 + "\n")
    there, its_settings = elsewhere(tmp_path / "elsewhere")
    with pytest.raises(NoduleflowError, match=r"damaged|cannot be used|was changed|is not signed"):
        restore(there, its_settings, folder)
    assert not there.root.exists()


def test_a_record_that_names_a_file_outside_is_refused(template: Site, tmp_path: Path) -> None:
    workspace, settings = template
    back_up(workspace, settings, tmp_path / "backup", tables_only=True)
    manifest = json.loads((tmp_path / "backup" / "backup.json").read_text())
    manifest["files"][0]["path"] = "workspace/../../escaped"
    (tmp_path / "backup" / "backup.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="out of the backup"):
        restore(*elsewhere(tmp_path / "elsewhere"), tmp_path / "backup")


def test_a_backup_killed_half_way_is_none_and_the_next_one_clears_it(template: Site, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    shutil.copytree(template[0].root, workspace.root, copy_function=shutil.copy2)
    large = workspace.series_root / "large"
    large.mkdir()
    with (large / "volume.nii").open("wb") as stream:
        stream.truncate(4 << 30)  # holes: no room on the disk, and time to copy
    target = tmp_path / "backups" / "night"
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "backup", str(target)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(target.parent.glob(".*.unfinished/workspace/series/large/volume.nii")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    (half,) = target.parent.iterdir()
    refused = noduleflow(tmp_path / "new", "restore", str(half))
    assert refused.returncode == 2
    assert "no finished backup" in refused.stderr
    assert not (tmp_path / "new").exists()
    (large / "volume.nii").unlink()
    assert noduleflow(workspace.root, "backup", str(target)).returncode == 0
    assert [path.name for path in target.parent.iterdir()] == ["night"]


def test_a_restore_killed_half_way_is_no_workspace_until_it_is_run_again(template: Site, tmp_path: Path) -> None:
    workspace, settings = template
    back_up(workspace, settings, tmp_path / "backup")
    there, its_settings = elsewhere(tmp_path / "elsewhere")
    process = os.fork()
    if not process:
        from flows.keeping import restore as module

        def killed(*_: object) -> bool:
            os.kill(os.getpid(), signal.SIGKILL)
            return True

        module.put_back = killed
        try:
            restore(there, its_settings, tmp_path / "backup")
        finally:
            os._exit(1)
    os.waitpid(process, 0)
    assert (there.root / UNRESTORED).exists()
    with pytest.raises(WorkspaceError, match="restore"):
        there.require()
    assert noduleflow(there.root, "ingest", str(tmp_path)).returncode == 1
    restore(there, its_settings, tmp_path / "backup")
    assert Registry(there.require(), its_settings.model_name).alias("champion") == "2"


def test_backups_during_promotions_hold_one_moment_each(template: Site, tmp_path: Path) -> None:
    back_up(*template, tmp_path / "moved")
    workspace, settings = elsewhere(tmp_path / "busy")
    restore(workspace, settings, tmp_path / "moved")
    ended = threading.Event()
    moves = 0

    def move() -> None:
        nonlocal moves
        while not ended.is_set():
            champion = Registry.quick(workspace, settings.model_name).alias("champion")
            promote(workspace, settings, "1" if champion == "2" else "2", expect=champion or "none", policy=OPEN)
            moves += 1

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for number in range(4):
            back_up(workspace, settings, tmp_path / f"backup{number}")
    finally:
        ended.set()
        mover.join()
    assert moves > 0
    for number in range(4):
        there, its_settings = elsewhere(tmp_path / f"restored{number}")
        restore(there, its_settings, tmp_path / f"backup{number}")
        assert all_faults(Registry(there, its_settings.model_name, settle=False)) == []


def test_what_is_written_after_the_first_copy_is_in_the_second_and_what_is_gone_is_not(tmp_path: Path) -> None:
    root, folder = tmp_path / "ws", tmp_path / "backup"
    for name in ("runs/a/card.json", "runs/b/card.json", ".locks/x.lock", "scratch/ingest-1/y", "series/.k.tmp/z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    copies = Copies(Tree(root, tables_only=False), folder, "workspace")
    assert copies.update() == 2
    assert copies.update() == 0
    shutil.rmtree(root / "runs" / "b")
    (root / "runs" / "a" / "card.json").write_text("another")
    (root / "runs" / "c.json").write_text("new")
    assert copies.update() == 2
    assert [file.path for file in copies.files()] == ["workspace/runs/a/card.json", "workspace/runs/c.json"]
    assert not (folder / "workspace" / "runs" / "b").exists()
    assert (folder / "workspace" / "runs" / "a" / "card.json").read_text() == "another"


def test_a_database_is_copied_as_it_stood_between_two_transactions(template: Site, tmp_path: Path) -> None:
    workspace, settings = Workspace(tmp_path / "ws"), Settings(workspace=tmp_path / "ws", _env_file=None)
    workspace.create()
    (workspace.prefect_home).mkdir()
    path = workspace.prefect_home / "prefect.db"
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE pairs (one INTEGER, other INTEGER)")
    connection.commit()
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            connection.execute("INSERT INTO pairs VALUES (?, 0)", (number,))
            connection.execute("UPDATE pairs SET other = one WHERE one = ?", (number,))
            connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.1)
        back_up(workspace, settings, tmp_path / "backup")
    finally:
        ended.set()
        writer.join()
    names = sorted(file.name for file in (tmp_path / "backup" / "workspace" / "prefect").iterdir())
    assert names == ["prefect.db"]
    copy = sqlite3.connect(tmp_path / "backup" / "workspace" / "prefect" / "prefect.db")
    total, whole = copy.execute("SELECT count(*), sum(one = other) FROM pairs").fetchone()
    assert total == whole > 0


def test_places_that_cannot_hold_a_backup_are_refused(
    template: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, settings = template
    with pytest.raises(UsageError, match="inside its workspace"):
        back_up(workspace, settings, workspace.root / "backup")
    (tmp_path / "file").write_text("here")
    with pytest.raises(UsageError, match="new folder"):
        back_up(workspace, settings, tmp_path / "file")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("flows.keeping.backup.shutil.disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(WorkspaceError, match="needs"):
        back_up(workspace, settings, tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_full_disk_in_the_middle_leaves_nothing(
    template: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.keeping.copying._copied", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        back_up(*template, tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_database_is_not_named_is_no_backup(template: Site, tmp_path: Path) -> None:
    workspace, settings = template
    served = settings.model_copy(update={"prefect_api_url": "http://127.0.0.1:4200/api"})
    with pytest.raises(UsageError, match="NODULEFLOW_PREFECT_DATABASE_FILE"):
        back_up(workspace, served, tmp_path / "backup")
    record, _ = back_up(workspace, served, tmp_path / "backup", without_servers=True)
    assert "as asked for" in record["left_out"][0]


def test_a_key_that_is_kept_elsewhere_is_asked_for(
    template: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEFLOW_AUDIT_KEY", "a key of the vault")
    workspace, settings = make_workspace(tmp_path / "site", versions=1)
    promote(workspace, settings, "1", expect="none", policy=OPEN)
    record, text = back_up(workspace, settings, tmp_path / "backup")
    assert record["keys_elsewhere"] == ["NODULEFLOW_AUDIT_KEY"]
    assert "a key of the vault" not in (tmp_path / "backup" / "backup.json").read_text() + text
    monkeypatch.delenv("NODULEFLOW_AUDIT_KEY")
    with pytest.raises(UsageError, match="NODULEFLOW_AUDIT_KEY"):
        restore(*elsewhere(tmp_path / "elsewhere"), tmp_path / "backup")
    monkeypatch.setenv("NODULEFLOW_AUDIT_KEY", "a key of the vault")
    restore(*elsewhere(tmp_path / "elsewhere"), tmp_path / "backup")
    manifest = json.loads((tmp_path / "backup" / "backup.json").read_text())
    (tmp_path / "backup" / "backup.json").write_text(json.dumps({**manifest, "mac": ""}))
    with pytest.raises(UsageError, match="not signed"):
        restore(*elsewhere(tmp_path / "stripped"), tmp_path / "backup")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.remove()


def settings_on(url: str, folder: Path) -> Settings:
    settings = Settings(workspace=folder, mlflow_tracking_uri=url, _env_file=None)
    apply_environment(settings)
    return settings


@pytest.mark.server
def test_a_registry_on_postgresql_comes_back_into_an_unused_database(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = postgres.database("first"), postgres.database("second")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first)  # put back as it was when the test ends
    settings = settings_on(first, tmp_path / "ws")
    workspace = Workspace(settings.workspace).create()
    add_version(workspace, settings, 1)
    promote(workspace, settings, "1", expect="none", policy=OPEN)
    record, _ = back_up(workspace, settings, tmp_path / "backup")
    assert record["databases"] == {"mlflow": "databases/mlflow.dump"}
    assert BackupManifest.read(tmp_path / "backup" / "backup.json").champion == "1"

    there = Workspace(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is in use"):
        restore(there, settings.model_copy(update={"workspace": there.root}), tmp_path / "backup")
    assert not there.root.exists()
    workspace.root.rename(tmp_path / "gone")
    settings = settings_on(second, there.root)
    restore(there, settings, tmp_path / "backup")
    registry = Registry(there, settings.model_name)
    assert registry.alias("champion") == "1"
    assert all_faults(registry) == []
    registry.verified_folder("champion")


@pytest.mark.server
def test_a_restore_that_failed_after_its_database_was_filled_goes_on(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = postgres.database("first"), postgres.database("second")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first)
    settings = settings_on(first, tmp_path / "ws")
    workspace = Workspace(settings.workspace).create()
    add_version(workspace, settings, 1)
    promote(workspace, settings, "1", expect="none", policy=OPEN)
    back_up(workspace, settings, tmp_path / "backup")
    workspace.root.rename(tmp_path / "gone")
    there = Workspace(tmp_path / "elsewhere")
    settings = settings_on(second, there.root)

    def fails(*_: object) -> None:
        raise WorkspaceError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr("flows.keeping.databases.move_locations", fails)
        with pytest.raises(WorkspaceError, match="went away"):
            restore(there, settings, tmp_path / "backup")
    restore(there, settings, tmp_path / "backup")
    assert Registry(there.require(), settings.model_name).alias("champion") == "1"


@pytest.mark.server
def test_the_password_that_the_backup_holds_is_compared_before_anything_is_written(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2
    from werkzeug.security import generate_password_hash

    url = postgres.database("users")
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE users (id int, username text, password_hash text, is_admin bool)")
    cursor.execute("INSERT INTO users VALUES (1, 'noduleflow', %s, true)", (generate_password_hash("the old one"),))
    connection.commit()
    connection.close()
    dump = tmp_path / "mlflow.dump"
    databases.dump("mlflow", url, dump)
    with answering(200) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "noduleflow")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a new one")
        with pytest.raises(UsageError, match="mlflow-admin-password"):
            check_sign_in(address, dump)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "the old one")
        check_sign_in(address, dump)
    with answering(401) as address, pytest.raises(UsageError, match=r"HTTP 401.*mlflow-admin-password"):
        check_sign_in(address, None)
    with pytest.raises(WorkspaceError, match="does not answer"):
        check_sign_in(address, None)


def test_a_workspace_in_a_bucket_is_not_called_backed_up(tmp_path: Path) -> None:
    for word, said in (("backup", "volumes are not all here"), ("restore", "restored into a folder")):
        command = [sys.executable, "-m", "flows", "--workspace", "s3://bucket/place", word, str(tmp_path / "backup")]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 2
        assert said in refused.stderr
    assert not (tmp_path / "backup").exists()
