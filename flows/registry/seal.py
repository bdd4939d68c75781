"""manifest.json of a run folder: the sha256 of every file that makes a version, and what differs from it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_contracts.errors import ContractError, WeightsDigestError
from data_contracts.records import sha256_file, write_bytes_atomic
from data_contracts.versions import VersionManifest
from flows.registry.formats import refuse_pickles

MANIFEST_FILE = "manifest.json"
#: of a run, what later commands write (`explain`); no load of the network reads it
DERIVED = ("explanation", "explanation.json")
#: MLflow writes it beside a version that is loaded by name from a folder: which version that was
LOADED_FILE = "registered_model_meta"
_LOADED_MOST_BYTES = 1024
_TODO = "Restore it from a backup, or `noduleflow rollback`; nothing was loaded."
#: a file that was changed so short before is hashed again: the clock of its times may not tell two writes apart
_SETTLED_S = 2.0
_State = tuple[str, int, int, int, int, int]
_known: dict[_State, str] = {}


def write_manifest(folder: Path, model_dir: Path | None, *, run_id: str, trained_by: str) -> str:
    """Hash every file of a run and of its MLflow model, write manifest.json, and return its own sha256.

    Raises
    ------
    WeightsDigestError: there is a link, or something that is no file.
    WeightsError: a file is, or holds, a pickle.
    """
    for litter in folder.glob(".*.tmp"):  # of writes that were killed; whoever registers has the run to itself
        litter.unlink()
    run_files = listed(folder)
    model_files = listed(model_dir) if model_dir is not None else {}
    refuse_pickles([*run_files.values(), *model_files.values()])
    manifest = VersionManifest(
        run_id=run_id, files=hashed(run_files), model_files=hashed(model_files), trained_by=trained_by
    )
    write_bytes_atomic(folder / MANIFEST_FILE, manifest.to_json().encode())
    return sha256_file(folder / MANIFEST_FILE)


def read_manifest(folder: Path, sha256: str) -> VersionManifest:
    """The manifest of a run folder; raises WeightsDigestError where it is not the registered one."""
    path = folder / MANIFEST_FILE
    if not path.is_file() or path.is_symlink() or sha256_file(path) != sha256:
        raise _changed(folder, MANIFEST_FILE)
    try:
        return VersionManifest.read(path)
    except ContractError:
        raise _changed(folder, MANIFEST_FILE) from None


def check_folder(folder: Path, manifest: VersionManifest) -> None:
    """Raises WeightsDigestError where a file of the run is missing, changed or one too many."""
    _check(folder, manifest.files, f"runs/{folder.name}")


def check_model(model_dir: Path, manifest: VersionManifest, *, model_name: str = "", version: str = "") -> None:
    """The same of the artifacts of the MLflow model.

    MLflow's own note of which version it loaded from there is no file too many where it names this one. Compiled
    copies of its own code, which Python leaves there when MLflow serves it from this folder, are removed: they are made
    again from the compared source, and what was put in their place is not trusted.
    """
    _remove_compiled(model_dir, manifest.model_files)
    noted = version and _is_note_of(model_dir / LOADED_FILE, model_name, version)
    _check(model_dir, manifest.model_files, "MLflow model", {LOADED_FILE} if noted else set())


def listed(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its path, but the manifest and what later commands write.

    Raises
    ------
    WeightsDigestError: there is a link, or something that is no file.
    """
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        at_top = here == folder
        if at_top:
            folders[:] = [name for name in folders if name not in DERIVED]
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(path.lstat().st_mode):
                raise WeightsDigestError("a version holds something that is no file", where=relative, todo=_TODO)
            if not (at_top and name in (MANIFEST_FILE, *DERIVED)):
                found[relative] = path
    return found


def hashed(files: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of files by name, several at a time; one that has several names (hard links) is read once."""
    states = {name: _state(path) for name, path in sorted(files.items())}
    paths = {state: files[name] for name, state in states.items()}
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = dict(zip(paths, pool.map(_sha256, paths.values()), strict=True))
    return {name: digests[state] for name, state in states.items()}


def _check(folder: Path, expected: Mapping[str, str], place: str, noted: Set[str] = frozenset()) -> None:
    found = listed(folder) if folder.is_dir() else {}
    for name in noted - set(expected):
        found.pop(name, None)
    if missing := sorted(set(expected) - set(found)):
        raise _different("misses a file", f"{place}/{missing[0]}")
    if strangers := sorted(set(found) - set(expected)):
        raise _different("holds a file that was not registered", f"{place}/{strangers[0]}")
    digests = hashed(found)
    if changed := [name for name in sorted(expected) if digests[name] != expected[name]]:
        raise _different("is not what was registered", f"{place}/{changed[0]}")


def _is_note_of(path: Path, model_name: str, version: str) -> bool:
    """Whether a file says which version MLflow loaded from its folder, and nothing else."""
    import yaml

    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LOADED_MOST_BYTES:
        return False
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return bool(said in ({"model_name": model_name, "model_version": number} for number in (version, int(version))))


def _remove_compiled(model_dir: Path, expected: Mapping[str, str]) -> None:
    for compiled in model_dir.rglob("__pycache__/*.pyc"):
        source = compiled.parents[1] / f"{compiled.name.split('.')[0]}.py"
        if source.relative_to(model_dir).as_posix() in expected:
            compiled.unlink()


def _different(what: str, where: str) -> WeightsDigestError:
    return WeightsDigestError(f"the version {what}", where=where, todo=_TODO)


def _changed(folder: Path, name: str) -> WeightsDigestError:
    return _different("is not what was registered", f"runs/{folder.name}/{name}")


def _sha256(path: Path) -> str:
    """sha256 of a file; taken as known where its state is what it was when it was hashed here."""
    before = _state(path)
    if before in _known:
        return _known[before]
    digest = sha256_file(path)
    after = path.stat()
    if _state(path) == before and time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED_S:
        _known[before] = digest
    return digest


def _state(path: Path) -> _State:
    """Place, size and times; the names of one file have no place of their own.

    Its inode alone is not asked: some file systems give every file the same number.
    """
    found = path.stat()
    place = str(path) if found.st_nlink == 1 else ""
    return place, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
