"""Pull from a DICOMweb server: what is new there, fetched, ingested and remembered, study by study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.params import IngestParams
from flows.engine import scrubbed
from flows.intake.batch import Order
from flows.intake.ingest import ingest_sources
from flows.intake.peers import dicomweb_server
from flows.intake.pull_request import PrivatePull
from flows.intake.pulling import Pull
from flows.running.runners import ConfiguredRunner
from flows.workspace import Workspace


@flow(name="pull", task_runner=ConfiguredRunner(), log_prints=False)
def pull_flow(
    workspace_root: str, request: PrivatePull, site: str, params: IngestParams, keep_identity: bool
) -> dict[str, Any]:
    """Fetch and ingest what a DICOMweb server has and the workspace has not; safe to kill and to run again."""
    workspace = Workspace(Path(workspace_root)).create()
    pull = Pull(workspace, request, dicomweb_server(request.url), site, params, keep_identity)
    order = Order(params, site, keep_identity, verify=False)

    def ingest(folders: tuple[Path, ...]) -> dict[str, Any]:
        return ingest_sources(workspace, folders, order, n_tasks=pull.n_tasks)

    return scrubbed(pull.run)(ingest)
