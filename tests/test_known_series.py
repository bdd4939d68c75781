"""A source that was ingested is known again: what did not change is not read, and what changed is never missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dicom_factory import body_hu, save, slices_of, truth_of
from pydicom.uid import ExplicitVRLittleEndian

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from flows.intake import known_sources
from flows.intake.known_sources import SourceMemory, nothing_new, refusals_of, study_keys_of
from flows.intake.sources import PrivatePaths
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.reader import HeaderReader
from pipeline.intake import known_scan
from pipeline.intake.ingest_series import ingest_series
from pipeline.intake.known_scan import SAMPLED_FILES, KnownScan, scan_source
from pipeline.intake.known_source import FileDigests, KnownSource
from pipeline.intake.verify import discard_damaged, told_otherwise

N_SERIES, N_SLICES = 25, 4
PARAMS = IngestParams()


@pytest.fixture(scope="module")
def blobs() -> list[bytes]:
    """The slices of one small series, as files."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    files = []
    for ds in slices_of(truth_of(body_hu(N_SLICES, 32, 32)), "Mueller^P1"):
        path = folder / f"blob-{os.getpid()}.dcm"
        save(ds, path, ExplicitVRLittleEndian)
        files.append(path.read_bytes())
        path.unlink()
    return files


def series_files(blobs: list[bytes], number: int) -> list[bytes]:
    """Series `number`: the same slices under UIDs and with a pixel of their own."""
    tail = b"%05d" % number
    files = []
    for content in blobs:
        for tag in (b"\x08\x00\x18\x00UI", b"\x20\x00\x0d\x00UI", b"\x20\x00\x0e\x00UI"):
            place = content.index(tag)
            end = place + 8 + int.from_bytes(content[place + 6 : place + 8], "little")
            end -= content[end - 1 : end] == b"\0"
            content = content[: end - 5] + tail + content[end:]
        files.append(content[:-2] + (number % 500).to_bytes(2, "little"))
    return files


def put(path: Path, content: bytes, age_s: float = 3600) -> Path:
    """A file that was written some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def source(tmp_path: Path, blobs: list[bytes]) -> Path:
    """A folder of series, a text file and no more."""
    for number in range(N_SERIES):
        for index, content in enumerate(series_files(blobs, number)):
            put(tmp_path / "in" / f"Mueller {number:03d}" / f"{index}.dcm", content)
    put(tmp_path / "in" / "notes.txt", b"Befund von Mueller")
    return tmp_path / "in"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws").create()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every header that is read."""
    found: list[str] = []
    read = HeaderReader.read

    def noted(self: HeaderReader, path: Path, relative: str) -> Any:
        found.append(relative)
        return read(self, path, relative)

    monkeypatch.setattr(HeaderReader, "read", noted)
    return found


def memory_of(source: Path, workspace: Workspace, params: IngestParams = PARAMS, site: str = "s") -> SourceMemory:
    return SourceMemory.of(source, workspace, Pseudonymizer(workspace.secret()), params, site)


def ingest(source: Path, workspace: Workspace, site: str = "s") -> tuple[KnownScan, list[SeriesRecord | Rejection]]:
    """What the flow does, without its tasks."""
    memory = memory_of(source, workspace, site=site)
    scratch = workspace.scratch_root / "x"
    scan = scan_source(source, memory.pseudonymizer, memory.known, scratch, workspace.series_root)
    assert scan is not None
    outcomes = {
        raw.group_key: ingest_series(raw, memory.pseudonymizer, PARAMS, workspace.series_root, site)
        for raw in scan.discovery.series
    }
    items = [item for outcome in outcomes.values() for item in outcome]
    workspace.add_rejections(memory.key, refusals_of(scan, items))
    workspace.rebuild_series_tables()
    memory.note(scan, outcomes, tables=True)
    return scan, items


def accepted(scan: KnownScan, items: list[SeriesRecord | Rejection]) -> set[str]:
    return set(study_keys_of(scan, items))


def test_a_second_scan_reads_a_few_files_to_be_sure_and_no_other(
    source: Path, workspace: Workspace, reads: list[str]
) -> None:
    first = accepted(*ingest(source, workspace))
    assert len(first) == N_SERIES and len(reads) == N_SERIES * N_SLICES + 1
    reads.clear()
    scan, items = ingest(source, workspace)
    assert items == [] and scan.discovery.series == ()
    assert accepted(scan, items) == first
    assert [row.reason for row in scan.discovery.rejections] == [ReasonCode.NOT_DICOM]
    assert 0 < len(reads) <= SAMPLED_FILES + SAMPLED_FILES // 4


