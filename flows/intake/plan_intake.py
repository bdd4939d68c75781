"""What a plan says comes in: its sources and its annotation files."""

from __future__ import annotations

from typing import Any

from flows.intake.annotation import annotate_flow
from flows.intake.ingest import ingest_flow
from flows.intake.pull import pull_flow
from flows.intake.pull_request import PrivatePull
from flows.intake.sources import existing_sources
from flows.whole.nightly_config import RunPlan, SourcePlan
from flows.workspace import Workspace


def pull_request(source: SourcePlan, settle_s: float = 0.0) -> PrivatePull:
    """What to ask a DICOMweb service for: everything since the last time, and settled."""
    return PrivatePull(url=source.dicomweb, since="auto", settle_s=settle_s)


def ingest_source(workspace: Workspace, plan: RunPlan, source: SourcePlan, *, settle_s: float = 0.0) -> dict[str, Any]:
    """Ingest one source; the record of `ingest`.

    Raises
    ------
    NothingUsableError: nothing of it could be used.
    UsageError: it is not there.
    """
    root = str(workspace.root)
    if source.path is None:
        return dict(pull_flow(root, pull_request(source, settle_s), source.site, plan.ingest, plan.keep_identity))
    paths = existing_sources((source.path,))
    return dict(ingest_flow(root, paths, source.site, plan.ingest, plan.keep_identity, settle_s=settle_s))


def annotate_all(workspace: Workspace, plan: RunPlan) -> dict[str, Any] | None:
    """Every annotation file of the plan; the record of the last, None where there is none."""
    record: dict[str, Any] | None = None
    for annotation in plan.annotations:
        files = existing_sources(annotation.files)
        record = annotate_flow(
            str(workspace.root), files, annotation.format, plan.keep_identity, annotation.coordinates, annotation.series
        )
    return record
