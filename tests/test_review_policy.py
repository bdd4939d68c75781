"""A review of a source leaves the series of the workspace alone and takes new ones in as the last ingest did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dicom_factory import body_hu, slices_of, truth_of, write_series

from data_contracts.params import IngestParams
from data_contracts.series import SeriesRecord
from flows.intake.identity import INGEST, ingest_policy, last_policy, note_policy
from flows.intake.left_alone import left_alone
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series


def noduleflow(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "NO_COLOR": "1"}
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One study each of two patients."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("MR-17", "MR-18"):
        write_series(root / name, slices_of(truth_of(body_hu()), name))
    return root / "MR-17", root / "MR-18"


def _records(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.glob("series/*/series.json")}


@pytest.mark.slow
@pytest.mark.server
def test_a_review_keeps_the_identity_policy_of_the_site(sources: tuple[Path, Path], tmp_path: Path) -> None:
    known, new = sources
    root = tmp_path / "workspace"
    policy = ("--keep-identity", "--set", "keep_vault=false", "--set", "tilt=resample", "--set", "compress=true")
    done = noduleflow(root, "ingest", str(known), "--site", "a", *policy)
    assert done.returncode == 0, done.stderr
    before, audit = _records(root), (root / "audit.jsonl").read_bytes()
    # the workspace has no version yet: the review ends after the sources are taken in
    told = noduleflow(root, "review", str(known))
    assert told.returncode == 2, told.stderr
    assert "1 series are in the workspace and stay as they are" in told.stderr
    assert _records(root) == before
    told = noduleflow(root, "review", str(new))
    assert "1 new series came in under the policy of the last ingest" in told.stderr
    assert "original identifiers in tables, no identity sealed" in told.stderr
    assert {path: content for path, content in _records(root).items() if path in before} == before
    table = Workspace(root).rebuild_series_tables()[0]
    assert sorted(table["patient_id"]) == ["MR-17", "MR-18"]
    assert sorted(table["site"]) == ["a", "review"]
    assert list(root.glob("identity/*.sealed")) == []
    assert (root / "audit.jsonl").read_bytes() == audit, "the policy did not change"


def test_the_policy_of_the_last_ingest_is_that_of_the_audit_and_the_defaults_before(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    assert last_policy(workspace) == (IngestParams(), False)
    strict = IngestParams(keep_vault=False, burned_in="blank")
    note_policy(workspace, INGEST, ingest_policy(strict, True))
    assert last_policy(workspace) == (strict, True)
    note_policy(workspace, INGEST, ingest_policy(IngestParams(), False))
    assert last_policy(workspace) == (IngestParams(), False)
    lines = [json.loads(line) for line in workspace.audit_file.read_text().splitlines()]
    assert [line["detail"]["policy"]["keep_identity"] for line in lines] == [True, False]


def test_a_series_is_left_alone_as_long_as_nothing_of_it_is_new_or_gone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    pseudonymizer, params = Pseudonymizer(workspace.secret(), True), IngestParams()
    slices = slices_of(truth_of(body_hu()), "MR-17")
    folder = tmp_path / "ct"
    write_series(folder, slices[:-1])
    (raw,) = discover(folder, pseudonymizer, params, tmp_path / "none").series
    assert left_alone(workspace, [raw], pseudonymizer) == {}
    items = ingest_series(raw, pseudonymizer, params, workspace.series_root, "a")
    (record,) = [item for item in items if isinstance(item, SeriesRecord)]
    assert left_alone(workspace, [raw], Pseudonymizer(workspace.secret(), False)) == {raw.group_key: [record]}
    write_series(folder, slices)
    (more,) = discover(folder, pseudonymizer, params, tmp_path / "none").series
    assert left_alone(workspace, [more], pseudonymizer) == {}, "a slice arrived"
    (workspace.root / record.volume_path).unlink()
    assert left_alone(workspace, [raw], pseudonymizer) == {}


def test_an_object_that_was_refused_beside_a_series_does_not_make_it_new(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace").create()
    pseudonymizer, params = Pseudonymizer(workspace.secret(), False), IngestParams()
    slices = slices_of(truth_of(body_hu()), "MR-17")
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path / "ct", slices)
    (raw,) = discover(tmp_path / "ct", pseudonymizer, params, tmp_path / "none").series
    items = ingest_series(raw, pseudonymizer, params, workspace.series_root, "a")
    refused = [item for item in items if not isinstance(item, SeriesRecord)]
    assert len(refused) == 1
    assert left_alone(workspace, [raw], pseudonymizer) == {}
    workspace.add_rejections("0" * 16, refused)
    assert left_alone(workspace, [raw], pseudonymizer) == {raw.group_key: items}
