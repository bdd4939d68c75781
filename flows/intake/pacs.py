"""Push files to a DICOMweb server or a DICOM node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, model_serializer

from flows.engine import scrubbed, step
from flows.intake.peers import dicom_node, dicomweb_server
from flows.intake.sources import PrivatePaths
from pipeline.exchange.dimse import push_dimse
from pipeline.exchange.push_result import PushResult
from pipeline.exchange.stow import push_dicomweb


class PrivateTarget(BaseModel):
    """Where to push: a DICOMweb address, or host and port of a DICOM node; Prefect sees neither."""

    url: str = ""
    node: str = ""
    called_aet: str = ""
    calling_aet: str = "NODULEFLOW"

    @model_serializer
    def hide(self) -> dict[str, str]:
        return {"target": "dicomweb" if self.url else "dicom"}


@step("push-files")
def push_files(files: PrivatePaths, target: PrivateTarget) -> PushResult:
    if target.url:
        return push_dicomweb(files.paths, dicomweb_server(target.url))
    return push_dimse(files.paths, dicom_node(target.node, target.called_aet, target.calling_aet))


@flow(name="push", log_prints=False)
def push_flow(sources: PrivatePaths, target: PrivateTarget) -> dict[str, Any]:
    """Send every file of the sources as it is; each one's fate is counted, and a failed one is named by its number.

    Numbers count the files in the order of their paths, beginning with 1.

    Raises
    ------
    ExchangeError: the receiver cannot be reached or stops answering.
    """
    files = tuple(scrubbed(_files_of)(sources))
    result = push_files(PrivatePaths(paths=files), target)
    return {
        "files": len(files),
        "stored": len(result.stored),
        "failed": len(result.failed),
        "reasons": result.reasons(),
        "failed_files": [
            {"file": number, "reason": result.failed[path]}
            for number, path in enumerate(files, start=1)
            if path in result.failed
        ],
    }


def _files_of(sources: PrivatePaths) -> list[Path]:
    files: dict[Path, None] = {}
    for source in sources.paths:
        if source.is_file():
            files[source] = None
            continue
        for folder, subfolders, names in os.walk(source):
            subfolders.sort()
            files |= dict.fromkeys(Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_file())
    return list(files)
