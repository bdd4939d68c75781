"""Notes of which reports go to the PACS: made before a study is reviewed, settled once its results are stored.

A night that is killed anywhere in between leaves the note, and the next one sends what it finds noted. Reports that a
person asked for have no note: they go nowhere by the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from data_contracts.records import write_bytes_atomic
from flows.workspace_paths import WorkspacePaths

_NAME = "pacs.json"
Standing = Literal["waiting", "stored", "nothing to store"]


def note(folder: Path, standing: Standing) -> None:
    """Say where the results of the study with this folder below reviews/ stand; the folder is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / _NAME, (json.dumps({"standing": standing}) + "\n").encode())


def note_waiting(workspace: WorkspacePaths, study_keys: Iterable[str]) -> None:
    """Say that the reports of these studies, whether or not they are written yet, go to the PACS."""
    for key in study_keys:
        note(workspace.reviews_root / key, "waiting")


def waiting(workspace: WorkspacePaths) -> list[str]:
    """Keys of studies whose results wait for the PACS, sorted; the reports of some may still have to be written."""
    notes = workspace.reviews_root.glob(f"*/{_NAME}")
    return sorted(path.parent.name for path in notes if _standing(path) == "waiting")


def _standing(path: Path) -> Standing:
    """What a note says; one that cannot be read waits: to store results again changes nothing there."""
    try:
        said: Any = json.loads(path.read_bytes())["standing"]
    except (OSError, ValueError, KeyError, TypeError):
        return "waiting"
    return "waiting" if said not in ("stored", "nothing to store") else said
