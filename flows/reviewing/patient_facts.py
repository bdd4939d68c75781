"""Facts that a person stated of patients: taken from a file, kept beside the report, used by every later review."""

from __future__ import annotations

import tomllib
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.patient_facts import StatedFacts, facts_by_study
from flows.reviewing.previous import earlier_studies
from flows.workspace import Workspace

FACTS_NAME = "facts.json"
#: larger than the facts of ten thousand studies; what is bigger is no file of facts
_MAX_BYTES = 10_000_000


def keep_facts(workspace: Workspace, file: Path, study_keys: list[str]) -> None:
    """Keep what a file states of each study; what was stated of it before is replaced.

    Raises
    ------
    UsageError: the file cannot be read, is no TOML, or states what cannot be; then nothing is kept.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError("the file of facts is too large", where=file.name)
        values = tomllib.loads(file.read_text())
    except OSError:
        raise UsageError("the file of facts cannot be read", where=file.name) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the file of facts is no TOML: {error}", where=file.name) from None
    stated = facts_by_study(values, study_keys, where=file.name)
    _check_no_earlier_ct(workspace, stated, file.name)
    for key, facts in stated.items():
        facts.write(workspace.reviews_root / key / FACTS_NAME)


def _check_no_earlier_ct(workspace: Workspace, stated: dict[str, StatedFacts], where: str) -> None:
    """Raise UsageError where a study without an earlier CT, as it was stated, has one in the workspace."""
    first = [key for key, facts in stated.items() if facts.patient.earlier_ct is False]
    every = workspace.series_records() if first else []
    for key in first:
        records = [record for record in every if record.study_key == key]
        earlier = earlier_studies(every, records) if records else {}
        if earlier:
            raise UsageError(
                f"earlier_ct = false of study {key}, but the workspace holds an earlier CT of its patient",
                where=where,
                todo=f"Leave it away, or state earlier_ct = true under [study.{key}].",
            )


def kept_facts(folder: Path) -> StatedFacts:
    """What was stated of the study whose report lies in `folder`; nothing where nobody stated anything."""
    path = folder / FACTS_NAME
    return StatedFacts.read(path) if path.is_file() else StatedFacts()
