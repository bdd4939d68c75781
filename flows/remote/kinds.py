"""What of a workspace goes to its bucket, in which order, and whose version counts where two machines have one each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: same: the name says the content. own: of one machine alone. newest: whoever writes last. merge: what both know.
#: table: made anew from its parts.
Rule = Literal["same", "own", "newest", "merge", "table"]

TABLES = ("series.parquet", "rejected.parquet", "nodules.parquet")
_NEWEST_FILES = ("preferred_series.json", "disclosure.toml")
#: what the audit of a machine is made of: file -> ending of its object
_OWN = {"audit.jsonl": "jsonl", "registry/anchor.json": "anchor.json"}
#: files whose time of change decides something
TIMED = ("annotations", "datasets")


@dataclass(frozen=True)
class Kind:
    """rank: lower ones are there before higher ones speak of them. heavy: fetched when it is asked for."""

    rule: Rule
    rank: int = 1
    heavy: bool = False


def kind_of(name: str) -> Kind | None:
    """The kind of a file by its path in the workspace; None where it stays on this machine."""
    parts = name.split("/")
    if any(part.startswith(".") or part.endswith((".tmp", ".lock", ".parts", ".next")) for part in parts):
        return None
    if name in TABLES:
        return Kind("table", 4)
    if name in _OWN:
        return Kind("own", 3)
    if name in _NEWEST_FILES:
        return Kind("newest")
    if len(parts) < 2:
        return None
    room, last = parts[0], parts[-1]
    if room == "series":
        return Kind("same", 1) if last == "series.json" else Kind("same", 0, heavy=True)
    if room == "datasets":
        return Kind("same", 1) if last == "dataset.json" else Kind("same", 0, heavy=True)
    if room == "features":
        return Kind("same", 0) if last.endswith(".json") else Kind("same", 1, heavy=True)
    if room == "runs":
        return None if "state" in parts else Kind("newest", int(last == "model_card.json"), heavy=True)
    if room == "reviews":
        light = last in ("review.json", "pacs.json") or (last.endswith(".json") and len(parts) > 3)
        return Kind("newest", int(last == "review.json"), heavy=not light)
    if room in ("annotations", "identity"):
        return Kind("merge", 2)
    return Kind("newest", 2) if room in ("rejected", "drift", "exchange", "segmenters") else None


def object_of(name: str, machine: str) -> str:
    """The object of a file: what a machine says of itself, or of its own sources, has its name in it."""
    if name in _OWN:
        return f"audit/{machine}.{_OWN[name]}"
    if name.startswith("rejected/") and "@" not in name:
        return f"{name.removesuffix('.jsonl')}@{machine}.jsonl"
    return name


def file_of(entry: str, machine: str) -> str | None:
    """The file of an object; None where it is another machine's alone, or none of a workspace."""
    for name, ending in _OWN.items():
        if entry == f"audit/{machine}.{ending}":
            return name
    if entry.startswith("rejected/") and entry.endswith(f"@{machine}.jsonl"):
        return entry.removesuffix(f"@{machine}.jsonl") + ".jsonl"
    return entry if kind_of(entry) is not None and entry not in _OWN else None
