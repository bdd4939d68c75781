"""Facts that a person stated of patients: taken from a file, kept beside the report, used by every later review."""

from __future__ import annotations

import tomllib
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.patient_facts import StatedFacts, facts_by_study
from flows.workspace import Workspace

FACTS_NAME = "facts.json"
#: larger than the facts of ten thousand studies; what is bigger is no file of facts
_MAX_BYTES = 10_000_000


def keep_facts(workspace: Workspace, file: Path, study_keys: list[str]) -> None:
    """Keep what a file states of each study; what was stated of it before is replaced.

    Raises
    ------
    UsageError: the file cannot be read, is no TOML, or states what cannot be.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError("the file of facts is too large", where=file.name)
        values = tomllib.loads(file.read_text())
    except OSError:
        raise UsageError("the file of facts cannot be read", where=file.name) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the file of facts is no TOML: {error}", where=file.name) from None
    for key, facts in facts_by_study(values, study_keys, where=file.name).items():
        facts.write(workspace.reviews_root / key / FACTS_NAME)


def kept_facts(folder: Path) -> StatedFacts:
    """What was stated of the study whose report lies in `folder`; nothing where nobody stated anything."""
    path = folder / FACTS_NAME
    return StatedFacts.read(path) if path.is_file() else StatedFacts()
