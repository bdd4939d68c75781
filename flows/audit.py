"""audit.jsonl: an append-only, hash-chained record of promotions, rollbacks and refusals."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any, get_args

from data_contracts.errors import ContractError, UsageError
from data_contracts.promotion import AuditRecord
from flows.workspace import Workspace

_FIRST = "0" * 64
ACTIONS = get_args(AuditRecord.model_fields["action"].annotation)


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_audit(workspace: Workspace) -> list[AuditRecord]:
    """Every record, oldest first; raises ContractError naming the first line that cannot be read."""
    if not workspace.audit_file.exists():
        return []
    lines = workspace.audit_file.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(AuditRecord.from_json(line))
        except ContractError as error:
            raise ContractError(f"audit line {number} cannot be read ({error.what})", where="audit.jsonl") from None
    return records


def append_audit(workspace: Workspace, *, actor: str, action: str, subject: str, detail: dict[str, Any]) -> AuditRecord:
    """Append one record, chained to the last, on disk before this returns."""
    if action not in ACTIONS:
        raise UsageError(f"unknown audit action {action!r}")
    with workspace.lock("audit"):
        _drop_torn_line(workspace)
        records = read_audit(workspace)
        body: dict[str, Any] = {
            "sequence": len(records),
            "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "actor": actor,
            "action": action,
            "subject": subject,
            "detail": json.loads(json.dumps(detail, default=str)),
            "previous": records[-1].digest if records else _FIRST,
        }
        record = AuditRecord(**body, digest=_digest(body))
        with workspace.audit_file.open("ab") as stream:
            stream.write(record.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    return record


def _drop_torn_line(workspace: Workspace) -> None:
    """A kill in the middle of an append leaves half a line without an end; it was never acknowledged."""
    if not workspace.audit_file.exists():
        return
    content = workspace.audit_file.read_bytes()
    if content and not content.endswith(b"\n"):
        kept = content.rfind(b"\n") + 1
        with workspace.audit_file.open("r+b") as stream:
            stream.truncate(kept)


def verify_audit(workspace: Workspace) -> list[str]:
    """What is wrong with the chain, a sentence a fault with its line number; empty where it holds."""
    faults = []
    previous = _FIRST
    for number, record in enumerate(read_audit(workspace), start=1):
        body = record.model_dump(mode="json", exclude={"digest"})
        if _digest(body) != record.digest:
            faults.append(f"line {number}: its content was changed")
        if record.previous != previous or record.sequence != number - 1:
            faults.append(f"line {number}: does not follow the line before it (a line was dropped, added or moved)")
        previous = record.digest
    return faults
