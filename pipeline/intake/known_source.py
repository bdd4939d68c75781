"""What an earlier ingest made of a source, so that the same files need not be read again.

A file is known by a keyed digest of its path and by its state (size, time of change, inode); neither path nor
identifier is kept. What was made of it counts only under the same policy and program, and while what was stored stands.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_contracts.records import atomic_path
from data_contracts.series import Rejection, SeriesRecord
from pipeline.intake.discover import ReadFile
from pipeline.intake.source_files import FileState
from pipeline.intake.store import RECORD_NAME

_DIGEST_BYTES = 16
#: the folders whose code decides what becomes of a file
_PROGRAM = (
    "data_contracts",
    "pipeline/headers",
    "pipeline/pixels",
    "pipeline/intake",
    "pipeline/deidentify",
    "pipeline/imaging",
)


class KnownFile(NamedTuple):
    """State and header facts of a file as digests; index of its group, or -1 and that of its refusal."""

    state: bytes
    facts: bytes
    group: int
    refusal: int


@dataclass(frozen=True)
class KnownSeries:
    """One stored series: enough to name it, and to see that it stands whole."""

    series_key: str
    study_key: str
    volume: str
    volume_bytes: int
    record_bytes: int

    @classmethod
    def of(cls, record: SeriesRecord, series_root: Path) -> KnownSeries:
        """A series that was stored just now; raises OSError where it is gone."""
        folder, volume = series_root / record.series_key, Path(record.volume_path).name
        sizes = (folder / volume).stat().st_size, (folder / RECORD_NAME).stat().st_size
        return cls(record.series_key, record.study_key, volume, *sizes)

    def stands(self, series_root: Path) -> bool:
        """Whether volume and record are there in their sizes."""
        folder = f"{series_root}/{self.series_key}"
        try:
            return (
                Path(f"{folder}/{self.volume}").stat().st_size == self.volume_bytes
                and Path(f"{folder}/{RECORD_NAME}").stat().st_size == self.record_bytes
            )
        except OSError:
            return False


@dataclass(frozen=True)
class KnownGroup:
    """What became of the files of one series of the source. unreadable_beside: as in RawSeries."""

    key: str
    unreadable_beside: int
    series: tuple[KnownSeries, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class KnownSource:
    """All that is known of one source.

    context: policy, site, program and the like; another context knows nothing. files: by the digest of their path.
    container: state of the source itself where it is an archive, else b"". tables: the tables of the workspace were
    written after the last series was.
    """

    context: str
    files: Mapping[bytes, KnownFile] = field(default_factory=dict, repr=False)
    groups: tuple[KnownGroup, ...] = ()
    refusals: tuple[tuple[Rejection, ...], ...] = ()
    container: bytes = b""
    tables: bool = False


class FileDigests:
    """Keyed digests of what is kept of a file."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(b"known files\0" + secret).digest()

    def path(self, relative: str) -> bytes:
        """Of a path below the source."""
        return self._digest(b"path", relative.encode("utf-8", "surrogateescape"))

    def state(self, state: FileState, beside: str = "") -> bytes:
        """Of a file's state. beside: what else its outcome depends on."""
        return self._digest(b"state", f"{state.n_bytes} {state.modified_ns} {state.inode} {beside}".encode())

    def facts(self, file: ReadFile) -> bytes:
        """Of what a file's header says, or of why it was refused."""
        if file.header is None:
            return self._digest(b"facts", "".join(item.reason for item in file.rejections).encode())
        told = {name: value for name, value in file.header.__dict__.items() if name != "path"}
        return self._digest(b"facts", repr(sorted(told.items())).encode("utf-8", "surrogateescape"))

    def content(self, path: Path, n_bytes: int = 1 << 16) -> bytes:
        """Of a file's beginning and end."""
        with path.open("rb") as stream:
            head = stream.read(n_bytes)
            stream.seek(max(path.stat().st_size - n_bytes, 0))
            return self._digest(b"content", head + stream.read(n_bytes))

    def _digest(self, kind: bytes, value: bytes) -> bytes:
        return hashlib.blake2b(value, digest_size=_DIGEST_BYTES, key=self._key, person=kind).digest()


def read_known(path: Path, context: str) -> KnownSource:
    """What is kept in a file; nothing where it is missing, torn or of another context."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            told = json.loads(kept["told"].tobytes())
            if told["context"] != context:
                return KnownSource(context)
            digests, owners = kept["digests"], kept["owners"]
            if digests.shape != (3, len(owners), _DIGEST_BYTES) or owners.shape != (len(owners), 2):
                return KnownSource(context)
            names, states, facts = (_split(part.tobytes()) for part in digests)
            values = map(KnownFile, states, facts, owners[:, 0].tolist(), owners[:, 1].tolist())
            return KnownSource(
                context,
                dict(zip(names, values, strict=True)),
                tuple(_group(item) for item in told["groups"]),
                tuple(tuple(Rejection.model_validate(row) for row in rows) for rows in told["refusals"]),
                bytes.fromhex(told["container"]),
                bool(told["tables"]),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return KnownSource(context)


def write_known(path: Path, known: KnownSource) -> None:
    """Keep all of it in a file that only its owner reads, whole or not at all."""
    told = {
        "context": known.context,
        "groups": [[group.key, group.unreadable_beside, [astuple(item) for item in group.series],
                    [_row(item) for item in group.rejections]] for group in known.groups],
        "refusals": [[_row(item) for item in items] for items in known.refusals],
        "container": known.container.hex(),
        "tables": known.tables,
    }  # fmt: skip
    files = known.files.values()
    columns = (known.files.keys(), [item.state for item in files], [item.facts for item in files])
    digests = np.frombuffer(b"".join(b"".join(column) for column in columns), np.uint8)
    with atomic_path(path, mode=0o600) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            told=np.frombuffer(json.dumps(told).encode(), np.uint8),
            digests=digests.reshape(3, len(known.files), _DIGEST_BYTES),
            owners=np.array([[item.group, item.refusal] for item in files], np.int32).reshape(-1, 2),
        )


def _split(joined: bytes) -> list[bytes]:
    return [joined[at : at + _DIGEST_BYTES] for at in range(0, len(joined), _DIGEST_BYTES)]


def _row(rejection: Rejection) -> dict[str, object]:
    return rejection.model_dump(mode="json", exclude_defaults=True)


def _group(item: Sequence[object]) -> KnownGroup:
    key, beside, series, rejections = item
    return KnownGroup(
        str(key),
        int(beside),  # type: ignore[call-overload]
        tuple(KnownSeries(*line) for line in series),  # type: ignore[attr-defined]
        tuple(Rejection.model_validate(row) for row in rejections),  # type: ignore[attr-defined]
    )


@cache
def program_digest() -> str:
    """Digest of the code that decides what becomes of a file."""
    root = Path(__file__).resolve().parents[2]
    total = hashlib.sha256()
    for folder in _PROGRAM:
        for path in sorted(path for path in (root / folder).rglob("*") if path.suffix in (".py", ".csv", ".txt")):
            total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]
