"""Put a registry back as its last promotion or rollback left it, and write down that it was done and why."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_contracts.errors import RegistryError
from data_contracts.records import sha256_file
from data_contracts.versions import AuditAnchor, KnownMoves, Named, RegistryState
from flows.registry.anchor import write_anchor
from flows.registry.audit import audit_end, read_or_none
from flows.registry.faults import all_faults, broken, trusted_state
from flows.registry.lock import registry_lock
from flows.registry.moves import move_champion
from flows.registry.state import CHAMPION, PREVIOUS, known_end, raw_tag, see, with_audit, write_state
from flows.registry.versions import Registry
from flows.settings import Settings, actor_name
from flows.workspace import Workspace

_DELETED = "it was deleted from MLflow"


def mend(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Mend what can be: aliases, the account in MLflow, the audit; returns what was wrong and what was done.

    The champion becomes the version of the newest account that is signed with our key; where that version is gone or
    was changed, the previous champion; where that is too, nothing is champion. A broken audit is kept under another
    name, and the new chain begins with its faults and its sha256. Files of a version are never mended.
    """
    registry = Registry(workspace, settings.model_name)
    with registry_lock(workspace, settings.model_name) as check:
        found = all_faults(registry)
        if not found:
            return {"faults": [], "champion": registry.alias(CHAMPION), "previous_champion": registry.alias(PREVIOUS)}
        trusted = trusted_state(registry)
        detail: dict[str, Any] = {"faults": [fault.what for fault in found]}
        if any(fault.kind == "audit" for fault in found):
            detail["audit_before"] = _set_aside(workspace)
        champion = _first_sound(registry, trusted)
        previous = trusted.previous if trusted is not None else None
        if previous is not None and (previous == champion or broken(registry, previous) == _DELETED):
            previous = None
        base = trusted or RegistryState()
        if base.phase == "intent":
            base = base.model_copy(update={"phase": "done"})
        exists = raw_tag(registry.client, settings.model_name)[0] is not None
        if trusted is not None and not exists:
            # Without it there is no place for an account, and the same fault would be found for ever.
            registry.client.create_registered_model(settings.model_name)
        if exists or trusted is not None:
            move_champion(
                registry,
                actor_name(settings),
                "mend",
                champion,
                previous=previous,
                detail=detail,
                check=check,
                before=base,
            )
    if "audit_before" in detail:
        _tell_other_models(registry)
    return {
        "faults": [fault.what for fault in found],
        "left": [fault.line() for fault in all_faults(registry)],
        "champion": registry.alias(CHAMPION),
        "previous_champion": registry.alias(PREVIOUS),
    }


def _first_sound(registry: Registry, trusted: RegistryState | None) -> Named | None:
    """Champion by the account, else the previous one, if its files are whole."""
    if trusted is None:
        return None
    return next(
        (named for named in (trusted.champion, trusted.previous) if named is not None and not broken(registry, named)),
        None,
    )


def _tell_other_models(registry: Registry) -> None:
    """The accounts of other models know the end of the chain that was set aside: give them that of the new one.

    Each under its own lock, one after the other: two that mend at once never wait for each other.
    """
    for model in registry.client.search_registered_models():
        if model.name == registry.model_name:
            continue
        with suppress(RegistryError), registry_lock(registry.workspace, model.name):
            state = see(registry.client, registry.workspace, model.name).state
            if state is not None and known_end(state, registry.workspace) is not None:
                told = with_audit(state, registry.workspace, audit_end(registry.workspace).end)
                write_state(registry.client, registry.workspace, model.name, told)


def _set_aside(workspace: Workspace) -> dict[str, Any]:
    """Rename a broken audit, and begin a new chain after it; returns what the new one says of the old."""
    with workspace.lock("audit"):
        anchor, path = read_or_none(workspace), workspace.audit_file
        facts: dict[str, Any] = {"records_known": anchor.end.length if anchor else None, "file": "gone"}
        if path.exists():
            kept = _free_name(path)
            facts |= {"file": kept.name, "sha256": sha256_file(path) if path.is_file() else None}
            path.rename(kept)
        models = {name: KnownMoves(state=known.state) for name, known in anchor.models.items()} if anchor else {}
        write_anchor(workspace, AuditAnchor(models=models))
    return facts


def _free_name(path: Path) -> Path:
    return path.with_name(f"audit-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}.broken.jsonl")
