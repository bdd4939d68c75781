"""What a run notes of its environment names the code and the packages, and no machine, user or folder."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest

from data_contracts.records import sha256_file
from flows.versions import environment as module
from flows.versions.environment import code_sha256, environment, installed, lock_differences

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one committed module, which the program takes for its own."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "a.py").write_text("A = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    code_sha256.cache_clear()
    yield tmp_path
    code_sha256.cache_clear()


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def test_it_names_code_lock_versions_and_processor_and_nobody() -> None:
    facts = environment()
    assert facts["lock_sha256"] == sha256_file(ROOT / "requirements.lock")
    assert facts["version_torch"] == importlib.metadata.version("torch").split("+")[0]
    assert re.fullmatch("[0-9a-f]{64}", facts["code_sha256"])
    assert facts["threads"] >= 1 and isinstance(facts["processor_flags"], str)
    text = str(facts)
    assert os.uname().nodename not in text and str(ROOT) not in text and f"'{getpass.getuser()}'" not in text


def test_a_clone_is_named_by_its_commit_and_whether_it_is_as_committed(clone: Path) -> None:
    def noted() -> tuple[str, str]:
        facts = module._commit()
        return facts["git_commit"], facts["git_dirty"]

    commit = git(clone, "rev-parse", "HEAD")
    assert noted() == (commit, "no")
    (clone / "notes.txt").write_text("of no account")
    assert noted() == (commit, "no")
    (clone / "flows" / "b.py").write_text("B = 2\n")
    assert noted() == (commit, "yes")
    (clone / "flows" / "b.py").unlink()
    (clone / "flows" / "a.py").write_text("A = 2\n")
    assert noted() == (commit, "yes")


def test_a_copy_inside_another_clone_has_no_commit_but_a_digest(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = clone / "vendored"
    (copy / "flows").mkdir(parents=True)
    (copy / "flows" / "a.py").write_text("A = 1\n")
    one = code_sha256()
    monkeypatch.setattr(module, "_ROOT", copy)
    code_sha256.cache_clear()
    assert module._commit() == {"git_commit": "unknown", "git_dirty": "unknown"}
    assert code_sha256() == one
    (copy / "flows" / "a.py").write_text("A = 3\n")
    code_sha256.cache_clear()
    assert code_sha256() != one


def test_a_package_that_is_not_the_one_of_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.lock"
    numpy = installed()["numpy"]
    lock.write_text(
        f"numpy=={numpy} ; python_version < '3.12' \\\n    --hash=sha256:0\nnumpy==0.1 ; python_version >= '3.12'\n"
        "torch==0.1\nnot-installed-here==1.0\n"
    )
    monkeypatch.setattr(module, "_LOCK", lock)
    assert lock_differences() == ["torch"]
    lock.unlink()
    assert lock_differences() == []
