"""Which files of a run folder are the version, and one file under several names instead of copies of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_contracts.records import sha256_file

SERVING_FILE = "serving/model.pt2"
BUNDLE = "bundle"
DATASET_FILE = "dataset.json"
#: of a run folder, what is no part of the version: networks that were not kept, what explaining it left
_WORKING = ("networks", "explanation", "explanation.json")


def version_files(folder: Path) -> list[str]:
    """Every file of a run folder that belongs to the version, as sorted paths below it."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in names if name.parts[0] not in _WORKING and not _is_temporary(name))


def _is_temporary(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def share_file(source: Path, target: Path) -> None:
    """`target` as another name of the file `source`; a copy where the disk knows no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def shared_tree(folder: Path, names: list[str], scratch_root: Path) -> Iterator[Path]:
    """A folder `version` for the duration of a block that holds some files of `folder` without copying them."""
    scratch_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="version-", dir=scratch_root) as scratch:
        tree = Path(scratch) / "version"
        tree.mkdir()
        for name in names:
            share_file(folder / name, tree / name)
        yield tree


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def file_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Path below `folder` -> sha256."""
    return {name: sha256_file(folder / name) for name in names}
