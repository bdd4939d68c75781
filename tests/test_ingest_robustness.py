"""Kills, rivals, full disks and sources that change: nothing is lost, doubled, torn or mixed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from trap_files import file_bytes
from trap_generator import draw, write, write_set
from trap_judge import Reading, exact, run_ingest
from trap_kinds import Draft

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

KINDS = ("baseline", "missing_slice", "oblique", "two_acquisitions", "jpegls_lossless", "gantry_tilt", "enhanced")
Command = Callable[..., subprocess.CompletedProcess[str]]


# --- one process, many moments ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a dozen series, some refused."""
    folder = tmp_path_factory.mktemp("many") / "source"
    write_set(folder, 5, 12, KINDS)
    return folder


def _contents(outcome_root: Path) -> dict[str, str]:
    """series key -> its record, of every whole series below a workspace; names that begin with a dot do not count."""
    files = sorted((outcome_root / "series").glob("[!.]*/series.json"))
    for file in files:
        record = SeriesRecord.read(file)
        assert Reading.of(outcome_root / record.volume_path).hu.shape[::-1] == record.shape_kji
    return {file.parent.name: file.read_text() for file in files}


def _silently(source: Path, workspace: Path) -> None:
    run_ingest(source, workspace)


def _imported() -> None:
    """What a process costs that only imports what is here."""


@pytest.mark.slow
def test_an_ingest_killed_at_twenty_moments_ends_as_if_undisturbed(many: Path, tmp_path: Path) -> None:
    undisturbed = run_ingest(many, tmp_path / "whole")
    context, moments = multiprocessing.get_context("spawn"), random.Random()
    begin = time.monotonic()
    worker = context.Process(target=_imported)
    worker.start()
    worker.join()
    start_s = time.monotonic() - begin
    begin = time.monotonic()
    run_ingest(many, tmp_path / "timed")
    usual_s = time.monotonic() - begin
    killed = 0
    pace = 1.0
    for _ in range(20):
        worker = context.Process(target=_silently, args=(many, tmp_path / "killed"))
        worker.start()
        worker.join(pace * (start_s + moments.uniform(-0.1, 1.2) * usual_s))
        if worker.is_alive():
            os.kill(worker.pid or 0, signal.SIGKILL)
            killed += 1
        else:
            pace *= 0.85  # the machine is quicker than when the times were taken
        worker.join()
        if killed % 5 == 0:  # what stands is whole at any time, and half of it is made anew
            for folder in list((tmp_path / "killed" / "series").glob("[!.]*"))[::2]:
                shutil.rmtree(folder)
        _contents(tmp_path / "killed")
    assert killed > 5
    again = run_ingest(many, tmp_path / "killed")
    assert {record.series_key for record in again.accepted} == {record.series_key for record in undisturbed.accepted}
    assert _contents(tmp_path / "killed") == _contents(tmp_path / "whole")
    assert sorted(item.detail for item in again.rejected) == sorted(item.detail for item in undisturbed.rejected)


def _discovered(source: Path, workspace: Path) -> tuple[Any, Callable[[], list[SeriesRecord | Rejection]]]:
    """Headers read; a function that goes on with the pixels."""
    pseudonymizer, params = Pseudonymizer(b"secret", keep_identity=True), IngestParams()
    found = discover(source, pseudonymizer, params, workspace / "scratch")

    def go_on() -> list[SeriesRecord | Rejection]:
        return [
            item
            for raw in found.series
            for item in ingest_series(raw, pseudonymizer, params, workspace / "series", "s")
        ]

    return found, go_on


def _source(folder: Path, kind: str = "baseline", seed: int = 1) -> Draft:
    draft = draw(random.Random(seed), kind, "case")
    write(draft, folder)
    return draft


