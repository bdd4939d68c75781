"""audit.jsonl: an append-only, hash-chained and sealed record of promotions, rollbacks, sign-offs and refusals.

Each line holds the digest of the line before it and an HMAC with the workspace's audit key. How far the file was
written stands in registry/anchor.json, and, after each move of the champion, in MLflow; so an edited, dropped, added
or swapped line is found, a file that was cut or deleted is too, and a chain that was made anew does not fit the key.
A line without a seal, and lines without an anchor, are faults wherever they stand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

from data_contracts.errors import ContractError, RegistryError, UsageError
from data_contracts.promotion import AuditRecord
from data_contracts.versions import AuditAnchor, ChainEnd, RegistryState
from flows.registry.anchor import (
    ANCHOR_GONE,
    FIRST,
    MODEL,
    NO_FILE,
    advanced,
    digest_of_line,
    mac_of_line,
    read_anchor,
    trusted_end,
    write_anchor,
)
from flows.registry.keys import audit_key, has_key, same
from flows.workspace import Workspace

ACTIONS = get_args(AuditRecord.model_fields["action"].annotation)


def read_audit(workspace: Workspace) -> list[AuditRecord]:
    """Every record, oldest first; raises ContractError naming the first line that cannot be read."""
    return [record for record, _ in _lines(workspace)]


def append_audit(
    workspace: Workspace,
    *,
    actor: str,
    action: str,
    subject: str,
    detail: dict[str, Any],
    model_name: str = "",
    state: RegistryState | None = None,
) -> AuditRecord:
    """Append one record, chained to the last and sealed, on disk before this returns.

    Its cost does not grow with the file.

    Parameters
    ----------
    model_name: which model it speaks of, if of one. state: who is its champion as this workspace knows it, kept beside
        the anchor.

    Raises
    ------
    RegistryError: the audit is not as this program left it; nothing is written to it.
    """
    if action not in ACTIONS:
        raise UsageError(f"unknown audit action {action!r}")
    if model_name:
        detail = {**detail, MODEL: model_name}
    with workspace.lock("audit"):
        anchor = trusted_end(workspace)
        if not anchor.end.length:
            # Before the first line: lines without an anchor are never what a kill left.
            write_anchor(workspace, anchor)
        body: dict[str, Any] = {
            "sequence": anchor.end.length,
            "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "actor": actor,
            "action": action,
            "subject": subject,
            "detail": json.loads(json.dumps(detail, default=str)),
            "previous": anchor.end.head or FIRST,
        }
        digest = digest_of_line(AuditRecord(**body, digest=""))
        record = AuditRecord(**body, digest=digest, mac=mac_of_line(audit_key(workspace), digest))
        with workspace.audit_file.open("ab") as stream:
            stream.write(record.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            size_bytes = stream.tell()
        after = advanced(anchor, record, size_bytes)
        write_anchor(workspace, after if state is None else _with_state(after, model_name, state))
    return record


def audit_end(workspace: Workspace) -> AuditAnchor:
    """How far this workspace's audit was written, with its last move; raises as `append_audit`."""
    with workspace.lock("audit"):
        return trusted_end(workspace)


def remember_state(workspace: Workspace, model_name: str, state: RegistryState) -> None:
    """Keep who is champion beside the anchor, where this workspace finds it without MLflow."""
    with workspace.lock("audit"):
        write_anchor(workspace, _with_state(trusted_end(workspace), model_name, state))


def verify_audit(workspace: Workspace, known: ChainEnd | None = None) -> list[str]:
    """What is wrong with the chain, a sentence a fault with its line number; empty where it holds.

    Parameters
    ----------
    known: how far it was written by MLflow's account, where that is known.

    Raises
    ------
    ContractError: a line cannot be read; it is named.
    """
    expected = known is not None and known.length > 0
    if not workspace.audit_file.exists() and not has_key(workspace) and not expected:
        return []
    key, previous = audit_key(workspace), FIRST
    faults: list[str] = []
    heads = {0: ""}
    anchored = _anchored(workspace, faults)
    faults_of_anchor = bool(faults)
    wanted = {end.length for end in (known, anchored) if end is not None}
    number = 0
    for number, (record, content) in enumerate(_lines(workspace), start=1):
        if not record.mac:
            faults.append(f"line {number}: it has no seal")
        elif content != record.digest:
            faults.append(f"line {number}: its content was changed")
        elif not same(record.mac, mac_of_line(key, record.digest)):
            faults.append(f"line {number}: it was not sealed with the key of this workspace")
        if record.previous != previous or record.sequence != number - 1:
            faults.append(f"line {number}: does not follow the line before it (a line was dropped, added or moved)")
        previous = record.digest
        if number in wanted:
            heads[number] = record.digest
    if anchored is None and not faults_of_anchor and (number or expected):
        faults.insert(0, ANCHOR_GONE)
    for place, end in (("the anchor", anchored), ("MLflow", known)):
        faults += _faults_at_end(end, number, heads, place)
    return list(dict.fromkeys(faults))


def read_or_none(workspace: Workspace) -> AuditAnchor | None:
    """The anchor, or None where there is none that can be trusted."""
    try:
        return read_anchor(workspace)
    except (ContractError, RegistryError):
        return None


def _with_state(anchor: AuditAnchor, model_name: str, state: RegistryState) -> AuditAnchor:
    return anchor.with_moves(model_name, anchor.of(model_name).model_copy(update={"state": state}))


def _anchored(workspace: Workspace, faults: list[str]) -> ChainEnd | None:
    try:
        anchor = read_anchor(workspace)
    except (ContractError, RegistryError) as error:
        faults.append(error.what)
        return None
    return anchor.end if anchor is not None else None


def _faults_at_end(end: ChainEnd | None, n_lines: int, heads: dict[int, str], place: str) -> list[str]:
    if end is None or heads.get(end.length) == end.head:
        return []
    if n_lines == 0:
        return [f"the file is gone: {end.length} records were written, says {place}"]
    if n_lines < end.length:
        first, count = n_lines + 1, end.length - n_lines
        which = f"line {first} is" if count == 1 else f"lines {first} to {end.length} are"
        return [f"{which} gone: {end.length} records were written, says {place}"]
    return [f"line {end.length}: it is not the one that was written, says {place}"]


def _lines(workspace: Workspace) -> Iterator[tuple[AuditRecord, str]]:
    """(record, digest of what the line says, "" where it is not as written) of every line; not of half a last line."""
    if not workspace.audit_file.exists():
        return
    if not workspace.audit_file.is_file():
        raise ContractError(NO_FILE, where="audit.jsonl", todo="`noduleflow doctor --mend` puts it aside.")
    with workspace.audit_file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                record = AuditRecord.from_json(raw)
            except (ContractError, UnicodeDecodeError) as error:
                what = error.what if isinstance(error, ContractError) else "not text"
                raise ContractError(f"audit line {number} cannot be read ({what})", where="audit.jsonl") from None
            # A line stands as it was written: one that only reads alike was written by somebody else.
            alike = raw[:-1] == record.model_dump_json(exclude_unset=True).encode()
            yield record, digest_of_line(record) if alike else ""
