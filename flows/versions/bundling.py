"""The MONAI bundle of a version as a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.place import check_place
from flows.registry import Registry
from flows.versions.version_files import BUNDLE, file_digests, new_folder
from flows.workspace import Workspace

#: what `export VERSION --format` calls it
BUNDLE_FORM = "bundle"


def export_bundle(workspace: Workspace, model_name: str, version: str, out: Path) -> bool:
    """Copy the bundle of a version to `out`, whole or not at all, after its seal was checked; whether it was made.

    Raises
    ------
    UsageError: `out` holds something else or cannot be written, or the version is older than bundles are.
    WeightsDigestError: the version is not what was registered.
    """
    check_place(out)
    source = Registry(workspace, model_name).verified_folder(version)[0] / BUNDLE
    if not source.is_dir():
        raise UsageError(f"version {version} has no bundle", todo="It was registered before versions had one.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if out.is_dir() and _digests(out) == _digests(source):
            return False
        raise UsageError(
            "the folder holds something else", where=str(out), todo="Name another; nothing is overwritten."
        )
    try:
        with new_folder(out) as made:
            shutil.copytree(source, made, dirs_exist_ok=True)
    except OSError as error:
        raise UsageError(f"the bundle cannot be written ({error.strerror})", where=out.name) from None
    return True


def _digests(folder: Path) -> dict[str, str]:
    return file_digests(folder, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])