@pytest.mark.parametrize("kind", ["baseline", "jpegls_lossless", "deflated", "enhanced"])
def test_files_that_vanish_between_header_and_pixels_are_a_refusal(kind: str, tmp_path: Path) -> None:
    _source(tmp_path / "source", kind)
    _, go_on = _discovered(tmp_path / "source", tmp_path)
    files = sorted(path for path in (tmp_path / "source").rglob("*") if path.is_file())
    files[len(files) // 2].unlink()
    (outcome,) = go_on()
    assert isinstance(outcome, Rejection)
    assert outcome.reason in (ReasonCode.PIXEL_DECODE_FAILED, ReasonCode.UNREADABLE)
    assert outcome.sop_instance_uids
    assert _contents(tmp_path) == {}


def test_a_source_that_vanishes_while_it_is_read_ends_in_refusals(many: Path, tmp_path: Path) -> None:
    shutil.copytree(many, tmp_path / "source")
    found, go_on = _discovered(tmp_path / "source", tmp_path)
    remover = threading.Thread(target=shutil.rmtree, args=(tmp_path / "source",), kwargs={"ignore_errors": True})
    remover.start()
    outcomes = go_on()
    remover.join()
    assert len(outcomes) >= len(found.series)
    assert ReasonCode.INTERNAL_ERROR not in {item.reason for item in outcomes if isinstance(item, Rejection)}
    _contents(tmp_path)


@pytest.mark.parametrize("kind", ["baseline", "jpegls_lossless", "deflated"])
def test_a_file_replaced_between_header_and_pixels_is_never_mixed_in(kind: str, tmp_path: Path) -> None:
    draft = draw(random.Random(3), kind, "case")
    draft.plan.layout = "flat"
    write(draft, tmp_path / "source")
    _, go_on = _discovered(tmp_path / "source", tmp_path)
    victim = next(
        path for path in (tmp_path / "source").rglob("*") if draft.planes[2].uid.encode() in path.read_bytes()
        or (kind == "deflated" and path == sorted((tmp_path / "source").rglob("*"))[2])
    )  # fmt: skip
    other = draft.planes[4]
    other.ds.PatientID = "another"
    for word in ("ImagePositionPatient", "SOPInstanceUID"):  # as long as what stood there, all the same
        other.ds[word] = draft.planes[2].ds[word]
    other.stored = other.stored[::-1, ::-1].copy()
    replacement = tmp_path / "replacement"
    replacement.write_bytes(file_bytes(other))
    time.sleep(0.02)
    replacement.replace(victim)
    (outcome,) = go_on()
    if isinstance(outcome, SeriesRecord):
        assert exact(Reading.of(tmp_path / outcome.volume_path), draft.truth) == "", (
            "pixels of two patients in one volume"
        )
    else:
        assert outcome.reason in (ReasonCode.PIXEL_DECODE_FAILED, ReasonCode.UNREADABLE)


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_gives_the_keys_of_its_folder(pack: str, many: Path, tmp_path: Path) -> None:
    files = sorted(path for path in many.rglob("*") if path.is_file())
    archive = tmp_path / f"study of mine.{pack}"
    if pack == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
            for path in files:
                members.write(path, path.relative_to(many))
    else:
        with tarfile.open(archive, f"w:{pack[4:]}" if "." in pack else "w") as members:
            members.add(many, ".")
    folder, packed = run_ingest(many, tmp_path / "a"), run_ingest(archive, tmp_path / "b")
    assert {record.series_key for record in packed.accepted} == {record.series_key for record in folder.accepted}
    assert sorted((item.reason, item.detail) for item in packed.rejected) == sorted(
        (item.reason, item.detail) for item in folder.rejected
    )


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own size; skips where it may not be mounted."""
    folder.mkdir(parents=True)
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def test_a_disk_that_fills_up_refuses_what_does_not_fit_and_takes_it_when_there_is_room(
    many: Path, tmp_path: Path
) -> None:
    whole = run_ingest(many, tmp_path / "whole")
    with _small_disk(tmp_path / "disk", "150k") as disk:
        short = run_ingest(many, disk)
        full = [item for item in short.rejected if item.reason is ReasonCode.LOW_DISK_SPACE]
        assert full
        assert len(full) + len(short.accepted) == len(whole.accepted)
        assert all(item.sop_instance_uids and item.patient_id for item in full)
        assert set(_contents(disk)) == {record.series_key for record in short.accepted}
        assert list((disk / "series").glob(".*")) == []
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        later = run_ingest(many, disk)
        assert {record.series_key for record in later.accepted} == {record.series_key for record in whole.accepted}
        assert _contents(disk) == _contents(tmp_path / "whole")


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of series that share some: a, b, and both below one folder."""
    root = tmp_path_factory.mktemp("few") / "both"
    write_set(root / "a", 6, 4, ("baseline", "missing_slice", "two_acquisitions", "jpegls_lossless"))
    write_set(root / "b", 7, 3, ("oblique", "gantry_tilt", "no_rescale"))
    shutil.copytree(root / "a" / "000_baseline", root / "b" / "again")
    return root


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of commands that share one Prefect server and one key."""
    from flows.engine import engine
    from flows.workspace import Workspace

    with engine(Workspace(tmp_path_factory.mktemp("server"))) as address:
        yield {**os.environ, "NODULEFLOW_PREFECT_API_URL": address, "NODULEFLOW_SECRET": "a key of these tests"}


@pytest.fixture(scope="module")
def command(environment: dict[str, str]) -> Command:
    def run(workspace: Path, *sources: Path, wait: bool = True) -> Any:
        line = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "ingest", *map(str, sources)]
        if not wait:
            return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def undisturbed(command: Command, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("undisturbed") / "workspace"
    done = command(workspace, few / "a", few / "b")
    assert done.returncode == 0, done.stderr
    return workspace


def _tables(workspace: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of series.parquet and rejected.parquet, in an order of their own."""
    series = pd.read_parquet(workspace / "series.parquet").sort_values("series_key")
    rejected = pd.read_parquet(workspace / "rejected.parquet").sort_values(["path", "reason", "detail"])
    return json.loads(series.to_json(orient="records")), json.loads(rejected.to_json(orient="records"))


def test_a_second_run_says_that_there_is_nothing_to_do(undisturbed: Path, command: Command, few: Path) -> None:
    before = _tables(undisturbed)
    done = command(undisturbed, few / "a", few / "b")
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert json.loads(done.stdout)["new"] == 0
    assert _tables(undisturbed) == before


@pytest.mark.slow
def test_a_killed_command_run_again_leaves_the_tables_of_an_undisturbed_one(
    undisturbed: Path, command: Command, few: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        running = command(tmp_path, few / "a", few / "b", wait=False)
        end = time.monotonic() + 60
        stored = len(list((tmp_path / "series").glob("[!.]*")))
        # in the middle: when one more series stands
        while running.poll() is None and time.monotonic() < end:
            if len(list((tmp_path / "series").glob("[!.]*"))) > stored:
                time.sleep(random.uniform(0, 0.05))
                break
            time.sleep(0.005)
        running.kill()
        running.communicate()
    done = command(tmp_path, few / "a", few / "b")
    assert done.returncode == 0, done.stderr
    assert _tables(tmp_path) == _tables(undisturbed)
    assert _contents(tmp_path) == _contents(undisturbed)


@pytest.mark.slow
def test_two_commands_at_once_on_sources_that_overlap_lose_and_double_nothing(
    undisturbed: Path, command: Command, few: Path, tmp_path: Path
) -> None:
    one = command(tmp_path, few / "a", few / "b", wait=False)
    other = command(tmp_path, few / "b", few / "a", wait=False)
    errors = [running.communicate(timeout=300)[1] for running in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], errors
    assert _wherever_found(_tables(tmp_path)[0]) == _wherever_found(_tables(undisturbed)[0])
    assert _tables(tmp_path)[1] == _tables(undisturbed)[1]
    stored, expected = _contents(tmp_path), _contents(undisturbed)
    assert _wherever_found(map(json.loads, stored.values())) == _wherever_found(map(json.loads, expected.values()))


def _wherever_found(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the path: of a series that lies in both folders the path that the quicker command met first."""
    return [{name: value for name, value in row.items() if name != "source_path"} for row in rows]


def test_a_workspace_that_was_damaged_is_whole_after_the_next_run(
    undisturbed: Path, command: Command, few: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(undisturbed, workspace)
    folders = sorted((workspace / "series").glob("[!.]*"))
    next(folders[0].glob("volume.nii*")).unlink()
    shutil.rmtree(folders[1])
    (folders[2] / "series.json").write_text('{"half": ')
    (workspace / "series.parquet").write_bytes(b"PAR1 torn")
    for note in (workspace / "known").glob("*"):
        note.write_bytes(note.read_bytes()[:-40])
    (workspace / "series" / ".0123456789abcdef.left.tmp").mkdir()
    done = command(workspace, few / "a", few / "b")
    assert done.returncode == 0, done.stderr
    assert _tables(workspace) == _tables(undisturbed)
    assert _contents(workspace) == _contents(undisturbed)


def test_nothing_usable_is_exit_status_3_and_one_line(command: Command, tmp_path: Path) -> None:
    _source(tmp_path / "source", "no_rescale")
    (tmp_path / "source" / "note.txt").write_text("no image")
    done = command(tmp_path / "workspace", tmp_path / "source")
    assert done.returncode == 3
    assert "no usable CT series" in done.stderr
    _, rejected = _tables(tmp_path / "workspace")
    assert {row["reason"] for row in rejected} == {"no_rescale", "not_dicom"}


def test_a_full_disk_is_told_in_rows_and_the_run_after_it_completes(
    undisturbed: Path, command: Command, few: Path, tmp_path: Path
) -> None:
    with _small_disk(tmp_path / "disk", "160k") as disk:
        done = command(disk, few / "a", few / "b")
        assert done.returncode in (0, 1, 3), done.stderr
        if done.returncode == 1:  # no room for the tables themselves
            assert "disk" in done.stderr or "space" in done.stderr
        else:
            _, rejected = _tables(disk)
            assert "low_disk_space" in {row["reason"] for row in rejected}
        _contents(disk)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        done = command(disk, few / "a", few / "b")
        assert done.returncode == 0, done.stderr
        assert _tables(disk) == _tables(undisturbed)
        assert _contents(disk) == _contents(undisturbed)


def test_a_workspace_that_may_only_be_read_is_one_clear_line(command: Command, few: Path, tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk", "8m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = command(disk / "workspace", few / "a")
        assert done.returncode == 1
        assert "cannot be written" in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("noduleflow:")]) == 1
