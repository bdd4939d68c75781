"""status answers in ten lines whatever is broken, says what is stuck with its mend, and changes nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from broken_prefect import PrefectDatabase
from small_disk import small_disk
from test_cli import noduleflow

from data_contracts.series import REJECTED_TABLE
from flows.oncall.findings import Findings
from flows.oncall.judging import judge_runs
from flows.oncall.prefect_view import FlowRun, PrefectView
from flows.server_errors import server_error
from flows.settings import Settings
from flows.status import describe
from flows.workspace import Workspace

HOUR = timedelta(hours=1)
LABELS = ["workspace", "data", "ran", "stuck", "refused", "waiting", "versions", "drift", "overrides", "disk"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w").create()


@pytest.fixture
def prefect(workspace: Workspace) -> PrefectDatabase:
    return PrefectDatabase(workspace.root)


def stuck(workspace: Workspace) -> str:
    record, text = describe(workspace, Settings())
    assert [line.split()[0] for line in text.splitlines()] == LABELS
    return "\n".join(record["stuck"])


def at_work(workspace: Workspace) -> None:
    """Another process than this one is at work: the parent of the tests."""
    (workspace.root / ".users").mkdir(exist_ok=True)
    (workspace.root / ".users" / str(os.getppid())).touch()


def serving(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.status.server_note", lambda _: {"by_the_clock": True})


def test_an_empty_workspace_has_ten_lines_and_nothing_is_stuck(workspace: Workspace) -> None:
    assert stuck(workspace) == ""


def test_nothing_that_takes_seconds_is_imported(workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.status import describe; from flows.settings import Settings;"
        "from flows.workspace import Workspace; describe(Workspace(Path(sys.argv[1])), Settings());"
        "print([name for name in ('torch', 'mlflow', 'prefect', 'monai', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, workspace.root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_last_run_of_every_flow_is_told_with_state_and_duration(
    workspace: Workspace, prefect: PrefectDatabase
) -> None:
    prefect.run("ingest-watch", "FAILED", began=3 * HOUR, took=HOUR, message="old")
    prefect.run("ingest-watch", "COMPLETED", began=2 * HOUR, took=timedelta(seconds=42))
    prefect.run("nightly-review", "FAILED", began=HOUR, took=timedelta(minutes=5), message="the disk is full")
    record, text = describe(workspace, Settings())
    assert [(run["flow"], run["type"], run["seconds"]) for run in record["ran"]] == [
        ("nightly-review", "FAILED", 300.0),
        ("ingest-watch", "COMPLETED", 42.0),
    ]
    assert "ingest-watch Completed after 42 s" in text
    assert len(record["stuck"]) == 1
    assert "nightly-review Failed" in record["stuck"][0] and "the disk is full" in record["stuck"][0]


def test_a_running_run_without_a_process_was_killed(workspace: Workspace, prefect: PrefectDatabase) -> None:
    prefect.run("ingest", "RUNNING", began=timedelta(minutes=4))
    assert "no process is at work" in stuck(workspace)
    at_work(workspace)
    assert stuck(workspace) == ""


def test_a_run_that_is_silent_or_far_too_slow_is_named(workspace: Workspace, prefect: PrefectDatabase) -> None:
    at_work(workspace)
    prefect.run("train", "COMPLETED", began=9 * HOUR, took=HOUR)
    prefect.run("train", "RUNNING", began=2 * HOUR)
    assert stuck(workspace) == ""
    prefect.run("train", "RUNNING", began=4 * HOUR)
    prefect.run("review", "RUNNING", began=HOUR / 2, beat=timedelta(minutes=20))
    prefect.run("ingest", "RUNNING", began=HOUR / 2, beat=timedelta(seconds=20))
    prefect.run("annotate", "PENDING", began=HOUR / 2)
    said = stuck(workspace)
    assert "train runs since 4 h, the longest of late took 60 min" in said
    assert "review runs since 30 min and gave no sign of life for 20 min" in said
    assert "annotate is Pending since 30 min" in said
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(("flow", "mend"), [("ingest", "give it again"), ("ingest-watch", "see that a worker")])
def test_a_run_that_waits_for_ever_is_a_command_that_is_gone_or_a_job_without_a_worker(flow: str, mend: str) -> None:
    now, found = datetime.now(UTC), Findings()
    run = FlowRun("1", flow, "PENDING", "Pending", now - HOUR, None, None)
    judge_runs(PrefectView("http://server", (run,)), found, at_work=None, now=now)
    assert len(found.lines) == 1 and mend in found.lines[0]


def test_a_ray_cluster_that_takes_no_client_is_one_line() -> None:
    known = server_error(ConnectionError("ray client connection timeout"))
    assert known is not None and "RAY_AUTH_MODE" in known.line()
    assert server_error(ConnectionError("reset by peer")) is None


def test_schedules_that_nobody_keeps_are_paused_late_or_without_runs_are_named(
    workspace: Workspace, prefect: PrefectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefect.run("ingest-watch", "SCHEDULED", began=2 * HOUR, deployment=prefect.deployment("ingest-watch"))
    assert "nobody keeps the schedules (ingest-watch)" in stuck(workspace)
    serving(workspace, monkeypatch)
    prefect.deployment("weekly-retrain", paused=True)
    prefect.deployment("nightly-review")
    prefect.run("drift-check", "SCHEDULED", began=-HOUR, deployment=prefect.deployment("drift-check"))
    record, text = describe(workspace, Settings())
    said = "\n".join(record["stuck"])
    assert "1 runs of ingest-watch are late, the oldest by 2 h" in said
    assert "weekly-retrain is paused" in said
    assert "nightly-review has no run to come" in said
    assert "next drift-check in 60 min" in text
    assert len(record["stuck"]) == 3


def test_a_schedule_further_away_than_prefect_plans_is_not_stuck(
    workspace: Workspace, prefect: PrefectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(workspace, monkeypatch)
    far = datetime.now(UTC) + timedelta(days=200)
    prefect.deployment("whole-run", cron=f"0 3 {min(far.day, 28)} {far.month} *")
    assert stuck(workspace) == ""
    near = datetime.now(UTC) + timedelta(days=50)
    prefect.deployment("drift-check", cron=f"0 3 {min(near.day, 28)} {near.month} *")
    assert "drift-check has no run to come" in stuck(workspace)


def test_a_run_that_found_another_at_work_hides_no_failure(workspace: Workspace, prefect: PrefectDatabase) -> None:
    prefect.run("weekly-retrain", "FAILED", began=2 * HOUR, took=HOUR, message="no labels")
    prefect.run("weekly-retrain", "COMPLETED", began=HOUR, took=timedelta(seconds=1), name="Skipped")
    assert "the last weekly-retrain Failed" in stuck(workspace)


def test_an_empty_folder_of_pulls_is_no_leftover_of_a_killed_run(workspace: Workspace) -> None:
    (workspace.scratch_root / "pull" / "server").mkdir(parents=True)
    assert stuck(workspace) == ""
    (workspace.scratch_root / "ingest-1").mkdir()
    (workspace.scratch_root / "ingest-1" / "half").write_text("half")
    assert "1 folders in scratch/ are left of killed runs" in stuck(workspace)


def test_reasons_of_refused_input_are_counted(workspace: Workspace) -> None:
    rows = {"path": ["a", "b", "c"], "series_key": ["", "", ""], "reason": ["not_ct", "not_ct", "localizer"]}
    table = pd.DataFrame({**rows, "detail": ["", "", ""]})
    table["sop_instance_uids"] = [[], [], []]
    REJECTED_TABLE.write(workspace.rejected_table, table)
    record, text = describe(workspace, Settings())
    assert record["refused"] == {"localizer": 1, "not_ct": 2}
    assert "not_ct 2; localizer 1" in text


def test_the_gates_of_the_last_refused_promotion_are_told_until_the_version_is_champion(workspace: Workspace) -> None:
    from flows.registry.audit import append_audit

    gates = [
        {"gate": "auc", "passed": False, "detail": "AUC is 0.5, at least 0.6 is asked."},
        {"gate": "no_leak", "passed": True, "detail": "none"},
    ]
    append_audit(workspace, actor="a", action="promote_refused", subject="3", detail={"gates": gates})
    record, text = describe(workspace, Settings())
    assert record["refused_promotion"]["reasons"] == ["auc: AUC is 0.5, at least 0.6 is asked."]
    assert "version 3" in text and "AUC is 0.5" in text
    append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})
    assert describe(workspace, Settings())[0]["refused_promotion"] is None


def test_a_report_that_nobody_answered_waits(workspace: Workspace) -> None:
    (workspace.reviews_root / "study").mkdir(parents=True)
    (workspace.reviews_root / "study" / "review.json").write_text("{}")
    record, text = describe(workspace, Settings())
    assert record["waiting"]["unanswered_reports"] == 1
    assert "1 reports that no reader has answered" in text


BREAK = {
    "series.parquet": b"no table",
    "rejected.parquet": b"PAR1torn",
    "nodules.parquet": b"",
    "mlflow.db": b"this is no database" * 300,
    "prefect/prefect.db": b"SQLite format 3\0" + b"\xff" * 5000,
    "audit.jsonl": b"{half a line\n",
    "drift/x/reports/1.json": b"[]",
}


@pytest.mark.parametrize("name", BREAK)
def test_what_cannot_be_read_is_named_and_the_rest_is_told(workspace: Workspace, name: str) -> None:
    path = workspace.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BREAK[name])
    before = path.stat().st_mtime_ns
    said = stuck(workspace)
    if not name.startswith("drift"):
        assert (path.name if "prefect" not in name else "Prefect's database") in said.replace(
            "audit line", "audit.jsonl"
        )
        assert len(said.splitlines()) == 1, said
    assert path.stat().st_mtime_ns == before


def test_everything_broken_at_once_is_still_ten_lines_and_status_0(workspace: Workspace) -> None:
    for name, content in BREAK.items():
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / name).write_bytes(content)
    (workspace.reviews_root / "study" / "answers").mkdir(parents=True)
    (workspace.reviews_root / "study" / "answers" / "x.json").write_text("{")
    done = noduleflow("status", workspace=workspace.root)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == LABELS
    assert "Traceback" not in done.stderr
    record = json.loads(noduleflow("status", "--json", workspace=workspace.root).stdout)
    assert len(record["stuck"]) >= 6
    assert "reviews/study/x.json holds no answers" in "\n".join(record["stuck"])


def test_a_folder_in_the_place_of_a_table_and_a_file_in_that_of_a_folder(workspace: Workspace) -> None:
    workspace.series_table.mkdir()
    workspace.mlflow_database.mkdir()
    workspace.series_root.write_text("no folder")
    workspace.runs_root.write_text("no folder")
    assert "series.parquet" in stuck(workspace)


def test_a_database_that_another_holds_is_no_fault(workspace: Workspace, prefect: PrefectDatabase) -> None:
    prefect.run("ingest", "COMPLETED", began=HOUR, took=timedelta(seconds=1))
    prefect.rows.execute("PRAGMA journal_mode = WAL")
    prefect.rows.execute("BEGIN IMMEDIATE")
    prefect.rows.execute("DELETE FROM flow_run")
    assert stuck(workspace) == ""


def test_a_prefect_or_mlflow_server_that_is_away_is_said_at_once(workspace: Workspace) -> None:
    nowhere = "http://127.0.0.1:9"
    for name in ("NODULEFLOW_PREFECT_API_URL", "NODULEFLOW_MLFLOW_TRACKING_URI"):
        environment = {**os.environ, name: f"{nowhere}/api" if "PREFECT" in name else nowhere}
        command = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "--json", "status"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "server does not answer" in json.loads(done.stdout)["stuck"][0]


def test_it_writes_nothing(workspace: Workspace, prefect: PrefectDatabase) -> None:
    prefect.run("ingest", "RUNNING", began=HOUR)
    prefect.rows.close()
    with sqlite3.connect(workspace.mlflow_database) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
    database.close()
    before = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    describe(workspace, Settings())
    after = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    assert {path for path in after if path not in before} <= {workspace.root / "registry" / "audit.key"}
    assert all(after[path] == content for path, content in before.items())


def test_two_thousand_series_are_counted_in_a_moment(workspace: Workspace) -> None:
    import time

    for number in range(2000):
        folder = workspace.series_root / f"{number:016x}"
        folder.mkdir(parents=True)
        (folder / "series.json").write_text('{"series_key": "x"}')
    started = time.process_time()
    assert "2000 series are in no table" in stuck(workspace)
    assert time.process_time() - started < 2


def test_a_torn_table_is_written_again_from_its_parts_by_who_reads_it(workspace: Workspace) -> None:
    from data_contracts.nodules import NODULE_TABLE

    workspace.annotation_parts.mkdir()
    NODULE_TABLE.write(workspace.annotation_parts / "part.parquet", NODULE_TABLE.empty())
    workspace.nodule_table.write_bytes(b"PAR1 and no more")
    assert workspace.nodules().empty
    assert NODULE_TABLE.read(workspace.nodule_table).empty
    workspace.rebuild_series_tables()
    assert workspace.has_series_tables()
    whole = workspace.series_table.read_bytes()
    for torn in (b"", whole[: len(whole) // 2], bytes(len(whole))):
        workspace.series_table.write_bytes(torn)
        assert not workspace.has_series_tables()


def test_an_array_that_finds_no_room_is_a_full_disk(tmp_path: Path) -> None:
    from data_contracts.errors import is_full_disk

    with (
        small_disk(tmp_path / "disk", "64k") as disk,
        pytest.raises(OSError) as caught,
        (disk.folder / "a.npy").open("wb") as stream,
    ):
        np.save(stream, np.zeros(2**20, dtype=np.float32))
    assert is_full_disk(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError("1048576 requested and 4096 written"), "the disk is full"),
        (OSError("no number and no such words"), None),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (OSError(13, "Permission denied"), None),
    ],
)
def test_a_full_or_read_only_disk_is_a_clear_line_wherever_it_is_met(error: Exception, words: str | None) -> None:
    from data_contracts.errors import storage_error

    known = storage_error(error)
    assert (known is None) if words is None else (known is not None and words in known.line() and known.todo)
