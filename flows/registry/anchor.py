"""How far the audit was written, kept apart from it, and its trusted end found without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from data_contracts.errors import ContractError, RegistryError
from data_contracts.promotion import AuditRecord
from data_contracts.versions import AuditAnchor, ChainEnd, LastMove
from flows.registry.keys import audit_key, canonical, registry_root, same, sign, sign_record
from flows.workspace import Workspace

FIRST = "0" * 64
MOVES = ("promote_intent", "promote_done", "rollback_intent", "rollback_done", "mend_intent", "mend_done")
ANCHOR_GONE = "the anchor of the audit is gone"
NO_FILE = "the audit is no file"
_ANCHOR, _PURPOSE = "anchor.json", "audit anchor"
#: of a line's detail: the model name that it speaks of
MODEL = "model"
_BLOCK = 64 * 1024
_TODO = "`noduleflow audit --verify` names the fault; `noduleflow doctor --mend` keeps the file and begins a new chain."


def digest_of_line(record: AuditRecord) -> str:
    """sha256 of what a line says and of the line before it."""
    body = record.model_dump(mode="json", exclude={"digest", "mac"})
    return hashlib.sha256(legacy_text(body).encode()).hexdigest()


def legacy_text(body: dict[str, object]) -> str:
    """The text that the digest of a line is of."""
    import json

    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def mac_of_line(key: bytes, digest: str) -> str:
    """The seal of a line."""
    return sign(key, "audit line", digest)


def read_anchor(workspace: Workspace) -> AuditAnchor | None:
    """The anchor of this workspace; None where none was written.

    Raises
    ------
    RegistryError: it was changed, signed with another key, or written by another version of the program.
    """
    path = registry_root(workspace) / _ANCHOR
    if not path.exists():
        return None
    try:
        anchor = AuditAnchor.read(path)
    except ContractError:
        raise RegistryError(
            "the anchor of the audit is none that this program writes", where=str(path), todo=_TODO
        ) from None
    if not same(anchor.mac, sign_record(audit_key(workspace), _PURPOSE, anchor)):
        raise RegistryError(
            "the anchor of the audit was changed, or is of another key",
            where=str(path),
            todo=f"If NODULEFLOW_AUDIT_KEY was changed, set it back. {_TODO}",
        )
    return anchor


def write_anchor(workspace: Workspace, anchor: AuditAnchor) -> None:
    """Sign the anchor and write it, whole or not at all. Hold the audit's lock."""
    signed = anchor.model_copy(update={"mac": sign_record(audit_key(workspace), _PURPOSE, anchor)})
    # Always the same name beside it, so that a kill leaves no litter.
    coming = registry_root(workspace) / "anchor.next"
    coming.parent.mkdir(exist_ok=True)
    with coming.open("wb") as stream:
        stream.write(canonical(signed.model_dump(mode="json")).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    coming.replace(registry_root(workspace) / _ANCHOR)


def trusted_end(workspace: Workspace) -> AuditAnchor:
    """Where the next line goes, with the last move: the anchor, and the lines that a kill kept it from knowing of.

    Reads no more of the file than its last line and what stands behind the anchor. Half a line without an end, which
    was never acknowledged, is cut off. Hold the audit's lock.

    Raises
    ------
    RegistryError: the audit is gone, was cut, or was written to by others.
    """
    anchor, path = read_anchor(workspace), workspace.audit_file
    if not path.exists():
        if anchor is not None and anchor.end.length:
            raise RegistryError(f"the audit of {anchor.end.length} records is gone", where=str(path), todo=_TODO)
        return anchor or AuditAnchor()
    if not path.is_file():
        raise RegistryError(NO_FILE, where=str(path), todo=_TODO)
    _drop_torn_line(path)
    if anchor is None:
        if path.stat().st_size:
            raise RegistryError(ANCHOR_GONE, where=f"registry/{_ANCHOR}", todo=_TODO)
        return AuditAnchor()
    with path.open("rb") as stream:
        _check_last_line(stream, anchor.end, path)
        found = _follow(stream, anchor, audit_key(workspace))
    return found


def advanced(anchor: AuditAnchor, record: AuditRecord, size_bytes: int) -> AuditAnchor:
    """The anchor after one more line that ends at `size_bytes`."""
    end = ChainEnd(length=record.sequence + 1, head=record.digest, size_bytes=size_bytes)
    after = anchor.model_copy(update={"end": end})
    if (move := last_move_of(record)) is None:
        return after
    model_name = str(record.detail.get(MODEL, ""))
    return after.with_moves(model_name, anchor.of(model_name).model_copy(update={"last_move": move}))


def last_move_of(record: AuditRecord) -> LastMove | None:
    """What a line says of a move of the champion, or None."""
    if record.action not in (*MOVES, "move_abandoned"):
        return None
    move, before = record.detail.get("move"), record.detail.get("champion_before")
    return LastMove(
        action=record.action,
        subject=record.subject,
        sequence=record.sequence,
        move=move if isinstance(move, int) else None,
        before=str(before) if before else None,
    )


def _check_last_line(stream: BinaryIO, end: ChainEnd, path: Path) -> None:
    size = stream.seek(0, os.SEEK_END)
    if size < end.size_bytes:
        raise RegistryError(
            f"the audit was cut: {size} bytes are left of {end.size_bytes} ({end.length} records)",
            where=str(path),
            todo=_TODO,
        )
    if not end.length:
        return
    line, position = b"", end.size_bytes
    while position > 0 and line.count(b"\n", 0, max(len(line) - 1, 0)) == 0:
        step = min(_BLOCK, position)
        position -= step
        stream.seek(position)
        line = stream.read(step) + line
    record = _parsed(line[:-1].rsplit(b"\n", 1)[-1], end.length - 1)
    if record.digest != end.head or record.sequence != end.length - 1 or digest_of_line(record) != end.head:
        raise RegistryError(f"audit line {end.length} is not the one that was written", where=str(path), todo=_TODO)


def _follow(stream: BinaryIO, anchor: AuditAnchor, key: bytes) -> AuditAnchor:
    """The anchor after the lines behind it, each of which must be ours."""
    offset = anchor.end.size_bytes
    stream.seek(offset)
    for raw in stream:
        offset += len(raw)
        record = _parsed(raw, anchor.end.length)
        _must_follow(record, anchor.end)
        if not same(record.mac, mac_of_line(key, record.digest)):
            raise RegistryError(f"audit line {record.sequence + 1} was not written by this program", todo=_TODO)
        anchor = advanced(anchor, record, offset)
    return anchor


def _must_follow(record: AuditRecord, end: ChainEnd) -> None:
    follows = record.previous == (end.head or FIRST) and record.sequence == end.length
    if not follows or digest_of_line(record) != record.digest:
        raise RegistryError(f"audit line {end.length + 1} does not follow the one before it", todo=_TODO)


def _parsed(raw: bytes, number: int) -> AuditRecord:
    try:
        return AuditRecord.from_json(raw)
    except ContractError as error:
        raise RegistryError(f"audit line {number + 1} cannot be read ({error.what})", todo=_TODO) from None


def _drop_torn_line(path: Path) -> None:
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        if not size:
            return
        stream.seek(size - 1)
        if stream.read(1) == b"\n":
            return
        position, kept = size, 0
        while position > 0:
            step = min(_BLOCK, position)
            position -= step
            stream.seek(position)
            if (found := stream.read(step).rfind(b"\n")) >= 0:
                kept = position + found + 1
                break
        stream.truncate(kept)
