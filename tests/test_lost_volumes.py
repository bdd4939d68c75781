"""A volume that was deleted, emptied or cut behind our back is named, and an ingest of its source brings it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from orthanc_server import Orthanc
from small_studies import write_studies

from data_contracts.params import IngestParams
from flows.engine import engine
from flows.intake.ingest import ingest_flow
from flows.intake.known_sources import nothing_new
from flows.intake.pull import pull_flow
from flows.intake.pull_request import PrivatePull
from flows.intake.sources import PrivatePaths
from flows.oncall import checks_site
from flows.oncall.volumes import lacking_volumes
from flows.remote.address import MARK
from flows.settings import Settings
from flows.status import describe
from flows.workspace import Workspace
from pipeline.exchange.stow import push_dicomweb
from pipeline.exchange.web_server import WebServer

PARAMS = IngestParams(keep_vault=False)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with engine(Workspace(tmp_path_factory.mktemp("prefect"))):
        yield


def ingest(workspace: Workspace, source: Path) -> None:
    ingest_flow(str(workspace.root), PrivatePaths(paths=(source,)), "s", PARAMS, False)


def damage(workspace: Workspace) -> tuple[list[str], dict[str, bytes]]:
    """Delete, empty and halve a volume, and take a voxel of the fourth; the first three keys, and what each held."""
    keys = sorted(workspace.series_keys())
    volumes = [workspace.series_root / key / "volume.nii" for key in keys]
    held = {volume.parent.name: volume.read_bytes() for volume in volumes}
    volumes[0].unlink()
    volumes[1].write_bytes(b"")
    volumes[2].write_bytes(held[keys[2]][: len(held[keys[2]]) // 2])
    volumes[3].write_bytes(held[keys[3]][:-2])
    return keys[:3], held


@pytest.mark.server
def test_doctor_and_status_name_the_series_and_an_ingest_of_the_same_folder_mends_them(
    prefect: None, tmp_path: Path
) -> None:
    source, workspace = write_studies(tmp_path / "source", 4), Workspace(tmp_path / "ws").create()
    ingest(workspace, source)
    time.sleep(2.2)  # files younger than that are read again anyhow
    ingest(workspace, source)
    given = workspace, PrivatePaths(paths=(source,)), "s", PARAMS, False
    assert nothing_new(*given) is not None
    assert checks_site.tables(workspace).state == "ok"
    keys, held = damage(workspace)
    check = checks_site.tables(workspace)
    assert check.state == "failed" and "3 series lack their volume" in check.detail
    assert all(key in check.detail for key in keys) and "Ingest their source again" in check.todo
    record, _ = describe(workspace, Settings())
    assert any("3 series lack their volume" in line and "Ingest" in line for line in record["stuck"])
    assert nothing_new(*given) is None, "so that ingest-watch mends it by itself"
    ingest(workspace, source)
    assert {key: (workspace.series_root / key / "volume.nii").read_bytes() for key in held} == held
    assert checks_site.tables(workspace).state == "ok"


@pytest.mark.server
def test_a_pull_fetches_again_what_lacks_its_volume(prefect: None, tmp_path: Path) -> None:
    source, workspace = write_studies(tmp_path / "source", 2), Workspace(tmp_path / "ws").create()
    with Orthanc(tmp_path / "orthanc") as orthanc:
        assert not push_dicomweb(sorted(source.rglob("*.dcm")), WebServer(orthanc.url)).failed
        request = PrivatePull(url=orthanc.url)
        assert pull_flow(str(workspace.root), request, "s", PARAMS, False)["new"] == 2
        volume = workspace.series_root / min(workspace.series_keys()) / "volume.nii"
        held = volume.read_bytes()
        volume.unlink()
        record = pull_flow(str(workspace.root), request, "s", PARAMS, False)
    assert (record["series_fetched"], record["series_known"]) == (1, 1)
    assert volume.read_bytes() == held


def test_ten_thousand_series_are_looked_at_in_a_second_and_a_working_copy_of_a_bucket_is_not(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws").create()
    keys = [f"{number:016x}" for number in range(10_000)]
    for key in keys[1:]:
        folder = workspace.series_root / key
        folder.mkdir(parents=True)
        with (folder / "volume.nii").open("wb") as file:
            file.truncate(352 + 2 * 4 * 32 * 32)
    paths = [f"series/{key}/volume.nii" for key in keys]
    pd.DataFrame({"series_key": keys, "volume_path": paths, "shape_kji": [[4, 32, 32]] * len(keys)}).to_parquet(
        workspace.series_table
    )
    began = time.monotonic()
    assert lacking_volumes(workspace) == [keys[0]]
    assert time.monotonic() - began < 2
    (workspace.root / MARK).mkdir()
    (workspace.root / MARK / "url").write_text("s3://bucket")
    assert lacking_volumes(workspace) == []


def test_a_table_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws").create()
    workspace.series_table.write_bytes(b"PAR1 torn PAR1")
    check = checks_site.tables(workspace)
    assert check.state == "failed" and check.detail.count("series.parquet") == 1 and "volume" not in check.detail
