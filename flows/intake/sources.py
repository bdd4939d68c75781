"""Sources named on the command line: they exist, and their paths stay in this process."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, model_serializer

from data_contracts.errors import UsageError


class PrivatePaths(BaseModel):
    """Paths as a flow's parameter: a path may hold a patient's name, so Prefect's database sees only their number."""

    paths: tuple[Path, ...]

    @model_serializer
    def hide(self) -> dict[str, int]:
        return {"n_paths": len(self.paths)}


def existing_sources(sources: tuple[Path, ...]) -> PrivatePaths:
    """The sources, each of which must exist; raises UsageError naming the argument, not the path's content."""
    for number, source in enumerate(sources, start=1):
        if not source.exists():
            raise UsageError(
                f"SOURCE {number} does not exist", where=str(source), todo="Name a folder, a file or an archive."
            )
        if not (source.is_dir() or source.is_file()):
            raise UsageError(
                f"SOURCE {number} is a pipe, a device or a socket",
                where=str(source),
                todo="Name a folder, a file or an archive.",
            )
        if source.is_dir() and not any(source.iterdir()):
            raise UsageError(
                f"SOURCE {number} is an empty folder", where=str(source), todo="Name one with DICOM files."
            )
        if not os.access(source, os.R_OK):
            raise UsageError(f"SOURCE {number} cannot be read", where=str(source), todo="Mend its permissions.")
    return PrivatePaths(paths=sources)
