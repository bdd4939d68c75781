"""What a pull, an inbox and many folders cost the Prefect server: task runs that do not grow with the studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pydicom
import pytest
from orthanc_server import Orthanc
from prefect_counts import settled_count
from small_studies import write_studies

from data_contracts.errors import WorkspaceError
from data_contracts.params import IngestParams
from flows.engine import engine
from flows.intake.inbox import inbox_flow
from flows.intake.ingest import ingest_flow
from flows.intake.listening import inbox_of
from flows.intake.looked_at import Bunches, LookedAt
from flows.intake.pull import pull_flow
from flows.intake.pull_request import PrivatePull
from flows.intake.sources import PrivatePaths
from flows.running.batches import MOST_TASKS
from flows.workspace import Workspace
from pipeline.exchange.dicomweb import PulledSeries
from pipeline.exchange.qido import FoundStudy
from pipeline.exchange.stow import push_dicomweb
from pipeline.exchange.wado import RetrievedSeries
from pipeline.exchange.web_server import WebServer

N_STUDIES = 12
PARAMS = IngestParams(keep_vault=False)

Count = Callable[[str], int]


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Count]:
    """How many runs of a kind the server knows, once it has written down all it was sent."""
    with engine(Workspace(tmp_path_factory.mktemp("prefect"))) as address:
        yield partial(settled_count, address)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_studies(tmp_path_factory.mktemp("studies"), N_STUDIES)


@pytest.mark.server
def test_a_pull_of_several_bunches_is_one_flow_run_and_some_tasks_a_bunch(
    count: Count, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.intake.looked_at._FEW_STUDIES", 2)
    monkeypatch.setattr("flows.intake.looked_at._MOST_BUNCHES", 4)
    monkeypatch.setattr("flows.intake.looked_at.MOST_TASKS", 8)
    tables: list[int] = []
    rebuild = Workspace.rebuild_series_tables
    monkeypatch.setattr(Workspace, "rebuild_series_tables", lambda self: (tables.append(1), rebuild(self))[1])
    workspace = Workspace(tmp_path / "ws").create()
    with Orthanc(tmp_path / "orthanc") as orthanc:
        assert not push_dicomweb(sorted(studies.rglob("*.dcm")), WebServer(orthanc.url)).failed
        flows, tasks = count("flow_runs"), count("task_runs")
        record = pull_flow(str(workspace.root), PrivatePull(url=orthanc.url, since="auto"), "s", PARAMS, False)
        assert record["new"] == N_STUDIES
        n_bunches = len(tables)
        assert n_bunches == 4, "12 studies in bunches of 3"
        assert count("task_runs") - tasks == 8, "two tasks a bunch; neither a list nor a table is one"
        assert count("flow_runs") - flows == 1
    assert not list((workspace.scratch_root / "pull").rglob("*.dcm"))
    assert len(workspace.series_keys()) == N_STUDIES


@pytest.mark.server
def test_an_inbox_of_many_studies_is_one_flow_run_and_some_tasks_a_bunch(
    count: Count, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.intake.inbox._FEW_STUDIES", 5)
    monkeypatch.setattr("flows.intake.inbox.MOST_TASKS", 6)
    workspace = Workspace(tmp_path / "ws").create()
    inbox = inbox_of(workspace)
    for study in sorted(studies.iterdir()):
        for file in sorted(study.iterdir()):
            head = pydicom.dcmread(file, stop_before_pixels=True)
            inbox.put("SCANNER", head.SOPClassUID, head.SOPInstanceUID, [file.read_bytes()])
    claimed = tuple(inbox.claim_settled(0))
    assert len(claimed) == N_STUDIES
    flows, tasks = count("flow_runs"), count("task_runs")
    record = inbox_flow(str(workspace.root), PrivatePaths(paths=claimed), "s", PARAMS, False)
    assert record["new"] == N_STUDIES and not record["kept_for_another_attempt"]
    assert count("task_runs") - tasks == 5, "two bunches of two tasks, and one of two studies"
    assert count("flow_runs") - flows == 1
    assert not any(folder.exists() for folder in claimed)


@pytest.mark.server
def test_many_folders_share_tasks_and_give_what_they_give_one_by_one(
    count: Count, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.intake.source_groups.MOST_GROUPS", 3)
    monkeypatch.setattr("flows.intake.ingest.MOST_TASKS", 6)
    folders = [*sorted(studies.iterdir()), sorted(studies.iterdir())[0]]
    monkeypatch.setenv("NODULEFLOW_SECRET", "counted")
    together, apart = (Workspace(tmp_path / name).create() for name in ("together", "apart"))
    before = count("task_runs")
    record = ingest_flow(str(together.root), PrivatePaths(paths=tuple(folders)), "s", PARAMS, False)
    n_tasks = count("task_runs") - before
    assert n_tasks <= 3 * (1 + 2 + 1), "three groups, each with a list, two tasks of series and a table"
    assert record["new"] == N_STUDIES
    for folder in folders:
        ingest_flow(str(apart.root), PrivatePaths(paths=(folder,)), "s", PARAMS, False)
    for table in ("series_table", "rejected_table"):
        assert getattr(together, table).read_bytes() == getattr(apart, table).read_bytes()
    assert sorted(file.name for file in together.known_root.iterdir()) == sorted(
        file.name for file in apart.known_root.iterdir()
    )


@pytest.mark.server
def test_a_folder_that_cannot_be_listed_keeps_none_before_it_from_being_stored(
    count: Count, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.intake import ingest

    monkeypatch.setattr("flows.intake.source_groups.MOST_GROUPS", 1)
    one, two = sorted(studies.iterdir())[:2]
    real = ingest.scan_source

    def broken(source: Path, *rest: object) -> object:
        if source == two:
            raise WorkspaceError("no room to unpack")
        return real(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "scan_source", broken)
    workspace = Workspace(tmp_path / "ws").create()
    with pytest.raises(WorkspaceError, match="no room to unpack"):
        ingest_flow(str(workspace.root), PrivatePaths(paths=(one, two)), "s", PARAMS, False)
    assert len(workspace.series_keys()) == 1


@pytest.mark.parametrize(("n", "megabytes"), [(60, 150), (1000, 150), (10_000, 150), (10_000, 0.1), (3000, 600)])
def test_ten_thousand_pulled_studies_cost_at_most_200_tasks_and_a_bounded_part_of_the_disk(
    n: int, megabytes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.intake.looked_at.shutil.disk_usage", lambda folder: type("", (), {"free": 300 << 30}))
    folder = tmp_path / "series"
    folder.mkdir()
    with (folder / "one.dcm").open("wb") as file:
        file.truncate(int(megabytes * 1e6))
    whole = PulledSeries("k", "1.2", 1, "", RetrievedSeries(folder, 1, 0, {}))
    bunches, tasks, waiting, most = Bunches(n, tmp_path), 0, 0.0, 0.0
    for number in range(n):
        waiting += megabytes
        most = max(most, waiting)
        if bunches.is_full(LookedAt(FoundStudy(str(number), ""), "k", [whole])) or number == n - 1:
            tasks += bunches.end()
            waiting = 0.0
    assert tasks <= 200
    assert tasks >= min(n, MOST_TASKS) // 2, "a bunch has the tasks that its share of the studies allows"
    assert most * 1e6 <= (300 << 30) / 8 + megabytes * 1e6


def test_studies_are_not_locked_for_hours_while_a_slow_server_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("flows.intake.looked_at.time.monotonic", lambda: now[0])
    bunches, series = Bunches(10_000, tmp_path), PulledSeries("k", "1.2", 1, "", RetrievedSeries(tmp_path, 1, 0, {}))
    one = LookedAt(FoundStudy("1", ""), "k", [series])
    assert not bunches.is_full(one)
    now[0] += 899
    assert not bunches.is_full(LookedAt(FoundStudy("2", "")))
    now[0] += 2
    assert bunches.is_full(LookedAt(FoundStudy("3", "")))
    assert bunches.end() == 1
    assert not bunches.is_full(LookedAt(FoundStudy("4", "")))
