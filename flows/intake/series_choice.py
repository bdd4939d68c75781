"""Which series of each study of a workspace is chosen, by the preference that was last stated."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_contracts.errors import ContractError, NoduleflowError
from data_contracts.params import IngestParams
from data_contracts.records import write_bytes_atomic
from data_contracts.series import SeriesRecord
from pipeline.intake.series_choice import choose_series

_PREFERENCE = ("preferred_kernel", "preferred_thickness_mm")


def remember_preference(file: Path, params: IngestParams) -> None:
    """Keep in `file` the preference of an ingest, as far as it states one; what it leaves open stays as it was."""
    stated = {name: getattr(params, name) for name in _PREFERENCE if name in params.model_fields_set}
    if stated:
        kept = {name: getattr(remembered_preference(file), name) for name in _PREFERENCE}
        write_bytes_atomic(file, (json.dumps({**kept, **stated}, indent=2) + "\n").encode())


def states_another(file: Path, params: IngestParams) -> bool:
    """Whether an ingest states a preference that is not the one in `file`."""
    stated = [name for name in _PREFERENCE if name in params.model_fields_set]
    return bool(stated) and any(getattr(remembered_preference(file), name) != getattr(params, name) for name in stated)


def remembered_preference(file: Path) -> IngestParams:
    """Parameters with the preference in `file`, or the default ones; raises ContractError for a broken file."""
    try:
        return IngestParams.from_mapping(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return IngestParams()
    except (OSError, ValueError, TypeError, NoduleflowError):
        raise ContractError(
            "the preference of series cannot be read", where=file.name, todo="Delete it; the next ingest may state it."
        ) from None


def choices(records: Iterable[SeriesRecord], params: IngestParams) -> dict[str, tuple[bool, str]]:
    """For each series key whether it is the chosen one of its study, and why."""
    studies: dict[str, list[SeriesRecord]] = defaultdict(list)
    for record in records:
        studies[record.study_key].append(record)
    found = {}
    for members in studies.values():
        choice = choose_series(members, params)
        found |= {key: (key == choice.series_key, why) for key, why in choice.reasons.items()}
    return found


def to_be_read(records: Sequence[SeriesRecord], annotated: set[str], params: IngestParams) -> list[SeriesRecord]:
    """Of the series of one study the chosen one first, then the others that carry annotations."""
    if not records:
        return []
    key = choose_series(records, params).series_key
    chosen = [record for record in records if record.series_key == key]
    return chosen + [record for record in records if record.series_key in annotated - {key}]
