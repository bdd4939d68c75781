"""The bundle of a version goes to a folder of its own, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from compression_cohort import FolderRegistry

from data_contracts.errors import UsageError
from flows.versions import bundling
from flows.versions.bundling import export_bundle
from flows.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A version whose bundle has a few files."""
    monkeypatch.setattr(bundling, "Registry", VersionWithoutCard)
    bundle = tmp_path / "workspace" / "runs" / "run" / "bundle"
    for name in ("configs/metadata.json", "models/model.pt2", "LICENSE"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(name)
    return Workspace(tmp_path / "workspace")


class VersionWithoutCard(FolderRegistry):
    """Version 1 is the folder `run`, of which only the bundle is there."""

    def verified_folder(self, version: str):
        """The run folder."""
        return self.workspace.runs_root / "run", None


def test_a_bundle_is_copied_and_the_second_time_nothing_is_done(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert export_bundle(workspace, "m", "1", out)
    assert (out / "models" / "model.pt2").read_text() == "models/model.pt2"
    assert not (out / "LICENSE").samefile(workspace.runs_root / "run" / "bundle" / "LICENSE")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not export_bundle(workspace, "m", "1", out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_stands_there_is_never_overwritten(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert export_bundle(workspace, "m", "1", out)
    (out / "LICENSE").write_text("another")
    with pytest.raises(UsageError, match="holds something else"):
        export_bundle(workspace, "m", "1", out)
    assert (out / "LICENSE").read_text() == "another"
    with pytest.raises(UsageError, match="holds something else"):
        export_bundle(workspace, "m", "1", out / "LICENSE")


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for bad in ("notes.txt/it", "notes.txt/in/it", "x" * 300):
        with pytest.raises(UsageError, match=r"(nothing can be written|no folder).*Name another place"):
            export_bundle(workspace, "m", "1", tmp_path / bad)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="gone is no folder"):
        export_bundle(workspace, "m", "1", tmp_path / "gone" / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_version_without_a_bundle_says_so(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.runs_root / "run" / "bundle").rename(tmp_path / "gone")
    with pytest.raises(UsageError, match="version 1 has no bundle"):
        export_bundle(workspace, "m", "1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
