"""The short form of `make chaos`: a night of kills ends with the workspace of an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parent / "chaos" / "run_chaos.py"


@pytest.mark.slow
@pytest.mark.server
def test_a_night_of_kills_ends_with_the_undisturbed_workspace() -> None:
    command = [sys.executable, str(RUNNER), "--short", "--seed", "3", "--patients", "8", "--bench", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "the same workspace" in done.stderr
