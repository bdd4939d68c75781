"""What a lock pins: names, exact versions, markers and digests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

_HEAD = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*(.*?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Entry:
    """One pinned package. marker: where it is installed, "" for everywhere. hashes: sha256 of its files."""

    name: str
    version: Version
    marker: str
    hashes: tuple[str, ...]


def entries_of(lock: Path) -> list[Entry]:
    """Every entry of a lock, by name; raises ValueError for a line that pins nothing."""
    found = []
    for block in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip()):
        first = block.splitlines()[0]
        if first.startswith("#"):
            continue
        head = _HEAD.match(first)
        if head is None:
            raise ValueError(f"{lock.name}: not an exact version: {first[:80]}")
        name, version, marker = head.groups()
        hashes = tuple(_HASH.findall(block))
        found.append(Entry(canonicalize_name(name), Version(version), marker or "", hashes))
    return sorted(found, key=lambda entry: entry.name)
