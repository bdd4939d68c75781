"""The real prepare command on a workspace whose readers answered: a dataset takes what is settled, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from answers_factory import ELSEWHERE, answers, finding_id, reviewed_workspace

from flows.engine import engine
from flows.reviewing.answers import keep_answers
from flows.workspace import Workspace

pytestmark = [pytest.mark.server, pytest.mark.slow]

REJECT = {"answer": "reject", "reason": "vessel"}
MISSED = {"missed": ({"lps_mm": ELSEWHERE, "diameter_mm": 6.0, "malignant": True},)}


def test_the_next_dataset_has_what_readers_settled_and_patients_stay_where_they_were(tmp_path: Path) -> None:
    workspace = reviewed_workspace(tmp_path / "workspace", 6, pictures=False)
    with engine(Workspace(tmp_path / "server").create()) as address:

        def prepare() -> tuple[dict[str, object], pd.DataFrame]:
            line = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "--json"]
            done = subprocess.run(
                [*line, "prepare", "--name", "n", "--set", "size_mm=24"],
                capture_output=True,
                text=True,
                timeout=500,
                check=False,
                env={**os.environ, "NODULEFLOW_PREFECT_API_URL": address},
            )
            assert done.returncode == 0, done.stderr
            record = json.loads(done.stdout)
            return record, pd.read_parquet(workspace.datasets_root / record["dataset_id"] / "index.parquet")

        first, before = prepare()
        # kept without their labels, as a kill right after an answer leaves them
        keep_answers(workspace, answers(0, "AB", {0: REJECT, 1: {"malignant": True}, 2: REJECT}, **MISSED))
        keep_answers(workspace, answers(0, "CD", {0: REJECT, 1: {"malignant": True}, 2: {}}, **MISSED))
        second, after = prepare()
        again, _ = prepare()
    assert second["dataset_id"] == again["dataset_id"] != first["dataset_id"]
    assert second["answers"]["settled"] == 3 and second["answers"]["rejected"] == second["answers"]["waiting"] == 1
    gone = set(before["nodule_id"]) - set(after["nodule_id"])
    new = set(after["nodule_id"]) - set(before["nodule_id"])
    assert gone == {f"nodule-{finding_id(0, 0)}"}
    assert len(new) == 1 and new.pop().startswith("missed-")
    labels = after.set_index("nodule_id")["label"]
    assert labels[f"nodule-{finding_id(0, 1)}"] == 1 and labels[f"nodule-{finding_id(0, 2)}"] == 0
    splits = [table.groupby("patient_key")["split"].first() for table in (before, after)]
    pd.testing.assert_series_equal(*splits)
