"""MLflow versions and aliases; the only writer of `champion`, `challenger` and `previous_champion`."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.errors import UsageError, WeightsDigestError
from data_contracts.model_card import ModelCard
from data_contracts.records import sha256_file
from flows import tracking
from flows.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous_champion"
#: files of a run folder that make a version what it is
_SEALED = ("checkpoint.safetensors", "model_card.json", "evaluation.json", "predictions.parquet")


class Registry:
    """The versions of one registered model in a workspace."""

    def __init__(self, workspace: Workspace, model_name: str) -> None:
        self.workspace = workspace
        self.model_name = model_name
        self.client: MlflowClient = tracking.connect(workspace)

    def register(self, run_id: str, mlflow_id: str) -> str:
        """Register a logged run as a version once, sealed with the sha256 of its files, and make it challenger."""
        import mlflow
        from mlflow.exceptions import MlflowException

        with self.workspace.lock("registry"):
            try:
                self.client.get_registered_model(self.model_name)
            except MlflowException:
                self.client.create_registered_model(self.model_name)
            known = {version.tags.get("noduleflow.run_id"): str(version.version) for version in self.versions()}
            if run_id in known:
                return known[run_id]
            seals = {f"noduleflow.sha256.{name}": sha256_file(self.folder(run_id) / name) for name in _SEALED}
            address = self.client.get_run(mlflow_id).data.tags[tracking.MODEL_URI_TAG]
            with redirect_stderr(io.StringIO()):  # it announces each version on standard error
                version = mlflow.register_model(address, self.model_name, tags={"noduleflow.run_id": run_id, **seals})
            self.client.set_registered_model_alias(self.model_name, CHALLENGER, str(version.version))
        return str(version.version)

    def attach(self, run_id: str, file: Path) -> None:
        """Log a file to the tracked run of a run of the workspace, where there is one."""
        if (found := tracking.find_run(self.client, run_id)) is not None:
            self.client.log_artifact(str(found.info.run_id), str(file))

    def versions(self) -> list[object]:
        """All versions of the model, oldest first."""
        found = self.client.search_model_versions(f"name='{self.model_name}'")
        return sorted(found, key=lambda version: int(version.version))

    def alias(self, name: str) -> str | None:
        """The version that an alias names, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(self.model_name, name).version)
        except MlflowException:
            return None

    def set_alias(self, name: str, version: str) -> None:
        """Point an alias at a version; only promotion and registration call this."""
        self.client.set_registered_model_alias(self.model_name, name, version)

    def folder(self, run_id: str) -> Path:
        """The run folder in the workspace."""
        return self.workspace.runs_root / run_id

    def resolve(self, version: str) -> str:
        """A version number from a number or an alias; raises UsageError for one that is not there."""
        wanted = self.alias(version) if not version.isdigit() else version
        numbers = [str(found.version) for found in self.versions()]  # type: ignore[attr-defined]
        if wanted is None or wanted not in numbers:
            known = ", ".join(numbers) or "none; `noduleflow train` registers one"
            raise UsageError(f"no version {version!r} of {self.model_name}", todo=f"Known: {known}.")
        return wanted

    def verified_folder(self, version: str) -> tuple[Path, ModelCard]:
        """The run folder of a version, after every sealed file was compared with its sha256.

        Raises
        ------
        WeightsDigestError: a file is missing or differs from what was registered.
        """
        tags = self.client.get_model_version(self.model_name, self.resolve(version)).tags
        folder = self.folder(tags["noduleflow.run_id"])
        for name in _SEALED:
            path = folder / name
            if not path.is_file() or sha256_file(path) != tags.get(f"noduleflow.sha256.{name}"):
                raise WeightsDigestError(
                    f"version {version} is not what was registered",
                    where=f"runs/{folder.name}/{name}",
                    todo="Restore the file from a backup, or `noduleflow rollback`.",
                )
        return folder, ModelCard.read(folder / "model_card.json")
