"""What a backup holds: the record that is written last, without which a folder is no backup."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import Field, model_validator

from data_contracts.records import Record
from data_contracts.versions import ChainEnd

DatabaseKind = Literal["mlflow", "prefect"]


class BackupFile(Record):
    """One file: path below the backup, size, sha256, permission bits, and when it was changed (ns since 1970)."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str
    mode: int = Field(ge=0, le=0o7777)
    changed_ns: int

    @model_validator(mode="after")
    def _stays_below(self) -> Self:
        _check_below(self.path)
        return self


class BackupFolder(Record):
    """One folder of the workspace: path below the backup, and its permission bits."""

    path: str
    mode: int = Field(ge=0, le=0o7777)

    @model_validator(mode="after")
    def _stays_below(self) -> Self:
        _check_below(self.path)
        return self


class BackupManifest(Record):
    """backup.json: everything a backup holds, and what must be the same after a restore.

    workspace: the folder it was taken of. tables_only: without volumes, datasets and features. champion, audit: as they
    were. databases: dumps of PostgreSQL, kind -> file. artifacts: the MLflow server's are there. left_out: what is
    missing, for a person. keys_elsewhere: variables whose keys are not in the workspace, and so not in the backup.
    mac: HMAC of all this with the audit key.
    """

    created_utc: str
    program: str
    workspace: str
    model_name: str
    tables_only: bool = False
    champion: str | None = None
    audit: ChainEnd = ChainEnd()
    files: tuple[BackupFile, ...] = ()
    folders: tuple[BackupFolder, ...] = ()
    databases: dict[DatabaseKind, str] = {}
    artifacts: bool = False
    left_out: tuple[str, ...] = ()
    keys_elsewhere: tuple[str, ...] = ()
    mac: str = ""


def _check_below(path: str) -> None:
    """Raises ValueError for a path that leads out of the backup."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError("a path leads out of the backup")
