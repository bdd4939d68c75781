"""DICOMDIR (PS3.3 annex F): the files that a file-set's directory names, and which of them are not there."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from pydicom import dcmread

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
#: a directory of a hundred thousand files has some 50 MB
_MAX_BYTES = 64 << 20


def missing_files(path: Path, relative: str, there: Collection[str]) -> list[str]:
    """Paths below the source that a DICOMDIR names and that are not among those `there`; [] where it cannot be read.

    Media write names in capitals or not, and with a version; both count as the same file (PS3.10 section 8.5).
    path, relative: of the DICOMDIR. there: paths below the source, as `folded` gives them.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            return []
        records = (
            dcmread(io.BytesIO(content), specific_tags=["DirectoryRecordSequence"]).get("DirectoryRecordSequence") or []
        )
    except Exception:  # a broken directory names nothing
        return []
    folder = PurePosixPath(relative).parent
    missing: dict[str, None] = {}
    for record in records:
        try:
            named = record.get("ReferencedFileID")
            parts = [named] if isinstance(named, str) else [str(part) for part in named or ()]
        except Exception:  # as above
            continue
        clean = [part.strip() for part in parts if part.strip() not in ("", ".", "..")]
        if len(clean) != len(parts) or not clean or any("/" in part or "\0" in part for part in clean):
            continue
        name = folder.joinpath(*clean).as_posix()
        if folded(name) not in there:
            missing[name] = None
    return list(missing)


def folded(relative: str) -> str:
    """A path as it compares between a medium and its copy on a disk."""
    return relative.split(";")[0].rstrip(".").casefold()
