"""Pull from a DICOMweb server: what is new there, fetched, ingested and remembered, study by study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.params import IngestParams
from flows.engine import scrubbed
from flows.intake.ingest import ingest_flow
from flows.intake.peers import dicomweb_server
from flows.intake.pull_request import PrivatePull
from flows.intake.pulling import Pull
from flows.intake.sources import PrivatePaths
from flows.workspace import Workspace


@flow(name="pull", log_prints=False)
def pull_flow(
    workspace_root: str, request: PrivatePull, site: str, params: IngestParams, keep_identity: bool
) -> dict[str, Any]:
    """Fetch and ingest what a DICOMweb server has and the workspace has not; safe to kill and to run again."""

    def ingest(folders: tuple[Path, ...]) -> dict[str, Any]:
        record: dict[str, Any] = ingest_flow(workspace_root, PrivatePaths(paths=folders), site, params, keep_identity)
        return record

    pull = Pull(
        Workspace(Path(workspace_root)).create(), request, dicomweb_server(request.url), site, params, keep_identity
    )
    return scrubbed(pull.run)(ingest)
