"""Eight processes promote and roll back at once and some are killed: one champion at every moment, no lost update."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow]


@pytest.mark.timeout(1500)
def test_five_hundred_attempts_with_kills_leave_one_champion_and_a_chain_that_holds(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("registry_stress.py")), "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--attempts", "500", "--processes", "8", "--kill-every", "25"],
        capture_output=True,
        text=True,
        timeout=1400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["attempts"] >= 500
    assert found["kills"] >= 5
    assert found["failed_workers"] == 0, done.stderr[-3000:]
    assert set(found["refusals"]) <= {"StaleExpectationError"}
    assert found["watched"]["wrong"] == 0 and found["watched"]["looks"] > 100
    assert found["watched"]["champions_seen"] >= 2
    assert found["contradictions"] == []
    assert found["faults"] == []
    assert found["moved"] > 50
