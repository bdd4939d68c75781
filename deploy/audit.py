"""Compare locks with a folder of advisories, without asking anybody: `audit.py --advisories DIR requirements.lock ...`.

DIR holds advisories in OSV's format (JSON, a file each, in folders or in the zip files that osv.dev publishes for the
ecosystem PyPI). Exit status: 0 none fits, 1 some do, 2 wrong usage or a lock that is none, 3 there is no advisory to
compare with, or a file of them cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lock_entries import Entry, entries_of
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

_HOW = "Put advisories of PyPI in OSV's format there (osv.dev publishes them as one zip), and name it: ADVISORIES=DIR"


class UnreadableError(Exception):
    """Advisories that are there and cannot be read: without them nothing may be called safe."""


def advisories_in(place: Path) -> Iterator[dict[str, Any]]:
    """Every advisory below a folder, in a file or a zip; what is no advisory is passed over.

    Raises
    ------
    UnreadableError: a zip is torn or encrypted. OSError: a file cannot be opened.
    """
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    for file in files:
        if file.suffix == ".json":
            yield from _advisory(file.read_bytes())
        elif file.suffix == ".zip":
            try:
                with zipfile.ZipFile(file) as archive:
                    for name in archive.namelist():
                        if name.endswith(".json"):
                            yield from _advisory(archive.read(name))
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise UnreadableError(f"{file} is no zip that can be read ({error})") from None


def _advisory(content: bytes) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(content)
    except ValueError:
        return
    if isinstance(found, dict) and found.get("id") and isinstance(found.get("affected"), list):
        yield found


def is_affected(entry: Entry, affected: dict[str, Any]) -> bool:
    """Whether one entry of `affected` (OSV schema) means a pinned version: it is listed, or in one of the ranges."""
    package = affected.get("package", {})
    if package.get("ecosystem") != "PyPI" or canonicalize_name(str(package.get("name", ""))) != entry.name:
        return False
    if any(_parsed(text) == entry.version for text in affected.get("versions", [])):
        return True
    return any(
        _is_within(entry.version, item.get("events", []))
        for item in affected.get("ranges", [])
        if item.get("type") == "ECOSYSTEM"
    )


def _is_within(version: Version, events: list[dict[str, str]]) -> bool:
    """OSV's evaluation: events in the order of their versions; `introduced` opens, the others close."""
    ordered = sorted(
        ((_parsed(text), kind) for event in events for kind, text in event.items()),
        key=lambda pair: (pair[0] is not None, pair[0] or Version("0"), pair[1] != "introduced"),
    )
    within = False
    for at, kind in ordered:
        if kind == "introduced" and (at is None or version >= at):
            within = True
        elif at is not None and ((kind == "fixed" and version >= at) or (kind == "last_affected" and version > at)):
            within = False
    return within


def _parsed(text: str) -> Version | None:
    """A version; None for "0", which is before every version, and for what is none."""
    try:
        return None if text == "0" else Version(text)
    except InvalidVersion:
        return None


def fixed_in(advisory: dict[str, Any], entry: Entry) -> str:
    """The first version above the pinned one that mends it; "" where none is named."""
    fixes = [
        parsed
        for affected in advisory["affected"]
        if canonicalize_name(str(affected.get("package", {}).get("name", ""))) == entry.name
        for item in affected.get("ranges", [])
        for event in item.get("events", [])
        if (parsed := _parsed(event.get("fixed", ""))) is not None and parsed > entry.version
    ]
    return str(min(fixes)) if fixes else ""


def main(arguments: list[str]) -> int:
    """Print what was found, one line an advisory."""
    parser = argparse.ArgumentParser(description="Compare locks with a folder of advisories.")
    parser.add_argument("--advisories", default="", help="folder, JSON file or zip of advisories in OSV's format")
    parser.add_argument("locks", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    place = Path(given.advisories) if given.advisories else None
    if place is None or not place.exists():
        print(f"audit: there are no advisories{f' at {place}' if place else ''}; nothing was compared. {_HOW}")
        return 3
    pinned: dict[str, set[Entry]] = {}
    try:
        for lock in given.locks:
            for entry in entries_of(lock):
                pinned.setdefault(entry.name, set()).add(entry)
    except (OSError, ValueError, IndexError) as error:
        print(f"audit: {lock} is no lock that can be read ({_why(error)}). Name the files that `make lock` writes.")
        return 2
    try:
        return _compare(place, pinned)
    except (OSError, UnreadableError) as error:
        print(f"audit: {_why(error)}; nothing was compared to its end. {_HOW}")
        return 3


def _why(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


def _compare(place: Path, pinned: dict[str, set[Entry]]) -> int:
    n_advisories, newest, lines = 0, "", set()
    for advisory in advisories_in(place):
        n_advisories += 1
        newest = max(newest, str(advisory.get("modified", "")))
        if advisory.get("withdrawn"):
            continue
        for affected in advisory["affected"]:
            for entry in pinned.get(canonicalize_name(str(affected.get("package", {}).get("name", ""))), ()):
                if is_affected(entry, affected):
                    names = " ".join([advisory["id"], *advisory.get("aliases", [])])
                    fix = fixed_in(advisory, entry)
                    mend = f"mended in {fix}" if fix else "no mended version is named"
                    lines.add(f"{entry.name} {entry.version}: {names}: {advisory.get('summary', '')[:120]} ({mend})")
    if not n_advisories:
        print(f"audit: there is no advisory in {place}; nothing was compared. {_HOW}")
        return 3
    print("\n".join(sorted(lines)) if lines else "no advisory fits a pinned version")
    packages = len(pinned)
    print(
        f"{packages} packages, {n_advisories} advisories, the newest of {newest or 'no stated time'}; {len(lines)} fit"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
