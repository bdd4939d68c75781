"""Base of every JSON record, whole-file writes that a kill cannot tear, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from data_contracts.errors import ContractError, SchemaVersionError


class Record(BaseModel):
    """A frozen record; unknown keys are refused; it goes to JSON and back unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    SCHEMA_VERSION: ClassVar[int] = 1

    def to_json(self) -> str:
        """The record as indented JSON with its schema version."""
        body = {"schema_version": self.SCHEMA_VERSION, **self.model_dump(mode="json")}
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the record to `path`, whole or not at all."""
        write_bytes_atomic(path, self.to_json().encode())

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "") -> Self:
        """Read a record; raises ContractError or SchemaVersionError with the field that is wrong."""
        try:
            body: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ContractError(
                f"not a JSON record of {cls.__name__}", where=where, todo="Delete it and run the step again."
            ) from error
        if not isinstance(body, dict):
            raise ContractError(f"not a JSON record of {cls.__name__}", where=where)
        version = body.pop("schema_version", 1)
        if version != cls.SCHEMA_VERSION:
            body = cls.convert(body, version, where)
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ContractError(f"{cls.__name__}.{field}: {first['msg']}", where=where) from None

    @classmethod
    def convert(cls, body: dict[str, Any], version: object, where: str) -> dict[str, Any]:
        """Turn the body of another schema version into today's; a record without a converter refuses."""
        raise SchemaVersionError(
            f"{cls.__name__} has schema version {version}, this program reads {cls.SCHEMA_VERSION}",
            where=where,
            todo="Use the noduleflow version that wrote it, or run the step again.",
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record in the file `path`."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ContractError(f"cannot read {cls.__name__}", where=path.name) from error
        return cls.from_json(text, where=path.name)


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path`, with this mode, when the block ends without an error.

    Its name says which process writes it: who clears up after killed ones leaves those of living ones alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: object, *, length: int = 16) -> str:
    """Short hex digest of any JSON-able value; the same value gives the same digest on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