def test_what_is_kept_names_nobody(source: Path, workspace: Workspace) -> None:
    ingest(source, workspace)
    (file,) = workspace.known_root.iterdir()
    content = file.read_bytes()
    with zipfile.ZipFile(file) as parts:
        content += b"".join(parts.read(name) for name in parts.namelist())
    for word in (b"Mueller", b"notes", b".dcm", b"1.2.826", str(source).encode()):
        assert word not in content
    assert file.stat().st_mode & 0o777 == 0o600


def changed_slice(source: Path, blobs: list[bytes]) -> None:
    content = series_files(blobs, 7)[1]
    put(source / "Mueller 007" / "1.dcm", content[:-4] + b"\x01\x02\x03\x04", age_s=1800)


def new_slice(source: Path, blobs: list[bytes]) -> None:
    put(source / "elsewhere" / "a", series_files(blobs, 7)[1], age_s=1800)


def gone_slice(source: Path, blobs: list[bytes]) -> None:
    (source / "Mueller 007" / "0.dcm").unlink()


def moved_slice(source: Path, blobs: list[bytes]) -> None:
    (source / "Mueller 007" / "0.dcm").rename(source / "Mueller 007" / "moved.dcm")


def touched_slice(source: Path, blobs: list[bytes]) -> None:
    os.utime(source / "Mueller 007" / "2.dcm")


def unreadable_beside(source: Path, blobs: list[bytes]) -> None:
    content = series_files(blobs, 7)[0]
    put(source / "Mueller 007" / "torn.dcm", content[: content.index(b"\x10\x00\x10\x00PN") + 3])


