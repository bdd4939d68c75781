"""The main job, end to end, as a person runs it: `noduleflow demo --fast`, once killed on the way and started again."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from data_contracts.params import PhantomParams

pytestmark = [pytest.mark.server, pytest.mark.slow]

TIMEOUT_S = 900


@pytest.fixture
def workspace(demo_workspace: Path) -> Path:
    return demo_workspace


@pytest.fixture(scope="session")
def report(demo: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(demo["runs"][-1]["folder"]) / "evaluation.json").read_text())


def test_a_killed_demo_goes_on_and_ends_with_everything(demo: dict[str, Any], workspace: Path) -> None:
    assert demo["killed_after_s"], "no kill came before the end"
    series = pd.read_parquet(workspace / "series.parquet")
    assert len(series) == 40
    assert set(series["site"]) == {"site-a", "site-b"}
    assert demo["prepare"]["n_patches"] == 160
    assert [run["preset"] for run in demo["runs"]] == ["probe", "finetune-dann-fast"]
    assert list(workspace.rglob("*.tmp")) == []


def test_the_demo_again_does_nothing_and_says_so(
    demo: dict[str, Any], workspace: Path, run_demo: Callable[[], subprocess.CompletedProcess[str]]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (workspace / "runs").rglob("*") if path.is_file()}
    done = run_demo()
    again = json.loads(done.stdout)
    assert [run["version"] for run in again["runs"]] == [run["version"] for run in demo["runs"]]
    assert again["ingest"]["new"] == 0
    assert "nothing to do" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_every_figure_can_be_computed_again_with_scikit_learn(demo: dict[str, Any], report: dict[str, Any]) -> None:
    predictions = pd.read_parquet(Path(demo["runs"][-1]["folder"]) / "predictions.parquet")
    assert set(predictions["split"]) == {"test"}
    figures = {(row["score"], row["site"]): row for row in report["figures"]}
    assert {site for _, site in figures} == {"all", "site-a", "site-b"}
    for (score, site), row in figures.items():
        rows = predictions[predictions["label"].notna() & ((site == "all") | (predictions["site"] == site))]
        labels = rows["label"].astype(int)
        assert row["auc"]["n"] == len(rows)
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(labels, rows[score]), abs=1e-9)
        assert row["brier"]["value"] == pytest.approx(brier_score_loss(labels, rows[score]), abs=1e-9)
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"]


def test_no_patient_is_in_two_splits(demo: dict[str, Any], workspace: Path) -> None:
    index = pd.read_parquet(workspace / "datasets" / demo["prepare"]["dataset_id"] / "index.parquet")
    assert index.groupby("patient_key")["split"].nunique().max() == 1
    assert index.groupby("split")["patient_key"].nunique().min() >= 2


def test_source_only_stands_beside_the_adapted_network_and_the_gate_gives_reasons(report: dict[str, Any]) -> None:
    assert set(report["alternatives"]) == {"source-only", "dann"}
    decision = report["adaptation"]
    assert decision["chosen"] in ("source-only", "dann", "joined")
    assert decision["adapted"] == (decision["chosen"] != "source-only")
    assert set(decision["members"]) <= {"source-only", "dann"}
    assert decision["reasons"]


def test_random_weights_are_said_out_loud_everywhere(
    demo: dict[str, Any], report: dict[str, Any], workspace: Path
) -> None:
    if demo["weights"] != "none":
        pytest.skip("torchvision's weights can be had here, so nothing fell back")
    assert "NO PRETRAINED WEIGHTS" in demo["stderr"]
    assert report["pretrained"] is False
    page = Path(demo["reviews"][0]["report"]).read_text() if demo["reviews"] else ""
    assert not page or "random" in page.lower()
    with sqlite3.connect(workspace / "mlflow.db") as database:
        tags = dict(database.execute("select value, key from tags where key = 'noduleflow.weights'").fetchall())
    assert set(tags) == {"none"}


def test_the_reviewed_study_is_held_out(demo: dict[str, Any], workspace: Path) -> None:
    assert demo["reviews"], demo["runs"]
    index = pd.read_parquet(workspace / "datasets" / demo["prepare"]["dataset_id"] / "index.parquet")
    series = pd.read_parquet(workspace / "series.parquet")
    keys = series.loc[series["study_key"] == demo["reviews"][0]["study_key"], "series_key"]
    assert set(index.loc[index["series_key"].isin(keys), "split"]) == {"test"}
    folder = Path(demo["reviews"][0]["report"]).parent
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(folder.glob("key-*.png"))) >= 4


def test_no_invented_identity_is_left_anywhere_in_the_workspace(
    demo: dict[str, Any], workspace: Path, tmp_path: Path
) -> None:
    from pipeline.cohort.phantom import invented_identities

    cohort = json.loads((Path(demo["cohort"]) / "cohort.json").read_text())
    identities = [text for text in invented_identities(PhantomParams(**cohort["params"])) if len(text) >= 6]
    assert len(identities) > 100
    files = {"names": tmp_path / "names.txt", "numbers": tmp_path / "numbers.txt"}
    files["names"].write_text("".join(f"{text}\n" for text in identities if not text.isdigit()))
    files["numbers"].write_text("".join(f"{text}\n" for text in identities if text.isdigit()))

    def holding(kind: str, where: Path) -> str:
        """Files that hold one of them; a number only where it does not go on: dates stand in any long row of digits."""
        words = ["--word-regexp"] if kind == "numbers" else []
        command = ["grep", "-r", "--files-with-matches", "--fixed-strings", *words, f"--file={files[kind]}", str(where)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        assert found.returncode in (0, 1), found.stderr
        return found.stdout

    # In a page of a database the cells of a row stand side by side, so that digits run from one into the next.
    cells = tmp_path / "cells"
    write_cells(workspace, cells)
    assert holding("names", workspace) + holding("numbers", workspace) + holding("numbers", cells) == ""
    planted = tmp_path / "planted"
    planted.mkdir()
    name, number = (file.read_text().split("\n")[0] for file in files.values())
    with closing(sqlite3.connect(planted / "a.db")) as database, database:
        database.execute("CREATE TABLE t (a, b, c)")
        database.execute("INSERT INTO t VALUES (?, ?, ?)", ("1", number, f"x{name}y"))
    write_cells(planted, planted / "cells")
    assert holding("names", planted)
    assert holding("numbers", planted)


def write_cells(root: Path, folder: Path) -> None:
    """Every cell of every SQLite database below root on a line of its own, as a file a database."""
    folder.mkdir()
    paths = [path for path in sorted(root.rglob("*.db")) if path.read_bytes()[:6] == b"SQLite"]
    assert paths
    for number, path in enumerate(paths):
        with closing(sqlite3.connect(path)) as database, (folder / f"{number}.txt").open("w") as cells:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    cells.writelines(f"{cell}\n" for cell in row)


def test_prefect_saw_one_task_a_series_and_no_path(demo: dict[str, Any], workspace: Path) -> None:
    with sqlite3.connect(workspace / "prefect" / "prefect.db") as database:
        tasks = dict(
            database.execute("select substr(name, 1, length(name) - 4), count(*) from task_run group by 1").fetchall()
        )
        parameters = " ".join(str(row) for row in database.execute("select parameters from flow_run").fetchall())
        running = database.execute(
            "select count(*) from flow_run where state_type in ('RUNNING', 'PENDING')"
        ).fetchone()
    assert 40 <= tasks["ingest-series"] <= 40 * 6
    assert "-cohort" not in parameters
    assert running == (0,), "runs that were killed are marked Crashed"


def test_volumes_are_int16_hu_that_nibabel_reads(demo: dict[str, Any], workspace: Path) -> None:
    series = pd.read_parquet(workspace / "series.parquet")
    nodules = pd.read_parquet(workspace / "nodules.parquet").drop_duplicates("nodule_id")
    for row in series.groupby("site").head(1).to_dict("records"):
        image = nib.load(workspace / row["volume_path"])
        array = np.asarray(image.dataobj)
        assert array.dtype == np.int16
        assert array.min() >= -1100
        for nodule in nodules[nodules["series_key"] == row["series_key"]].to_dict("records"):
            ras = np.array([-nodule["x_mm"], -nodule["y_mm"], nodule["z_mm"], 1.0])
            i, j, k = np.rint(np.linalg.inv(image.affine) @ ras)[:3].astype(int)
            assert array[i - 2 : i + 3, j - 2 : j + 3, k].max() > -750, "tissue stands at the annotated place"


def test_the_audit_holds(demo: dict[str, Any], workspace: Path) -> None:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "audit", "--verify"]
    assert subprocess.run(command, capture_output=True, timeout=200, check=False).returncode == 0


def test_nothing_beyond_loopback_was_asked_for_but_torchvisions_weights(demo: dict[str, Any], workspace: Path) -> None:
    assert set(workspace.with_name("hosts.txt").read_text().split()) <= {"download.pytorch.org"}
