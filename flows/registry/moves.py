"""Moves of the champion: what is meant is written first, then the aliases move, then what was done is written.

    audit "intent" -> account "intent" in MLflow -> previous_champion -> champion -> audit "done" -> account "done"

A kill between any two of these leaves enough to end the move, by the next command that opens the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data_contracts.errors import NoduleflowError, RegistryError, WorkspaceError
from data_contracts.promotion import AuditRecord
from data_contracts.versions import ChainEnd, KnownMoves, LastMove, Named, RegistryState
from flows.registry import aliases
from flows.registry.audit import append_audit, audit_end, remember_state
from flows.registry.keys import workspace_id
from flows.registry.lock import registry_lock
from flows.registry.state import CHAMPION, PREVIOUS, Seen, known_end, version_of, with_audit, write_state
from flows.settings import Settings, actor_name

if TYPE_CHECKING:
    from flows.registry.versions import Registry

Check = Callable[[], None]


def move_champion(
    registry: Registry,
    actor: str,
    action: str,
    target: Named | None,
    *,
    previous: Named | None,
    detail: dict[str, Any],
    check: Check,
    before: RegistryState,
) -> RegistryState:
    """Write the intent, move both aliases, write that it is done. Hold the registry's lock.

    Parameters
    ----------
    action: "promote", "rollback" or "mend". target: the new champion, None for none.
    previous: previous_champion after the move.
    check: raises where the lock was lost.
    before: the account of the move before.
    """
    intent = RegistryState(
        move=before.move + 1,
        phase="intent",
        action=action,
        champion=target,
        previous=previous,
        before=before.champion,
        previous_before=before.previous,
        workspace=workspace_id(registry.workspace),
        audits=before.audits,
    )
    facts = {
        **detail,
        "champion_before": version_of(before.champion),
        "move": intent.move,
        "manifest_sha256": target.manifest_sha256 if target else "",
    }
    check()
    record = append_audit(
        registry.workspace,
        actor=actor,
        action=f"{action}_intent",
        subject=version_of(target) or "none",
        detail=facts,
        model_name=registry.model_name,
    )
    intent = with_audit(intent, registry.workspace, _end_of(record))
    write_state(registry.client, registry.workspace, registry.model_name, intent)
    return finish(registry, actor, intent, {}, check)


def finish(
    registry: Registry, actor: str, intent: RegistryState, detail: dict[str, Any], check: Check
) -> RegistryState:
    """Point the aliases as an intent says, and write that it is done."""
    check()
    _point(registry, PREVIOUS, intent.previous)
    _point(registry, CHAMPION, intent.champion)
    done = intent.model_copy(update={"phase": "done", "workspace": workspace_id(registry.workspace)})
    champion = version_of(intent.champion)
    record = append_audit(
        registry.workspace,
        actor=actor,
        action=f"{intent.action}_done",
        subject=champion or "none",
        detail={"champion": champion, "move": intent.move, **detail},
        model_name=registry.model_name,
        state=done,
    )
    done = with_audit(done, registry.workspace, _end_of(record))
    check()
    write_state(registry.client, registry.workspace, registry.model_name, done)
    return done


def settle_quietly(registry: Registry) -> None:
    """End a move that was cut off, unless another process is at it; a fault is said, and left to `doctor`."""
    try:
        seen = registry.see()
        if not _is_open(registry, seen):
            return
        with registry_lock(registry.workspace, registry.model_name, timeout_s=0) as check:
            settle(registry, actor_name(Settings()), check)
    except WorkspaceError:
        return
    except NoduleflowError as error:
        from flows.registry.versions import describe_error

        describe_error(error)


def settle(registry: Registry, actor: str, check: Check) -> Seen:
    """End a move that was cut off, and take over what earlier programs left. Hold the registry's lock.

    Returns what MLflow says then.
    """
    seen = registry.see()
    anchor = audit_end(registry.workspace)
    known = anchor.of(registry.model_name)
    last, state = known.last_move, seen.state
    if state is None:
        state = _adopted(registry, seen, known)
        if state is None:
            return seen
    _require_known_end(registry, state, anchor.end.length)
    if state.phase == "intent":
        _end_intent(registry, actor, state, last, check)
    elif last is not None and last.action.endswith("_intent"):
        _end_unseen_intent(registry, actor, state, last, check)
    else:
        return seen
    return registry.see()


def _require_known_end(registry: Registry, state: RegistryState, length: int) -> None:
    """Ending a move writes to audit and account, so it must not cover up that lines the account knows of are gone."""
    known = known_end(state, registry.workspace)
    if known is not None and length < known.length:
        raise RegistryError(
            f"the audit has {length} records, MLflow knows of {known.length}",
            where=registry.model_name,
            todo="`noduleflow doctor --mend` begins a new chain that names the fault.",
        )


def _is_open(registry: Registry, seen: Seen) -> bool:
    if seen.state is not None and seen.state.phase == "intent":
        return True
    last = audit_end(registry.workspace).of(registry.model_name).last_move
    return last is not None and (last.action.endswith("_intent") or seen.state is None)


def _end_intent(registry: Registry, actor: str, state: RegistryState, last: LastMove | None, check: Check) -> None:
    """The account says what was meant: do it, unless the version is no longer what it was."""
    if last is not None and last.action.endswith("_done") and last.move == state.move:
        done = with_audit(
            state.model_copy(update={"phase": "done"}), registry.workspace, audit_end(registry.workspace).end
        )
        write_state(registry.client, registry.workspace, registry.model_name, done)
        return
    detail: dict[str, Any] = {"reconciled": True}
    if state.workspace != workspace_id(registry.workspace):
        detail["begun_in"] = state.workspace
    if (reason := _unusable(registry, state.champion)) is None:
        finish(registry, actor, state, detail, check)
    else:
        _undo(registry, actor, state, reason, check)


def _end_unseen_intent(registry: Registry, actor: str, state: RegistryState, last: LastMove, check: Check) -> None:
    """Our audit has an intent that the account does not know, or knows to be over."""
    number = last.move if last.move is not None else state.move + 1
    if number <= state.move:
        theirs = version_of(state.champion) == last.subject and number == state.move
        action = last.action.replace("_intent", "_done") if theirs else "move_abandoned"
        detail = {"move": number, "champion": version_of(state.champion), "reconciled": True}
        append_audit(
            registry.workspace, actor=actor, action=action, subject=last.subject, detail=detail,
            model_name=registry.model_name, state=state,
        )  # fmt: skip
        return
    target = None if last.subject == "none" else _named_or_none(registry, last.subject)
    reason = _unusable(registry, target)
    if reason is None and target is None and last.subject != "none":
        reason = "there is no such version any more"
    if reason is not None:
        detail = {"move": number, "reason": reason, "champion": version_of(state.champion)}
        append_audit(
            registry.workspace, actor=actor, action="move_abandoned", subject=last.subject, detail=detail,
            model_name=registry.model_name, state=state,
        )  # fmt: skip
        return
    stepped_down = state.champion if state.champion is not None and state.champion != target else state.previous
    intent = state.model_copy(
        update={
            "move": number,
            "phase": "intent",
            "action": last.action.removesuffix("_intent"),
            "champion": target,
            "previous": stepped_down,
            "before": state.champion,
            "previous_before": state.previous,
        }
    )
    check()
    write_state(registry.client, registry.workspace, registry.model_name, intent)
    finish(registry, actor, intent, {"reconciled": True}, check)


def _undo(registry: Registry, actor: str, intent: RegistryState, reason: str, check: Check) -> None:
    """The version that was to become champion cannot be: everything stays as it was before."""
    check()
    _point(registry, PREVIOUS, intent.previous_before)
    _point(registry, CHAMPION, intent.before)
    done = intent.model_copy(
        update={"phase": "done", "champion": intent.before, "previous": intent.previous_before, "action": "mend"}
    )
    detail = {"move": intent.move, "reason": reason, "champion": version_of(intent.before)}
    subject = version_of(intent.champion) or "none"
    record = append_audit(
        registry.workspace, actor=actor, action="move_abandoned", subject=subject, detail=detail,
        model_name=registry.model_name, state=done,
    )  # fmt: skip
    done = with_audit(done, registry.workspace, _end_of(record))
    write_state(registry.client, registry.workspace, registry.model_name, done)


def _adopted(registry: Registry, seen: Seen, known: KnownMoves) -> RegistryState | None:
    """The account that fits what programs without one left; None where there is nothing, or it does not fit."""
    last = known.last_move
    if last is None or known.state is not None:
        return None
    champion, previous = seen.aliases.get(CHAMPION), seen.aliases.get(PREVIOUS)
    fits = {last.subject, last.before} if last.action.endswith("_intent") else {last.subject}
    if champion not in fits:
        return None
    state = RegistryState(
        move=(last.move or 1) - (1 if last.action.endswith("_intent") else 0),
        action="mend",
        champion=_named_or_none(registry, last.before if last.action.endswith("_intent") else champion),
        previous=_named_or_none(registry, previous),
        workspace=workspace_id(registry.workspace),
    )
    write_state(registry.client, registry.workspace, registry.model_name, state)
    remember_state(registry.workspace, registry.model_name, state)
    return state


def _point(registry: Registry, alias: str, named: Named | None) -> None:
    if named is not None:
        aliases.point(registry.client, registry.model_name, alias, named.version)
    elif registry.alias(alias) is not None:
        aliases.remove(registry.client, registry.model_name, alias)


def _named_or_none(registry: Registry, version: str | None) -> Named | None:
    """The version, or None where MLflow does not have it."""
    if version is None or not registry.exists(version):
        return None
    return registry.named(version)


def _unusable(registry: Registry, named: Named | None) -> str | None:
    """Why a version cannot become champion; None where it can, or where none is wanted."""
    if named is None:
        return None
    try:
        found = _named_or_none(registry, named.version)
        if found is None:
            return "there is no such version any more"
        if found != named:
            return "its files are registered under another digest now"
        registry.verified(named)
    except RegistryError as error:
        return error.line()
    except NoduleflowError as error:
        return error.line()
    return None


def _end_of(record: AuditRecord) -> ChainEnd:
    return ChainEnd(length=record.sequence + 1, head=record.digest)
