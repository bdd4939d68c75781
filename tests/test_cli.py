"""The command line: quick help, one clear line for wrong input, the right exit status, exactly one JSON record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answering_server import answering


def noduleflow(*arguments: str, workspace: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", *(("--workspace", str(workspace)) if workspace else ()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom flows.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('torch', 'mlflow', 'prefect', 'monai', 'pandas', 'pydicom', 'highdicom')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command_of_the_design() -> None:
    started = time.monotonic()
    text = noduleflow("--help").stdout
    assert time.monotonic() - started < 10
    commands = "demo ingest annotate prepare features import-npz import-images few-shot"
    commands = f"{commands} train evaluate compare promote rollback audit"
    for command in f"{commands} review feedback run serve status doctor".split():
        assert f"\n  {command} " in text, command


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such-command"], 2, "No such command"),
        (["ingest"], 2, "Missing argument"),
        (["ingest", "/no/such/folder"], 2, "does not exist"),
        (["train", "--preset", "no-such-preset"], 2, "no preset 'no-such-preset'"),
        (["train", "--preset", "probe", "--set", "learning_rat=1"], 2, "unknown parameter 'learning_rat'"),
        (["train", "--preset", "probe", "--set", "epochs=0"], 2, "parameter 'epochs'"),
        (["train", "--preset", "probe", "--set", "epochs"], 2, "KEY=VALUE"),
        (["annotate", "x.csv", "--format", "excel"], 2, "unknown annotation format 'excel'"),
        (["run", "--config", "no-such.toml"], 2, "cannot be read"),
        (["import-images", "/no/such/folder", "--name", "x"], 2, "not a folder"),
        (["import-images", "."], 2, "Missing option '--name'"),
        (["import-images", ".", "--name", "x", "--set", "size=9"], 2, "unknown parameter 'size'"),
        (["few-shot"], 2, "there is no workspace"),
        (["few-shot", "--set", "shots=[0]"], 2, "parameter 'shots.0'"),
        (["status"], 2, "there is no workspace"),
    ],
)
def test_wrong_use_gives_one_line_and_status_2(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    done = noduleflow(*arguments, workspace=tmp_path / "ws")
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = noduleflow("ingest", str(tmp_path / "empty"), workspace=tmp_path / "ws")
    assert done.returncode == 2
    assert "empty folder" in done.stderr


def test_json_understood_anywhere_and_an_error_is_one_record(tmp_path: Path) -> None:
    for arguments in (["--json", "status"], ["status", "--json"]):
        done = noduleflow(*arguments, workspace=tmp_path / "ws")
        record = json.loads(done.stdout)
        assert record["exit_status"] == done.returncode == 2
        assert "there is no workspace" in record["error"]


def test_status_of_an_empty_workspace_is_one_json_record(tmp_path: Path) -> None:
    done = noduleflow("status", "--json", workspace=tmp_path)
    record = json.loads(done.stdout)
    assert done.returncode == 0
    assert (record["series"], record["champion"], record["stuck"]) == (0, None, [])


@pytest.mark.parametrize(("place", "said"), [("", "it is empty"), ("s3:///key", "s3://bucket/prefix")])
def test_a_workspace_that_names_no_place_is_refused_as_the_word_it_was_given_as(place: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "--workspace", place, "status"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("noduleflow: --workspace: ") and said in done.stderr


def test_a_setting_of_the_wrong_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODULEFLOW_THREADS", "many")
    done = noduleflow("status", workspace=tmp_path)
    assert done.returncode == 2
    assert "NODULEFLOW_THREADS" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NODULEFLOW_WORKSPACE", "", "it is empty"),
        ("NODULEFLOW_SETTLE_S", "inf", "finite"),
        ("NODULEFLOW_MLFLOW_TRACKING_URI", "foo://x", "not an address of MLflow"),
        ("NODULEFLOW_PREFECT_API_URL", "127.0.0.1:4200", "not an address of a Prefect server"),
        ("NODULEFLOW_PREFECT_API_URL", "http://u:hush@127.0.0.1:4200/api", "NODULEFLOW_PREFECT_AUTH"),
        ("NODULEFLOW_NOTIFY_URL", "notaurl", "not an address of a webhook"),
    ],
)
def test_a_setting_that_would_fail_later_is_refused_by_name(
    name: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    done = noduleflow("status", workspace=None if name.endswith("WORKSPACE") else tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"setting {name}: " in done.stderr and words in done.stderr
    assert "hush" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_of_another_user_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    (folder / "ws").mkdir(parents=True)
    folder.chmod(0)
    command = [sys.executable, "-m", "flows", "--workspace", str(folder / "ws"), "status"]
    if os.geteuid() == 0:  # whom no mode stops
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    finally:
        folder.chmod(0o700)
    assert done.returncode == 1, done.stderr
    assert "the workspace cannot be read (Permission denied)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("status", [0, 401])
def test_servers_that_are_away_or_refuse_are_one_line(status: int, tmp_path: Path) -> None:
    """0: nobody listens there."""
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "a.dcm").write_bytes(b"x")
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[[sources]]\npath = "{tmp_path / "ct"}"\n\n[schedule]\n')
    (tmp_path / "ws").mkdir()
    with answering(status) as address:
        environment = {**os.environ, "NODULEFLOW_PREFECT_API_URL": f"{address}/api"}
        said = f"HTTP {status}" if status else "ConnectError"
        for words in (["ingest", str(tmp_path / "ct")], ["deploy", "--config", str(plan)]):
            done = run(*words, workspace=tmp_path / "ws", environment=environment)
            assert done.returncode == 1, done.stderr
            assert f"the Prefect server does not answer ({said})" in done.stderr
        environment = {**os.environ, "NODULEFLOW_MLFLOW_TRACKING_URI": address}
        done = run("audit", "--verify", workspace=tmp_path / "ws", environment=environment)
        assert done.returncode == 1, done.stderr
        assert ("refuses (HTTP 401)" if status else "the MLflow server does not answer") in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def run(*arguments: str, workspace: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_a_folder_without_a_usable_image_gives_status_3_and_a_line_for_each(tmp_path: Path) -> None:
    for name in ("benign", "malignant"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "empty.png").touch()
    done = noduleflow("import-images", str(tmp_path / "images"), "--name", "x", workspace=tmp_path / "ws")
    assert done.returncode == 3 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert sum(line.startswith("refused ") and line.endswith("is empty") for line in lines) == 2
    assert lines[-1].startswith("noduleflow: no usable image among 2")
