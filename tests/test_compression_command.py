"""The command `export` writes a version or a dataset, says which, and checks what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_contracts.patches import DatasetCard
from flows.presets import train_params

pytestmark = [pytest.mark.slow, pytest.mark.server]


def run(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "export", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_version_is_exported_once_and_found_whole(demo: dict[str, Any], demo_workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    words = ("challenger", "--out", str(out), "--format", "safetensors")
    first = run(demo_workspace, *words)
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert record["made"]
    assert [form["form"] for form in record["forms"]] == ["safetensors"]
    again = json.loads(run(demo_workspace, *words).stdout)
    assert not again["made"]
    assert again["digest"] == record["digest"]
    assert json.loads(run(demo_workspace, "--out", str(out), "--verify").stdout)["digest"] == record["digest"]
    checkpoint = out / "safetensors" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    broken = run(demo_workspace, "--out", str(out), "--verify")
    assert broken.returncode == 2
    assert "was changed" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_a_dataset_is_exported_by_its_name_and_nothing_else_is_taken_for_one(
    demo: dict[str, Any], demo_workspace: Path, tmp_path: Path
) -> None:
    card = DatasetCard.read(next(demo_workspace.glob("datasets/*/dataset.json")))
    done = run(demo_workspace, card.dataset_id, "--out", str(tmp_path / "patches.npz"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dataset_id"] == card.dataset_id
    unknown = run(demo_workspace, "nobody", "--out", str(tmp_path / "x"))
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr


def test_the_student_preset_names_its_teacher_on_the_command_line() -> None:
    assert train_params("student", {}).teacher == ""
    assert train_params("student", {"teacher": "champion"}).teacher == "champion"
