"""The first weights of a run, out of a registered version."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import LeakError, UsageError
from data_contracts.manifest import Split
from data_contracts.params import TrainParams
from flows.datasets.training_cohort import TrainingCohort
from flows.registry import ALIASES, Registry
from flows.registry.evidence import fitted_patients
from flows.workspace import Workspace
from models.checkpoint import CHECKPOINT_FILE


def with_version_weights(
    workspace: Workspace, model_name: str, params: TrainParams, cohort: TrainingCohort
) -> tuple[TrainParams, str]:
    """`params` with the checkpoint of the version that `weights` names, and what it is called; else unchanged, and "".

    A number or an alias is a version, unless there is a file of that name.

    Raises
    ------
    UsageError: no such version, one of another backbone, or one of several networks.
    WeightsDigestError: the version is not what was registered.
    LeakError: it was fitted on patients that the run is judged on, or nobody knows any more on whom.
    """
    named = params.weights
    if not ((named.isascii() and named.isdigit()) or named in ALIASES) or Path(named).is_file():
        return params, ""
    registry = Registry(workspace, model_name)
    number = registry.resolve(named)
    folder, card = registry.verified_folder(number)
    if card.backbone != params.backbone or card.members != 1 or card.input.volumetric != "planes":
        told = f"{card.members} networks of {card.backbone}" if card.members != 1 else card.backbone
        raise UsageError(
            f"version {number} gives no weights to a plane network of {params.backbone}: it holds {told}",
            where="weights",
            todo="Name a version of that one backbone, or set backbone.",
        )
    fitted = fitted_patients(workspace, folder, card)
    index = cohort.index
    judged = set(index.loc[index["split"] == Split.TEST.value, "patient_key"])
    if fitted is None or fitted & judged:
        known = "nobody knows any more whom" if fitted is None else f"{len(fitted & judged)} patients of the test split"
        raise LeakError(
            f"version {number} may not give its weights: it learned from {known}",
            where=f"dataset {card.dataset_id}",
            todo="Choose a version that was trained on the same split.",
        )
    changed = {"weights": str(folder / CHECKPOINT_FILE), "weights_sha256": card.checkpoint_sha256}
    return params.model_copy(update=changed), f"{model_name} version {number}"
