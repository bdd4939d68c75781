"""Class folders of images: DIR/<class>/..., or DIR/train/<class>/... and DIR/test/<class>/..."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_contracts.errors import UsageError
from data_contracts.manifest import Split
from data_contracts.reasons import ReasonCode
from pipeline.cohort.image_files import ENDINGS, MAX_FILE_BYTES

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}
#: what operating systems leave in folders
_LEFT_BEHIND = {"thumbs.db", "desktop.ini"}
_MOST_FOLDERS_DEEP = 32


@dataclass(frozen=True)
class ImageFile:
    """A file that may be an image. relative: its path below DIR. split: None where the folders do not say."""

    path: Path
    relative: str
    label_name: str
    split: Split | None


@dataclass(frozen=True)
class RefusedFile:
    """A file, or a folder, that was not taken: its path below DIR and why; `detail` does not name it."""

    relative: str
    reason: ReasonCode
    detail: str


@dataclass(frozen=True)
class ClassFolders:
    """What a folder holds.

    files: by relative path. refused: what is no image, by relative path.
    negative, positive: names of the class folders that become 0 and 1.
    """

    files: tuple[ImageFile, ...]
    refused: tuple[RefusedFile, ...]
    negative: str
    positive: str
    has_splits: bool


def scan_class_folders(folder: Path, positive: str = "") -> ClassFolders:
    """List the images of a folder without opening one; links are followed, each folder is read once.

    Parameters
    ----------
    positive: the class that becomes 1; where empty "malignant", else the last in the alphabet.

    Raises
    ------
    UsageError: not a folder, not two classes, no class of that name, or split folders beside others.
    """
    if not folder.is_dir():
        raise UsageError("not a folder", where=folder.name, todo="Name the folder that holds the class folders.")
    found = list(_walk(folder, PurePosixPath(), set()))
    has_splits = _has_splits(found)
    files, refused = [], []
    for item in found:
        if isinstance(item, RefusedFile):
            refused.append(item)
            continue
        parts = PurePosixPath(item.relative).parts
        if len(parts) < (3 if has_splits else 2):
            refused.append(RefusedFile(item.relative, ReasonCode.NOT_AN_IMAGE, "lies in no class folder"))
        else:
            split = _SPLITS[parts[0].casefold()] if has_splits else None
            files.append(ImageFile(item.path, item.relative, parts[1 if has_splits else 0], split))
    names = sorted({file.label_name for file in files})
    taken = _positive(names, positive, files)
    negative = next((name for name in names if name != taken), "")
    order = sorted(refused, key=lambda item: item.relative)
    return ClassFolders(tuple(sorted(files, key=lambda file: file.relative)), tuple(order), negative, taken, has_splits)


@dataclass(frozen=True)
class _Found:
    path: Path
    relative: str


def _walk(folder: Path, below: PurePosixPath, read: set[tuple[int, int]]) -> Iterator[_Found | RefusedFile]:
    """Everything below a folder that is not hidden; a second way to a folder, such as a loop of links, is refused."""
    try:
        state = folder.stat()
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield RefusedFile(str(below), ReasonCode.UNREADABLE, f"cannot be listed ({error.strerror})")
        return
    if (state.st_dev, state.st_ino) in read:
        yield RefusedFile(str(below), ReasonCode.UNREADABLE, "is a folder that was reached before by another way")
        return
    read.add((state.st_dev, state.st_ino))
    for entry in inside:
        relative = below / entry.name
        if entry.name.startswith(".") or entry.name.casefold() in _LEFT_BEHIND:
            continue
        path = folder / entry.name
        try:
            mode = path.stat().st_mode
            size = path.stat().st_size
        except OSError as error:
            yield RefusedFile(str(relative), ReasonCode.UNREADABLE, f"cannot be reached ({error.strerror})")
            continue
        if stat.S_ISDIR(mode):
            if len(relative.parts) > _MOST_FOLDERS_DEEP:
                yield RefusedFile(str(relative), ReasonCode.UNREADABLE, "lies too many folders deep")
            else:
                yield from _walk(path, relative, read)
        elif not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            yield RefusedFile(str(relative), ReasonCode.NOT_AN_IMAGE, "is no ordinary file")
        elif not entry.name.casefold().endswith(ENDINGS):
            yield RefusedFile(str(relative), ReasonCode.NOT_AN_IMAGE, f"does not end in {', '.join(ENDINGS)}")
        elif size > MAX_FILE_BYTES:
            yield RefusedFile(str(relative), ReasonCode.IMAGE_TOO_LARGE, f"has {size / 2**20:.0f} MiB")
        else:
            yield _Found(path, str(relative))


def _has_splits(found: Iterable[_Found | RefusedFile]) -> bool:
    """Whether the folders at the top are splits; raises UsageError where only some are."""
    items = (item for item in found if isinstance(item, _Found))
    tops = {parts[0] for parts in (PurePosixPath(item.relative).parts for item in items) if len(parts) > 1}
    splits = {name for name in tops if name.casefold() in _SPLITS}
    if splits and splits != tops:
        raise UsageError(
            f"the folders {_shown(sorted(splits))} are splits, {_shown(sorted(tops - splits))} beside them are not",
            todo="Wanted: DIR/<class>/..., or DIR/train/<class>/..., DIR/test/<class>/... and nothing beside.",
        )
    return bool(splits)


def _positive(names: list[str], wanted: str, files: list[ImageFile]) -> str:
    if not files:
        return ""  # the caller says so, after every refusal
    if len(names) != 2:
        counts = Counter(file.label_name for file in files)
        raise UsageError(
            f"{len(names)} class folders ({_shown(f'{name} {counts[name]}' for name in names)}); two are taken",
            todo="Choose the two classes of your question and leave the others out.",
        )
    if wanted and wanted not in names:
        raise UsageError(f"no class folder {wanted[:40]!r}", where="--positive", todo=f"There are {_shown(names)}.")
    by_name = next((name for name in names if name.casefold() == "malignant"), names[-1])
    return wanted or by_name


def _shown(names: Iterable[str]) -> str:
    """At most eight names, fit to print whatever they hold."""
    some = [ascii(name)[1:-1][:40] for name in names]
    return ", ".join(some[:8]) + (", ..." if len(some) > 8 else "")
