"""What a file holds, by its bytes: a version with a pickle in it is not registered."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from data_contracts.errors import WeightsError

_PICKLE_NAMES = (".pkl", ".pickle", ".joblib", ".dill")
#: protocol 2 and later begin so; earlier ones are text, and known by their names only
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_ZIP = b"PK\x03\x04"
_DEEPEST = 3


def refuse_pickles(paths: Iterable[Path]) -> None:
    """Raises WeightsError naming the first file that is, or holds, a pickle."""
    for path in paths:
        if place := pickled_part(path):
            raise WeightsError("a version holds a pickle, which is never loaded", where=place)


def pickled_part(path: Path) -> str:
    """Where in a file a pickle stands: its name, or name/member of an archive; "" where there is none."""
    with path.open("rb") as stream:
        return _pickled(stream, path.name, _DEEPEST)


def _pickled(stream: IO[bytes], name: str, deeper: int) -> str:
    start = stream.read(4)
    stream.seek(0)
    if name.lower().endswith(_PICKLE_NAMES) or start.startswith(_PROTOCOLS):
        return name
    if start != _ZIP or not deeper:
        return ""
    try:
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                inner = f"{name}/{entry.filename}"
                with archive.open(entry) as member:
                    head = member.read(4)
                if entry.filename.lower().endswith(_PICKLE_NAMES) or head.startswith(_PROTOCOLS):
                    return inner
                if head == _ZIP and (found := _pickled(io.BytesIO(archive.read(entry)), inner, deeper - 1)):
                    return found
                if entry.filename.endswith("_config.json") and _asks_for_pickle(archive.read(entry)):
                    return inner
                if entry.filename.endswith(".npy") and b"'descr': '|O'" in archive.read(entry)[:256]:
                    return inner
    except zipfile.BadZipFile:
        return ""
    return ""


def _asks_for_pickle(content: bytes) -> bool:
    """Whether a configuration of a .pt2 archive tells torch to unpickle a tensor."""
    try:
        config = json.loads(content)
        return any(item.get("use_pickle") for item in config.get("config", {}).values())
    except (ValueError, AttributeError):
        return False
