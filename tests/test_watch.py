"""ingest-watch: one source that is away stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_factory import slices_of, truth_of, write_series
from faulty_proxy import FaultyProxy
from orthanc_server import Orthanc, free_port

from data_contracts.errors import ExchangeError, UsageError
from data_contracts.params import IngestParams
from flows.engine import engine
from flows.intake.ingest import ingest_flow
from flows.intake.pull_request import PrivatePull
from flows.intake.pulling import Pull
from flows.intake.sources import PrivatePaths
from flows.scheduled.watch import watch
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan, SourcePlan
from flows.workspace import Workspace
from pipeline.exchange.stow import push_dicomweb
from pipeline.exchange.web_server import WebServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server for the flows of all tests here."""
    with engine(Workspace(tmp_path_factory.mktemp("prefect"))):
        yield


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.exchange.web_client._FIRST_PAUSE_S", 0.02)
    monkeypatch.setenv("NODULEFLOW_EXCHANGE_ATTEMPTS", "1")


@pytest.mark.parametrize("kind", ["folder", "server"])
def test_what_is_away_is_said_at_the_end_and_the_others_are_ingested(kind: str, tmp_path: Path) -> None:
    write_series(tmp_path / "ct" / "one", slices_of(truth_of(), "P1"))
    if kind == "folder":
        away = SourcePlan(path=tmp_path / "nowhere", site="north")
    else:
        away = SourcePlan(dicomweb=f"http://127.0.0.1:{free_port()}/dicom-web", site="north")
    plan = RunPlan(sources=(away, SourcePlan(path=tmp_path / "ct", site="south")))
    workspace = Workspace(tmp_path / "ws").create()
    settings = Settings(workspace=workspace.root, settle_s=0, _env_file=None)
    kind_of = UsageError if kind == "folder" else ExchangeError
    with pytest.raises(kind_of, match="1 of 2 sources failed") as failed:
        watch(workspace, settings, plan)
    assert "north: " in failed.value.what and "south" not in failed.value.what
    assert len(workspace.series_keys()) == 1


def test_a_study_that_still_grows_on_the_server_waits_and_comes_whole(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "P1")
    write_series(tmp_path / "ct", datasets)
    files = sorted((tmp_path / "ct").iterdir())
    workspace = Workspace(tmp_path / "ws").create()
    settings = Settings(workspace=workspace.root, settle_s=2, _env_file=None)
    with Orthanc(tmp_path / "orthanc") as orthanc:
        plan = RunPlan(sources=(SourcePlan(dicomweb=orthanc.url, site="north"),))
        for part in (files[:12], files[12:]):
            push_dicomweb(part, WebServer(orthanc.url))
            time.sleep(2.5)
            assert "1 studies still arriving" in watch(workspace, settings, plan).message
            assert not workspace.series_keys()
        time.sleep(2.5)
        assert watch(workspace, settings, plan).is_new
        (record,) = workspace.series_records()
        assert record.n_slices == 24
        assert watch(workspace, settings, plan).message == "nothing new"
    day = str(datasets[0].StudyDate)
    kept = [file for file in workspace.exchange_root.rglob("*") if file.is_file()]
    assert kept and not any(day in file.read_text() for file in kept)


def test_some_studies_are_one_ingest_what_is_known_is_asked_by_one_list_and_a_late_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "ws").create()
    request = PrivatePull(url="", since="auto")

    def pull(url: str, ingest: Callable[[tuple[Path, ...]], dict[str, Any]]) -> Pull:
        made = Pull(workspace, request, WebServer(url), "s", IngestParams(), False)
        if made.nothing_new() is None:
            made = Pull(workspace, request, WebServer(url), "s", IngestParams(), False)
            made.run(ingest)
        return made

    with Orthanc(tmp_path / "orthanc") as orthanc, FaultyProxy(orthanc.root) as proxy:
        for number in range(3):
            push(tmp_path / f"{number}", f"P{number}", f"2019073{number % 2}", orthanc)
        taken: list[int] = []

        def ingest(folders: tuple[Path, ...]) -> dict[str, Any]:
            taken.append(len(folders))
            return dict(ingest_flow(str(workspace.root), PrivatePaths(paths=folders), "s", IngestParams(), False))

        pull(proxy.url, ingest)
        assert taken == [3]
        proxy.seen.clear()
        assert pull(proxy.url, ingest).counts["series_known"] == 3
        assert not proxy.paths(r"/series")
        push(tmp_path / "late", "LATE", "20190615", orthanc)
        pull(proxy.url, ingest)
        assert taken == [3], "the usual look goes three days back"
        monkeypatch.setattr("flows.intake.pull_listing._LIST_ALL_S", 0.0)
        pull(proxy.url, ingest)
        assert taken == [3, 1]


def push(folder: Path, patient: str, day: str, orthanc: Orthanc) -> None:
    datasets = slices_of(truth_of(), patient)
    for dataset in datasets:
        dataset.StudyDate = day
    write_series(folder, datasets)
    assert not push_dicomweb(sorted(folder.iterdir()), WebServer(orthanc.url)).failed
