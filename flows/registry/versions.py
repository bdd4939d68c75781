"""The versions of one registered model: registered once, sealed, resolved by number or alias, and opened verified."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.errors import NoduleflowError, RegistryError, UsageError, WeightsDigestError
from data_contracts.model_card import ModelCard
from data_contracts.records import sha256_file
from data_contracts.versions import Named, VersionManifest
from flows.progress import say
from flows.registry import aliases
from flows.registry.direct import DirectClient, is_missing
from flows.registry.keys import audit_key, same, sign
from flows.registry.seal import MANIFEST_FILE, check_folder, check_model, read_manifest, write_manifest
from flows.registry.state import CHALLENGER, CHAMPION, PREVIOUS, Seen, see
from flows.remote.opening import fetched
from flows.settings import Settings, actor_name
from flows.versions import tracking
from flows.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG, MANIFEST_TAG, SEAL_TAG = "noduleflow.run_id", "noduleflow.manifest_sha256", "noduleflow.seal"
#: for a look at; what counts stands in the manifest
TRAINER_TAG = "noduleflow.trained_by"
#: all that versions of earlier programs were sealed by, one tag a file
_OLD_SEALS = ("checkpoint.safetensors", "model_card.json", "evaluation.json", "predictions.parquet")
_PURPOSE = "version"
#: more than these fit no column of MLflow's, which then fails instead of finding nothing
_MOST_DIGITS = 9


class Registry:
    """The versions of one registered model in a workspace. Opening it ends a move of the champion that was cut off."""

    def __init__(
        self, workspace: Workspace, model_name: str, *, settle: bool = True, client: MlflowClient | None = None
    ) -> None:
        self.workspace = workspace
        self.model_name = model_name
        self.client: MlflowClient = client or tracking.connect(workspace)
        if settle:
            from flows.registry.moves import settle_quietly

            settle_quietly(self)

    @classmethod
    def quick(cls, workspace: Workspace, model_name: str) -> Registry:
        """The registry for a move alone, by the short way into MLflow's database where that is known."""
        direct = DirectClient(tracking.tracking_uri(workspace))
        return cls(workspace, model_name, settle=False, client=direct if direct.fits() else None)  # type: ignore[arg-type]

    def see(self) -> Seen:
        """Aliases and the registry's account in one answer; raises RegistryError where the account is not ours."""
        return see(self.client, self.workspace, self.model_name)

    def register(self, run_id: str, mlflow_id: str) -> str:
        """Register a logged run as a version once, sealed with the sha256 of all its files, and make it challenger.

        A version that an earlier program registered, or a kill left without its seal, is sealed now.

        Raises
        ------
        WeightsError: the run holds a pickle, or is no longer what was registered.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        with self.workspace.lock("registry"):
            try:
                self.client.get_registered_model(self.model_name)
            except MlflowException:
                self.client.create_registered_model(self.model_name)
            known = {version.tags.get(RUN_TAG): version for version in self.versions()}
            if run_id in known:
                if SEAL_TAG not in known[run_id].tags:
                    self._seal(run_id, str(known[run_id].version))
                return str(known[run_id].version)
            address = self.client.get_run(mlflow_id).data.tags[tracking.MODEL_URI_TAG]
            tags = {RUN_TAG: run_id, **{f"noduleflow.sha256.{name}": self._sha256(run_id, name) for name in _OLD_SEALS}}
            with redirect_stderr(io.StringIO()):  # it announces each version on standard error
                version = str(mlflow.register_model(address, self.model_name, tags=tags).version)
            self._seal(run_id, version)
            aliases.point(self.client, self.model_name, CHALLENGER, version)
        return version

    def _seal(self, run_id: str, version: str) -> None:
        from flows.registry.evidence import write_evidence

        folder = self.folder(run_id)
        found = self.client.get_model_version(self.model_name, version)
        self._check_old_seals(folder, dict(found.tags), version)
        write_evidence(self.workspace, folder)
        model_dir = self.model_dir(version, fetch=True)
        manifest = write_manifest(folder, model_dir, run_id=run_id, trained_by=actor_name(Settings()))
        self.client.set_model_version_tag(self.model_name, version, TRAINER_TAG, actor_name(Settings()))
        self.client.set_model_version_tag(self.model_name, version, MANIFEST_TAG, manifest)
        self.client.set_model_version_tag(
            self.model_name, version, SEAL_TAG, self._signature(version, run_id, manifest)
        )
        self.attach(run_id, folder / MANIFEST_FILE)

    def _signature(self, version: str, run_id: str, manifest: str) -> str:
        return sign(audit_key(self.workspace), _PURPOSE, self.model_name, version, run_id, manifest)

    def _sha256(self, run_id: str, name: str) -> str:
        return sha256_file(self.folder(run_id) / name)

    def attach(self, run_id: str, file: Path) -> None:
        """Log a file to the tracked run of a run of the workspace, where there is one."""
        if (found := tracking.find_run(self.client, run_id)) is not None:
            self.client.log_artifact(str(found.info.run_id), str(file))

    def versions(self) -> list[Any]:
        """All versions of the model, oldest first."""
        found = self.client.search_model_versions(f"name='{self.model_name}'")
        return sorted(found, key=lambda version: int(version.version))

    def alias(self, name: str) -> str | None:
        """The version that an alias names in MLflow, whoever pointed it there, or None."""
        from flows.registry.state import raw_tag

        return (raw_tag(self.client, self.model_name)[0] or {}).get(name)

    def folder(self, run_id: str) -> Path:
        """The run folder in the workspace."""
        return self.workspace.runs_root / run_id

    def resolve(self, version: str) -> str:
        """A version number from a number or an alias.

        Raises
        ------
        UsageError: there is none.
        RegistryError: champion or previous_champion is not the one that the last promotion or rollback left.
        """
        wanted: str | None = version
        is_number = version.isascii() and version.isdigit()
        if not is_number:
            seen = self.see()
            wanted = seen.aliases.get(version)
            if version in (CHAMPION, PREVIOUS):
                _check_alias(seen, version)
        if wanted is not None and len(wanted.lstrip("0")) <= _MOST_DIGITS and self.exists(wanted):
            return str(int(wanted))
        known = ", ".join(str(found.version) for found in self.versions()) or "none; `noduleflow train` registers one"
        raise UsageError(f"no version {version!r} of {self.model_name}", todo=f"Known: {known}.")

    def exists(self, version: str) -> bool:
        """Whether MLflow has a version of this number."""
        try:
            self.client.get_model_version(self.model_name, version)
        except Exception as error:  # of MLflow, or of the short way beside it
            if is_missing(error):
                return False
            raise
        return True

    def named(self, version: str) -> Named:
        """A version with its run and the digest of its manifest, which is empty where an earlier program registered it.

        Raises
        ------
        RegistryError: its tags were changed, or it was sealed with another key.
        """
        tags = self._tags(version)
        run_id, manifest, seal = tags.get(RUN_TAG, ""), tags.get(MANIFEST_TAG, ""), tags.get(SEAL_TAG, "")
        if not run_id.isalnum():
            raise RegistryError(f"version {version} was not registered by noduleflow", where=self.model_name)
        if (manifest or seal) and not same(seal, self._signature(version, run_id, manifest)):
            raise RegistryError(
                f"version {version} is not sealed with our key, or its tags were changed",
                where=self.model_name,
                todo="Was it registered in another workspace, give both the same NODULEFLOW_AUDIT_KEY; "
                "else train it again.",
            )
        return Named(version=version, run_id=run_id, manifest_sha256=manifest)

    def verified_folder(self, version: str) -> tuple[Path, ModelCard]:
        """The run folder of a version, after every file of it and of its MLflow model was compared with its sha256.

        Raises
        ------
        WeightsDigestError: a file is missing, differs from what was registered, or is one too many.
        RegistryError: the tags of the version were changed.
        """
        number = self.resolve(version)
        folder, _ = self.verified(self.named(number))
        return folder, ModelCard.read(folder / "model_card.json")

    def verified(self, named: Named, *, fetch: bool = False) -> tuple[Path, VersionManifest]:
        """The run folder and the manifest of a version, after all its files were compared.

        fetch: compare the MLflow model too where a server holds it, which downloads it.
        """
        folder = self.folder(named.run_id)
        fetched(self.workspace, folder)
        if not folder.is_dir():
            raise WeightsDigestError(
                f"the files of version {named.version} are not in this workspace",
                where=f"runs/{named.run_id}",
                todo="Copy that folder from the workspace that trained it, or from a backup.",
            )
        if not named.manifest_sha256:
            if (folder / MANIFEST_FILE).exists():
                raise WeightsDigestError(
                    f"version {named.version} lost its seal in MLflow",
                    where=f"runs/{named.run_id}",
                    todo="Train again.",
                )
            self._check_old_seals(folder, self._tags(named.version), named.version)
            return folder, VersionManifest(run_id=named.run_id, files={})
        manifest = read_manifest(folder, named.manifest_sha256)
        check_folder(folder, manifest)
        if manifest.model_files and (model_dir := self.model_dir(named.version, fetch=fetch)) is not None:
            check_model(model_dir, manifest, model_name=self.model_name, version=named.version)
        return folder, manifest

    def model_dir(self, version: str, *, fetch: bool) -> Path | None:
        """The folder of a version's MLflow model; of a server, only where it may be fetched."""
        address = str(self.client.get_model_version_download_uri(self.model_name, version))
        local = address.removeprefix("file://") if address.startswith(("file:///", "/")) else ""
        if local:
            return Path(local)
        if not fetch:
            return None
        import mlflow

        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))

    def _tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.model_name, version).tags)

    def _check_old_seals(self, folder: Path, tags: dict[str, str], version: str) -> None:
        for name in _OLD_SEALS:
            path = folder / name
            if not path.is_file() or sha256_file(path) != tags.get(f"noduleflow.sha256.{name}"):
                raise WeightsDigestError(
                    f"version {version} is not what was registered",
                    where=f"runs/{folder.name}/{name}",
                    todo="Restore the file from a backup, or `noduleflow rollback`.",
                )


def _check_alias(seen: Seen, alias: str) -> None:
    """Raises RegistryError where an alias is not where the last move put it; either end of a move under way will do."""
    found, state = seen.aliases.get(alias), seen.state
    if state is None or found == seen.expected(alias):
        return
    before = state.before if alias == CHAMPION else state.previous_before
    if state.phase == "intent" and found == (before.version if before else None):
        return
    raise RegistryError(
        f"the alias {alias} names {'version ' + found if found else 'nothing'}, "
        f"the last promotion or rollback left it at {seen.expected(alias) or 'nothing'}",
        todo="`noduleflow doctor` says more, `noduleflow doctor --mend` puts it back.",
    )


def describe_error(error: NoduleflowError) -> None:
    """Say what stopped a repair that nobody asked for."""
    say(f"registry: {error.line()}")
