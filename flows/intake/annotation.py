"""Annotate: files of marks in, nodules matched to the series of the workspace and refusals out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow

from data_contracts.errors import AnnotationError, NothingUsableError
from data_contracts.nodules import NODULE_TABLE
from data_contracts.reasons import ReasonCode
from data_contracts.records import digest_of
from data_contracts.series import Rejection
from flows.engine import step
from flows.intake.sources import PrivatePaths
from flows.progress import say
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.annotations.formats import FORMATS, read_annotation_files
from pipeline.annotations.match import match_annotations
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: column of a part: keys of the files that a row comes from
_FILES = "file_keys"

Matched = tuple[pd.DataFrame, list[Rejection], dict[str, int]]


def match_files(
    workspace: Workspace,
    files: PrivatePaths,
    file_format: str,
    pseudonymizer: Pseudonymizer,
    coordinates: str,
    series: str,
) -> Matched:
    """(rows, refusals, what was left out) of files that are read together; some formats spread a nodule over many."""
    reading = read_annotation_files(files.paths, file_format, coordinates=coordinates, series=series)
    say(f"annotate: {len(reading.marks)} marks in {len(files.paths)} files")
    names = _file_names(files, pseudonymizer)
    table, refused = match_annotations(
        reading.marks, workspace.series_records(), pseudonymizer, names, workspace.nodules()
    )
    return table, refused, dict(sorted(reading.left_out.items()))


_match_step = step("annotate")(match_files)


@flow(name="annotate", log_prints=False)
def annotate_flow(
    workspace_root: str,
    files: PrivatePaths,
    file_format: str,
    keep_identity: bool,
    coordinates: str = "",
    series: str = "",
) -> dict[str, Any]:
    """Annotation files into nodules.parquet; what does not match is in rejected.parquet. See take_files."""
    workspace = Workspace(Path(workspace_root)).require()
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep_identity)
    return take_files(workspace, files, file_format, pseudonymizer, coordinates, series, match=_match_step)


def take_files(
    workspace: Workspace,
    files: PrivatePaths,
    file_format: str,
    pseudonymizer: Pseudonymizer,
    coordinates: str = "",
    series: str = "",
    match: Callable[..., Matched] = match_files,
) -> dict[str, Any]:
    """Match the files' marks and keep them; the record of what was done.

    What these files gave before is replaced, so a corrected file corrects its nodules; other files' nodules stay.

    Raises
    ------
    NothingUsableError: no mark fits a series.
    AnnotationError: the one file cannot be read; what it gave before stays.
    """
    family = "dicom" if file_format.startswith("dicom") else file_format
    keys = [digest_of([family, pseudonymizer.uid_key(str(path.resolve()))]) for path in files.paths]
    names = _file_names(files, pseudonymizer)
    try:
        table, refused, left_out = match(workspace, files, file_format, pseudonymizer, coordinates, series)
    except AnnotationError as error:
        # nothing of the files can be read: that is said in the table too, and what they gave before stays
        unread = Rejection(path=names[0], reason=ReasonCode.ANNOTATION_MALFORMED, detail=error.line())
        workspace.add_rejections(f"annotation-{keys[0]}", [unread])
        workspace.rebuild_series_tables()
        raise
    with workspace.lock("annotations"):
        earlier = _replace(workspace, keys, table)
        for key, name in zip(keys, names, strict=True):
            workspace.add_rejections(f"annotation-{key}", [item for item in refused if item.path == name])
        workspace.rebuild_series_tables()
        nodules = workspace.rebuild_nodule_table()
    reasons = dict(sorted(Counter(item.reason.value for item in refused).items()))
    if table.empty:
        if earlier:
            say(f"annotate: the files' {earlier} earlier marks were taken out of the workspace")
        raise NothingUsableError(
            "no annotation matches a series of the workspace",
            where=", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "the files hold no nodule",
            todo=_first_words(refused) or "Ingest the series first; rejected.parquet lists each mark with its reason.",
        )
    return {
        "marks": len(table),
        "nodules": int(nodules["nodule_id"].nunique()),
        "n_refused": len(refused),
        "refused": reasons,
        "left_out": left_out,
        "coordinates": coordinates or FORMATS[file_format][0],
        "series_keys": sorted(set(table["series_key"])),
        "replaced": earlier,
    }


def _file_names(files: PrivatePaths, pseudonymizer: Pseudonymizer) -> list[str]:
    """How each file is called in a refusal: its name, pseudonymised like every path, and its number where several."""
    names = [pseudonymizer.path(path.name) for path in files.paths]
    if len(names) == 1:
        return names
    return [f"{name} (file {number})" for number, name in enumerate(names, start=1)]


def _first_words(refused: list[Rejection]) -> str:
    """The first refusal that says more than where it stands."""
    words = next((item.detail for item in refused if ": " in item.detail), "")
    return f"The first: {words}. rejected.parquet lists each mark with its reason." if words else ""


def _replace(workspace: Workspace, keys: list[str], table: pd.DataFrame) -> int:
    """Write the rows as a part and take out of the other parts what came from the same files; rows taken out.

    The new part stands before old rows go: a kill in between leaves rows to be replaced by the next run.
    """
    own = workspace.annotation_parts / f"{digest_of(sorted(keys))}.parquet"
    earlier = 0
    parts = sorted(workspace.annotation_parts.glob("*.parquet"))
    if own in parts:
        earlier += len(NODULE_TABLE.read(own))
    if len(table):
        by_number = dict(enumerate(keys, start=1))
        origin = [[by_number[number] for number in numbers] for numbers in table["file_numbers"]]
        NODULE_TABLE.write(own, table.drop(columns="file_numbers").assign(**{_FILES: origin}))
    else:
        own.unlink(missing_ok=True)
    given = set(keys)
    for part in parts:
        if part == own:
            continue
        rows = NODULE_TABLE.read(part)
        stale = [bool(given & set(origin)) for origin in rows.get(_FILES, [[]] * len(rows))]
        earlier += sum(stale)
        if all(stale):
            part.unlink()
        elif any(stale):
            NODULE_TABLE.write(part, rows[[not gone for gone in stale]])
    return earlier
