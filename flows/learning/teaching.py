"""Which registered version teaches a training run, and that it has not seen whom the student is judged on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data_contracts.errors import LeakError, UsageError
from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from data_contracts.params import TrainParams
from flows.datasets.training_cohort import TrainingCohort
from flows.progress import say
from flows.registry import Registry
from flows.registry.evidence import fitted_patients
from flows.workspace import Workspace
from models.checkpoint import load_network
from models.compression.teacher import Teacher
from models.networks.inputs import input_spec
from pipeline.cohort.dataset import PatchReader


def with_teacher(workspace: Workspace, model_name: str, params: TrainParams, cohort: TrainingCohort) -> TrainParams:
    """`params` with the teacher's run in place of the version or alias that was named, after every check.

    Raises
    ------
    UsageError: no such version, or one that sees patches in another way.
    WeightsDigestError: the version is not what was registered.
    LeakError: it was fitted or chosen on patients that the student is chosen or judged on, or nobody knows any more on
        whom it was.
    """
    if not params.teacher:
        return params
    folder = workspace.runs_root / params.teacher
    if (folder / "model_card.json").is_file():
        card = ModelCard.read(folder / "model_card.json")
    else:
        folder, card = Registry(workspace, model_name).verified_folder(params.teacher)
    if card.training.get("common_spacing_mm", 0.0) != params.common_spacing_mm:
        raise UsageError(
            "the teacher was trained on another grid",
            where=f"common_spacing_mm={params.common_spacing_mm:g}",
            todo=f"Add --set common_spacing_mm={card.training.get('common_spacing_mm', 0.0)}.",
        )
    resolved = params.model_copy(update={"teacher": card.run_id})
    teacher = load_teacher(workspace.runs_root, resolved)
    assert teacher is not None
    teacher.check(input_spec(cohort.reader.card, params), params)
    _check_strangers(workspace, folder, card, cohort)
    return resolved


def _check_strangers(workspace: Workspace, folder: Path, card: ModelCard, cohort: TrainingCohort) -> None:
    if card.training.get("members", 1) != 1:
        say("warning: the teacher's members learned from validation patients too; the student is calibrated on them")
    fitted = fitted_patients(workspace, folder, card)
    if fitted is None:
        raise LeakError(
            "nobody knows any more whom the teacher learned from",
            where=f"dataset {card.dataset_id}",
            todo="Restore that dataset, or choose another teacher.",
        )

    known, learned = _known(workspace, card, fitted)
    judged, chosen = _patients(cohort.index, Split.TEST), _patients(cohort.index, Split.VALIDATION)
    if seen := (known & judged) | (learned & chosen):
        raise LeakError(
            f"the teacher knows {len(seen)} patients that the student is chosen or judged on",
            where=f"dataset {card.dataset_id}",
            todo="Choose a teacher that was trained on the same split.",
        )


def _known(workspace: Workspace, card: ModelCard, fitted: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Patients that the teacher saw, and those among them whose labels it learned.

    Its dataset tells the two apart; where that is gone, all count as learned.
    """
    folder = workspace.datasets_root / card.dataset_id
    if not (folder / "dataset.json").exists():
        return fitted, fitted
    index = PatchReader(folder).index
    validation, train = _patients(index, Split.VALIDATION), _patients(index, Split.TRAIN)
    return fitted | validation | train, (fitted - validation) | train


def _patients(index: pd.DataFrame, split: Split) -> frozenset[str]:
    return frozenset(index.loc[index["split"] == split.value, "patient_key"])


def load_teacher(runs_root: Path, params: TrainParams) -> Teacher | None:
    """The network of the run `params.teacher`; None where nobody teaches."""
    if not params.teacher:
        return None
    folder = runs_root / params.teacher
    card = ModelCard.read(folder / "model_card.json")
    return Teacher(load_network(folder, card), card.input)
