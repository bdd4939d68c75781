"""ingest-watch: one source that is away stops no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_factory import slices_of, truth_of, write_series
from orthanc_server import free_port

from data_contracts.errors import ExchangeError, UsageError
from flows.engine import engine
from flows.scheduled.watch import watch
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan, SourcePlan
from flows.workspace import Workspace

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
