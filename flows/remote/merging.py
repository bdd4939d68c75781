"""What becomes of a file that two machines changed, where neither version may be lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from data_contracts.errors import ContractError
from flows.settings import configured_secret
from flows.workspace import Workspace


def merge_into(workspace: Workspace, name: str, theirs: Path) -> None:
    """Bring what the file `theirs` of the bucket says into the file `name` of the workspace.

    A sealed identity knows what both knew. Of a part of the annotations, which only ever loses rows to newer parts,
    the rows stay that both still have.
    """
    own = workspace.root / name
    if name.startswith("identity/"):
        _merge_identity(workspace, own, theirs)
    else:
        _merge_annotations(own, theirs)


def _merge_identity(workspace: Workspace, own: Path, theirs: Path) -> None:
    from pipeline.deidentify.vault import Vault

    secret = workspace.secret(configured_secret())
    key = own.name.partition(".")[0]
    with tempfile.TemporaryDirectory(dir=theirs.parent) as folder:
        # The name of a study is sealed with it, so the other's file needs the same one.
        shutil.copyfile(theirs, Path(folder) / own.name)
        Vault(workspace.identity_root, secret).seal(key, Vault(Path(folder), secret).open(key))


def _merge_annotations(own: Path, theirs: Path) -> None:
    from data_contracts.nodules import NODULE_TABLE

    try:
        ours, others = NODULE_TABLE.read(own), NODULE_TABLE.read(theirs)
    except ContractError:
        return
    known = {row.to_json(double_precision=10) for _, row in others.iterrows()}
    both = [row.to_json(double_precision=10) in known for _, row in ours.iterrows()]
    NODULE_TABLE.write(own, ours[both])
