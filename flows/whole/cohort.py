"""The demo's cohort: phantoms as DICOM beside the workspace, and a workspace that takes nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.params import PhantomParams
from data_contracts.records import atomic_path
from flows.progress import stage
from flows.workspace import Workspace
from pipeline.cohort.phantom import generate_cohort


def cohort_folder(workspace: Workspace) -> Path:
    """Beside the workspace, because its headers hold (invented) identities."""
    return workspace.root.with_name(f"{workspace.root.name}-cohort")


def phantom_params(*, fast: bool, seed: int) -> PhantomParams:
    """The demo's cohort; `fast` is coarser, with as many nodules a patient."""
    if not fast:
        return PhantomParams(seed=seed, n_patients=60)
    return PhantomParams(seed=seed, n_patients=40, matrix=192, spacing_a_mm=2.5, spacing_b_mm=4.0)


def make_phantoms(workspace: Workspace, *, fast: bool, seed: int) -> None:
    """Make the patients that are not there yet; raises UsageError where the workspace holds other studies."""
    _fix_secret(workspace, seed)
    params = phantom_params(fast=fast, seed=seed)
    with stage("phantom", params.n_patients) as progress:
        generate_cohort(params, cohort_folder(workspace), on_patient=lambda n: progress.advance(f"patient {n + 1}"))


def _fix_secret(workspace: Workspace, seed: int) -> None:
    """Phantoms are nobody: a known key makes the demo's splits, and so its figures, the same everywhere."""
    secret = hashlib.sha256(f"noduleflow demo {seed}".encode()).hexdigest() + "\n"
    with workspace.lock("secret"):
        if workspace.secret_file.exists() and workspace.secret_file.read_text() == secret:
            return
        if workspace.secret_file.exists() or workspace.series_root.exists():
            raise UsageError(
                "the workspace holds other studies, and phantoms must not mix with them",
                where=str(workspace.root),
                todo="Name an empty one: noduleflow --workspace DIR demo.",
            )
        with atomic_path(workspace.secret_file, mode=0o600) as temporary:
            temporary.write_text(secret)