@pytest.mark.parametrize(
    "change", [changed_slice, new_slice, gone_slice, moved_slice, touched_slice, unreadable_beside]
)
def test_a_change_makes_its_series_read_again_whole_and_no_other(
    source: Path,
    workspace: Workspace,
    blobs: list[bytes],
    change: Callable[[Path, list[bytes]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingest(source, workspace)
    change(source, blobs)
    monkeypatch.setattr(known_scan, "SAMPLED_FILES", 0)
    scan, _ = ingest(source, workspace)
    assert len(scan.discovery.series) == 1 and len(scan.standing) == N_SERIES - 1
    (raw,) = scan.discovery.series
    here = {path.relative_to(source).as_posix() for path in (source / "Mueller 007").iterdir()} - {
        "Mueller 007/torn.dcm"
    }
    assert here <= {header.relative for header in raw.slices}
    assert raw.unreadable_beside == (change is unreadable_beside)
    scan, items = ingest(source, workspace)
    assert accepted(scan, items) | {row.reason for row in items if isinstance(row, Rejection)}
    if change is not touched_slice:  # touched a moment ago: it is not yet taken for settled
        assert scan.discovery.series == () and len(scan.standing) == N_SERIES


def test_a_file_beside_that_can_be_read_again_makes_its_neighbours_read_again(
    source: Path, workspace: Workspace, blobs: list[bytes]
) -> None:
    unreadable_beside(source, blobs)
    scan, _ = ingest(source, workspace)
    assert sorted(raw.unreadable_beside for raw in scan.discovery.series)[-2:] == [0, 1]
    (source / "Mueller 007" / "torn.dcm").unlink()
    scan, _ = ingest(source, workspace)
    assert [raw.unreadable_beside for raw in scan.discovery.series] == [0]


@pytest.mark.parametrize("harm", ["volume gone", "volume cut", "record gone", "all gone"])
def test_a_series_that_does_not_stand_whole_is_made_again(source: Path, workspace: Workspace, harm: str) -> None:
    _, items = ingest(source, workspace)
    record = next(item for item in items if isinstance(item, SeriesRecord))
    folder = workspace.series_root / record.series_key
    for path in sorted(folder.iterdir()):
        if harm == "all gone" or path.name.startswith(harm.split()[0].replace("record", "series")):
            path.write_bytes(path.read_bytes()[:-9]) if harm.endswith("cut") else path.unlink()
    if harm == "all gone":
        folder.rmdir()
    scan, again = ingest(source, workspace)
    assert len(scan.discovery.series) == 1
    if harm != "volume cut":
        assert [item.series_key for item in again if isinstance(item, SeriesRecord)] == [record.series_key]


def test_another_policy_site_program_or_secret_knows_nothing(
    source: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(source, workspace)
    assert memory_of(source, workspace).known.tables
    assert memory_of(source, workspace, PARAMS.model_copy(update={"min_slices": 4})).known.files == {}
    assert memory_of(source, workspace, site="other").known.files == {}
    monkeypatch.setattr(known_sources, "program_digest", lambda: "newer")
    assert memory_of(source, workspace).known.files == {}


def test_a_sample_that_is_not_what_it_was_makes_everything_read_again(
    source: Path, workspace: Workspace, reads: list[str]
) -> None:
    ingest(source, workspace)
    for path in source.rglob("*.dcm"):  # another slope in each file, under the same size, time and inode
        state, content = path.stat(), path.read_bytes()
        with path.open("r+b") as stream:
            stream.write(content.replace(b"\x28\x00\x53\x10DS\x04\x001.0 ", b"\x28\x00\x53\x10DS\x04\x001.2 "))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    reads.clear()
    scan, _ = ingest(source, workspace)
    assert scan.distrusted and len(scan.discovery.series) == N_SERIES
    assert {header.rescale_slope for raw in scan.discovery.series for header in raw.slices} == {1.2}


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", b"junk" * 100])
def test_a_torn_memory_is_no_memory(source: Path, workspace: Workspace, content: bytes) -> None:
    ingest(source, workspace)
    (file,) = workspace.known_root.iterdir()
    for kept in (content, file.read_bytes()[:-200]):
        file.write_bytes(kept)
        assert memory_of(source, workspace).known == KnownSource(memory_of(source, workspace).known.context)


def test_a_file_that_was_written_a_moment_ago_is_read_once_more(
    source: Path, workspace: Workspace, blobs: list[bytes]
) -> None:
    for index, content in enumerate(series_files(blobs, 99)):
        put(source / "new" / f"{index}", content, age_s=0)
    ingest(source, workspace)
    scan, _ = ingest(source, workspace)
    assert len(scan.discovery.series) == 1 and len(scan.standing) == N_SERIES


def test_refusals_that_may_pass_are_tried_again(
    source: Path, workspace: Workspace, blobs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of(source, workspace)
    scan = scan_source(source, memory.pseudonymizer, memory.known, workspace.scratch_root, workspace.series_root)
    assert scan is not None
    full = Rejection(path="x", reason=ReasonCode.LOW_DISK_SPACE)
    few = Rejection(path="x", reason=ReasonCode.TOO_FEW_SLICES)
    outcomes = {raw.group_key: [full if index else few] for index, raw in enumerate(scan.discovery.series)}
    memory.note(scan, outcomes, tables=True)
    again = scan_source(
        source, memory.pseudonymizer, memory_of(source, workspace).known, workspace.scratch_root, workspace.series_root
    )
    assert again is not None
    assert (len(again.discovery.series), len(again.standing)) == (N_SERIES - 1, 1)


def test_a_run_that_is_killed_knows_what_it_had_ingested(source: Path, workspace: Workspace) -> None:
    memory = memory_of(source, workspace)
    scan = scan_source(source, memory.pseudonymizer, memory.known, workspace.scratch_root, workspace.series_root)
    assert scan is not None
    outcomes = {
        raw.group_key: ingest_series(raw, memory.pseudonymizer, PARAMS, workspace.series_root, "s")
        for raw in scan.discovery.series[:5]
    }
    memory.note(scan, outcomes, tables=False)
    assert nothing(source, workspace) is None
    again, items = ingest(source, workspace)
    assert len(again.standing) == 5 and len(items) == N_SERIES - 5


def nothing(source: Path, workspace: Workspace, site: str = "s") -> dict[str, Any] | None:
    return nothing_new(workspace, PrivatePaths(paths=(source,)), site, PARAMS, False)


def test_an_ingest_with_nothing_to_do_has_the_record_of_one_that_did_it(
    source: Path, workspace: Workspace, blobs: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nothing(source, workspace) is None
    put(source / "torn.dcm", series_files(blobs, 7)[0][:400])
    first = accepted(*ingest(source, workspace))
    record = nothing(source, workspace)
    assert record is not None
    assert record["series_keys"] == sorted(first) and len(record["study_keys"]) == N_SERIES
    assert (record["accepted"], record["new"], record["already_there"]) == (N_SERIES, 0, N_SERIES)
    assert record["refused"] == {"not_dicom": 1, "unreadable": 1} and record["n_refused"] == 2
    assert "nothing to do" in capsys.readouterr().err
    assert nothing(source, workspace, "other") is None
    workspace.series_table.unlink()
    assert nothing(source, workspace) is None


@pytest.mark.parametrize("change", [changed_slice, new_slice, gone_slice, moved_slice, unreadable_beside])
def test_an_ingest_with_something_to_do_is_not_answered_from_memory(
    source: Path, workspace: Workspace, blobs: list[bytes], change: Callable[[Path, list[bytes]], None]
) -> None:
    ingest(source, workspace)
    assert nothing(source, workspace) is not None
    change(source, blobs)
    assert nothing(source, workspace) is None


def test_an_archive_is_known_as_a_whole(source: Path, workspace: Workspace, tmp_path: Path) -> None:
    packed = tmp_path / "study.zip"
    with zipfile.ZipFile(packed, "w") as out:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                out.write(path, path.relative_to(source))
    put(packed, packed.read_bytes())
    first = accepted(*ingest(packed, workspace))
    scan, items = ingest(packed, workspace)
    assert items == [] and scan.discovery.series == () and accepted(scan, items) == first
    assert [row.reason for row in scan.discovery.rejections] == [ReasonCode.NOT_DICOM]
    assert not (workspace.scratch_root / "x").exists() or len(list((workspace.scratch_root / "x").iterdir())) > 100
    put(packed, packed.read_bytes(), age_s=60)
    assert len(ingest(packed, workspace)[0].discovery.series) == N_SERIES


def test_verification_finds_damaged_volumes_and_files_that_changed_in_secret(
    source: Path, workspace: Workspace
) -> None:
    _, items = ingest(source, workspace)
    records = [item for item in items if isinstance(item, SeriesRecord)]
    volume = workspace.root / records[3].volume_path
    content = volume.read_bytes()
    volume.write_bytes(content[:-2] + bytes(2 * [content[-1] ^ 1]))
    assert discard_damaged(items, workspace.series_root) == [records[3].series_key]
    assert not volume.exists()
    memory = memory_of(source, workspace)
    digests = FileDigests(memory.pseudonymizer.secret)
    scan = scan_source(source, memory.pseudonymizer, KnownSource(""), workspace.scratch_root, workspace.series_root)
    assert scan is not None
    keys = {group.key: [item for item in records if item.series_key in {one.series_key for one in group.series}]
            for group in memory.known.groups}  # fmt: skip
    assert told_otherwise(memory.known, scan, keys, digests) == []
    done = scan.discovery.files[5]
    assert done.header is not None
    other = replace(done, header=replace(done.header, rescale_slope=2.0))
    files = tuple(other if file is done else file for file in scan.discovery.files)
    altered = replace(scan, discovery=replace(scan.discovery, files=files))
    gone = next(iter(keys))
    keys[gone] = [Rejection(path="", reason=ReasonCode.IMPLAUSIBLE_HU)]
    told = told_otherwise(memory.known, altered, keys, digests)
    assert len(told) == 2 and "1 files" in told[0] and "other pixels" in told[1]


@pytest.mark.server
@pytest.mark.slow
def test_the_command_starts_no_server_for_nothing_and_verify_reads_everything(source: Path, tmp_path: Path) -> None:
    def run(*options: str) -> tuple[dict[str, Any], str]:
        command = [sys.executable, "-m", "flows", "--workspace", str(tmp_path / "cli"), "--json", "ingest", str(source)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout), done.stderr

    first, told = run()
    assert first["new"] == N_SERIES and told.count("slices") == N_SERIES
    log = tmp_path / "cli" / "prefect" / "server.log"
    before = log.stat().st_mtime_ns
    second, told = run()
    assert log.stat().st_mtime_ns == before, "a server was started"
    assert "nothing to do" in told and second["already_there"] == N_SERIES
    assert {**second, "new": N_SERIES, "already_there": 0} == first
    victim = tmp_path / "cli" / "series" / first["series_keys"][0] / "volume.nii"
    content = victim.read_bytes()
    victim.write_bytes(content[:-2] + b"\x01\x01")
    third, told = run("--verify")
    assert len(third["differences"]) == 1 and first["series_keys"][0] in third["differences"][0]
    assert victim.read_bytes() == content
    assert run("--verify")[0]["differences"] == []
