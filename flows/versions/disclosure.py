"""The disclosure of a run: written beside its evaluation, and again for a version when the site has stated more."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_contracts.disclosure import Disclosure
from data_contracts.errors import UsageError
from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.patches import DatasetCard
from data_contracts.records import write_bytes_atomic
from data_contracts.site_statements import read_statements, statements_template
from flows.settings import Settings
from flows.workspace import Workspace
from pipeline.review.applied_model_card import model_card_xml
from pipeline.review.disclosure import build_disclosure
from pipeline.review.disclosure_page import render_disclosure

DISCLOSURE_FILES = ("disclosure.json", "disclosure.html", "disclosure.xml")


def statements_file(workspace: Workspace) -> Path:
    """Where the site states what only it can: the setting, or disclosure.toml of the workspace."""
    return Settings().disclosure or workspace.root / "disclosure.toml"


def site_statements(workspace: Workspace) -> dict[str, str]:
    """What the site states; nothing where it has written no file.

    Raises
    ------
    UsageError: the file that the setting names is not there, or a file says what nobody asks.
    """
    path = statements_file(workspace)
    if not path.exists() and Settings().disclosure is None:
        return {}
    return read_statements(path)


def write_template(workspace: Workspace) -> Path:
    """A file with every question for the site; raises UsageError where there is one already."""
    path = statements_file(workspace)
    if path.exists():
        raise UsageError("there is a file of statements already", where=str(path), todo="Edit it, or move it away.")
    write_bytes_atomic(path, statements_template().encode())
    return path


def disclosure_of(workspace: Workspace, folder: Path, *, card: ModelCard | None = None) -> Disclosure:
    """What a run and the site tell, from evaluation.json, model_card.json and environment.json of `folder`.

    card: where the folder holds none (an evaluation on another dataset).
    """
    report = EvaluationReport.read(folder / "evaluation.json")
    card = card or ModelCard.read(folder / "model_card.json")
    environment = folder / "environment.json"
    run_environment = environment if environment.exists() else workspace.runs_root / card.run_id / "environment.json"
    return build_disclosure(
        report,
        card,
        _dataset_card(workspace, folder, report.dataset_id),
        json.loads(run_environment.read_text()) if run_environment.exists() else {},
        site_statements(workspace),
        made_on=_made_on((workspace.runs_root / card.run_id, folder)),
    )


def _made_on(folders: tuple[Path, ...]) -> str:
    """The date of a run: the one its first disclosure states, else of its evaluation; "" where both are gone."""
    for folder in folders:
        if (path := folder / "disclosure.json").is_file():
            stated = Disclosure.read(path).applied_model_card.ReleaseInfo.ReleaseDate
            if re.fullmatch(r"\d{4}-\d\d-\d\d", stated):  # disclosures of before hold a sentence
                return stated
        if (path := folder / "evaluation.json").is_file():
            return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
    return ""


def _dataset_card(workspace: Workspace, folder: Path, dataset_id: str) -> DatasetCard | None:
    """The card of a dataset: the copy in the run's folder, else of the workspace; None where both are gone."""
    for path in (folder / "dataset.json", workspace.datasets_root / dataset_id / "dataset.json"):
        if path.exists() and (card := DatasetCard.read(path)).dataset_id == dataset_id:
            return card
    return None


def write_disclosure(disclosure: Disclosure, out: Path) -> list[Path]:
    """disclosure.json, .html and .xml in the folder `out`."""
    contents = (
        disclosure.to_json().encode(),
        render_disclosure(disclosure).encode(),
        model_card_xml(disclosure.applied_model_card),
    )
    paths = [out / name for name in DISCLOSURE_FILES]
    for path, content in zip(paths, contents, strict=True):
        write_bytes_atomic(path, content)
    return paths


def disclose_version(workspace: Workspace, model_name: str, version: str) -> dict[str, Any]:
    """The card of a verified version with what the site states today, in `disclosures/<run_id>` of the workspace.

    The card that was registered with the version stays as it is: its bytes are sealed.
    """
    from flows.registry import Registry

    folder, card = Registry(workspace, model_name).verified_folder(version)
    disclosure = disclosure_of(workspace, folder, card=card)
    out = workspace.root / "disclosures" / card.run_id
    write_disclosure(disclosure, out)
    return {
        "version": version,
        "folder": str(out),
        "complete": disclosure.complete,
        "missing": list(disclosure.missing),
        "not_stated": list(disclosure.not_stated),
    }
