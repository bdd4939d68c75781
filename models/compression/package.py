"""An exported folder: what it holds, whether it is still what was written, and how it is run."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import UsageError, WeightsDigestError
from data_contracts.export_card import ExportCard
from data_contracts.records import sha256_file
from models.compression.runners import Run, open_form

CARD_FILE = "card.json"
_TODO = "Export the version again into another folder; nothing was loaded."


def read_export(folder: Path) -> ExportCard:
    """The card of an export, after every file in the folder was compared with it.

    Raises
    ------
    ContractError: there is no card, or it is none.
    WeightsDigestError: the card, or a file, is not what was written; or a file is missing, or one is too many.
    """
    card = ExportCard.read(folder / CARD_FILE)
    if card.digest != card.content_digest():
        raise WeightsDigestError("the card of the export was changed", where=CARD_FILE, todo=_TODO)
    expected = {name: sha256 for form in card.forms for name, sha256 in form.files.items()}
    for name in sorted(expected):
        if not (folder / name).is_file() or sha256_file(folder / name) != expected[name]:
            raise WeightsDigestError("a file of the export is missing or was changed", where=name, todo=_TODO)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if strangers := sorted(found - set(expected) - {CARD_FILE}):
        raise WeightsDigestError("the export holds a file that its card does not name", where=strangers[0], todo=_TODO)
    return card


def open_export(folder: Path, form: str, batch: int) -> Run:
    """What runs `batch` patches of one form, after `read_export`; raises UsageError for a form that is not there."""
    card = read_export(folder)
    for exported in card.forms:
        if exported.form == form:
            return open_form(form, folder / form, batch, card.input.patch_shape, exported.properties)
    known = ", ".join(exported.form for exported in card.forms)
    raise UsageError(f"the export has no form {form!r}", where=folder.name, todo=f"It has: {known}.")


def listed_files(folder: Path, form: str) -> tuple[dict[str, str], int]:
    """(path below `folder` -> sha256, bytes) of the files of one form."""
    paths = sorted(path for path in (folder / form).rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}
    return digests, sum(path.stat().st_size for path in paths)
