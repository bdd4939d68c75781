"""Whether two workspaces are the same: byte for byte where the content decides, by what they say where time does.

Two undisturbed nights tell which is which: files that are the same in both must be the same after chaos; of the others
(times, random identifiers) the same ones must be there.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

#: caches, locks and histories of servers: not what a site keeps
_PASSED_OVER = re.compile(
    r"^(prefect|cache|\.locks|\.users|known|identity/\.locks|scratch)(/|$)|-(wal|shm|journal)$|^mlflow\.db$"
)
#: what its inputs alone decide
_BY_CONTENT = re.compile(
    r"^(series/|datasets/|features/|annotations/|rejected/|series\.parquet|rejected\.parquet|nodules\.parquet"
    r"|runs/\w+/(checkpoint\.safetensors|model_card\.json|predictions\.parquet|cohort\.json))"
)
#: what prints the minute in which it was made
_BY_THE_CLOCK = re.compile(r"^reviews/\w+/report\.(html|pdf)$")
#: names that hold a time or a random number
_VARYING = (
    (re.compile(r"^mlartifacts/.*$"), "mlartifacts/*"),
    (re.compile(r"\d{8}T\d{12}"), "<time>"),
    (re.compile(r"^(drift/.*-)[0-9a-f]{16}(\.parquet)$"), r"\1<digest>\2"),
    (re.compile(r"^(reviews/\w+/answerable/)[0-9a-f]{16}(\.json)$"), r"\1<digest>\2"),
)


@dataclass(frozen=True)
class Contents:
    """name -> digests of the files of that name, times and random numbers in names replaced."""

    files: dict[str, frozenset[str]]
    registry: dict[str, object]

    @classmethod
    def of(cls, workspace: Path) -> Contents:
        """What a workspace holds."""
        files: dict[str, set[str]] = {}
        for path in sorted(workspace.rglob("*")):
            name = path.relative_to(workspace).as_posix()
            if path.is_file() and not _PASSED_OVER.search(name):
                for pattern, other in _VARYING:
                    name = pattern.sub(other, name)
                files.setdefault(name, set()).add(hashlib.sha256(path.read_bytes()).hexdigest())
        return cls({name: frozenset(found) for name, found in files.items()}, _registry(workspace))

    def stable(self, other: Contents) -> set[str]:
        """Names of the files that are the same in both, and not because both were written in the same minute."""
        same = {name for name, digests in self.files.items() if other.files.get(name) == digests}
        return {name for name in same if not _BY_THE_CLOCK.search(name)}

    def by_content(self) -> set[str]:
        """Names of the files that a single undisturbed night is enough to judge."""
        return {name for name in self.files if _BY_CONTENT.search(name)}

    def differences(self, reference: Contents, stable: set[str]) -> list[str]:
        """Sentences; none where this is the same workspace."""
        found = [f"{name} is missing" for name in sorted(set(reference.files) - set(self.files))]
        found += [f"{name} is one too many" for name in sorted(set(self.files) - set(reference.files))]
        found += [
            f"{name} differs" for name in sorted(stable & set(self.files)) if self.files[name] != reference.files[name]
        ]
        found += [
            f"{name}: {self.registry.get(name)}, undisturbed {value}"
            for name, value in reference.registry.items()
            if self.registry.get(name) != value
        ]
        return found


def _registry(workspace: Path) -> dict[str, object]:
    """What of MLflow's database does not hang on time: versions by run, aliases, its soundness."""
    database = workspace / "mlflow.db"
    if not database.exists():
        return {"versions": [], "aliases": [], "mlflow.db": "none"}
    rows = sqlite3.connect(database)
    try:
        versions = rows.execute(
            "SELECT v.version, t.value FROM model_versions v LEFT JOIN model_version_tags t"
            " ON t.name = v.name AND t.version = v.version AND t.key = 'noduleflow.run_id' ORDER BY v.version"
        ).fetchall()
        logged = rows.execute(
            "SELECT count(*) FROM tags WHERE key = 'noduleflow.logged' AND value = 'complete'"
        ).fetchone()[0]
        aliases = rows.execute("SELECT alias, version FROM registered_model_aliases ORDER BY alias").fetchall()
        sound = rows.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        rows.close()
    return {"versions": versions, "runs logged": logged, "aliases": aliases, "mlflow.db": sound}


def faults_within(workspace: Path) -> list[str]:
    """What a workspace says is wrong with itself, and litter."""
    import os

    from flows.settings import Settings
    from flows.status import describe
    from flows.workspace import Workspace

    os.environ["NODULEFLOW_SECRET"] = "chaos " * 8
    record, _ = describe(Workspace(workspace), Settings(workspace=workspace))
    litter = [path.relative_to(workspace).as_posix() for path in workspace.rglob("*.tmp")]
    # The automations that `noduleflow deploy` lays on a server end what was Pending when it went away; here are none.
    passing = ("only", "the last", "its command ended while the server was away")
    ours = [line for line in record["stuck"] if not any(words in line for words in passing)]
    return [*ours, *(f"{name} was left behind" for name in litter)]
