"""Promotion and rollback: gates, compare-and-set under a lock, a rehearsal, and an audit of what was meant and done."""

from __future__ import annotations

from typing import Any

from data_contracts.errors import GateRefusedError, NoduleflowError, StaleExpectationError, UsageError
from data_contracts.promotion import GateResult, PromotionDecision, PromotionPolicy
from data_contracts.versions import Named, RegistryState, VersionManifest
from flows.registry.audit import append_audit
from flows.registry.faults import require_sound
from flows.registry.judging import judge
from flows.registry.lock import registry_lock
from flows.registry.moves import move_champion, settle
from flows.registry.rehearsal import Rehearsal
from flows.registry.state import version_of
from flows.registry.versions import Registry
from flows.settings import Settings, actor_name
from flows.workspace import Workspace

#: what `--expect` says when there is no champion yet
NO_CHAMPION = "none"


def promote(
    workspace: Workspace, settings: Settings, version: str, *, expect: str, policy: PromotionPolicy
) -> PromotionDecision:
    """Make a version champion if every gate holds and the champion is still the one the caller expects.

    Parameters
    ----------
    expect: the champion's version as the caller last saw it; "none" where there is none.

    Raises
    ------
    StaleExpectationError: somebody else changed the champion meanwhile.
    GateRefusedError: a gate said no, or the version cannot be loaded; the refusal and its figures are in the audit.
    WeightsDigestError: the version is not what was registered; that is in the audit too.
    RegistryError: others moved an alias or cut the audit; `doctor --mend` comes first.
    """
    registry = Registry(workspace, settings.model_name, settle=False)
    actor = actor_name(settings)
    with registry_lock(workspace, settings.model_name) as check:
        state = _settled_state(registry, actor, check)
        champion = state.champion
        number = registry.resolve(version)
        _expect(registry, actor, "promote", number, expect, champion)
        if champion is not None and champion.version == number:
            return _decision(settings, number, champion, promoted=True, gates=(), policy=policy)
        try:
            named = registry.named(number)
            gates, folder, manifest = judge(registry, named, champion, policy)
        except NoduleflowError as error:
            _refuse(registry, actor, "promote", number, {"reason": error.line(), "expected": expect})
            raise
        decision = _decision(
            settings, number, champion, promoted=all(gate.passed for gate in gates), gates=gates, policy=policy
        )
        figures = decision.model_dump(mode="json", exclude={"model_name", "version"})
        figures["policy_digest"] = policy.digest()
        if not decision.promoted:
            _refuse(registry, actor, "promote", number, figures)
            failed = "; ".join(f"{gate.gate}: {gate.detail}" for gate in decision.failed())
            raise GateRefusedError(f"version {number} is not promoted: {failed}", where=settings.model_name)
        figures["golden"] = _rehearsed(registry, actor, "promote", Rehearsal(folder), named, manifest)
        previous = champion or state.previous
        move_champion(registry, actor, "promote", named, previous=previous, detail=figures, check=check, before=state)
    return decision


def rollback(workspace: Workspace, settings: Settings, *, expect: str = "") -> dict[str, str]:
    """Make previous_champion champion again, after its files were verified and it scored its golden cases as it did.

    expect: the champion's version as the caller last saw it; "" takes whoever is.

    Raises
    ------
    UsageError: there is no previous champion.
    StaleExpectationError, GateRefusedError, WeightsDigestError, RegistryError: as of `promote`.
    """
    rehearsal = _early_rehearsal(workspace, settings.model_name)
    try:
        registry = Registry.quick(workspace, settings.model_name)
        actor = actor_name(settings)
        with registry_lock(workspace, settings.model_name) as check:
            state = _settled_state(registry, actor, check)
            champion, previous = state.champion, state.previous
            if champion is None or previous is None:
                raise UsageError("there is no previous champion to go back to", where=settings.model_name)
            _expect(registry, actor, "rollback", previous.version, expect or champion.version, champion)
            try:
                folder, manifest = registry.verified(previous)
            except NoduleflowError as error:
                _refuse(registry, actor, "rollback", previous.version, {"reason": error.line()})
                raise
            if rehearsal is None or rehearsal.folder != folder:
                _stop(rehearsal)
                rehearsal = Rehearsal(folder)
            golden = _rehearsed(registry, actor, "rollback", rehearsal, previous, manifest)
            detail = {"golden": golden}
            move_champion(
                registry, actor, "rollback", previous, previous=champion, detail=detail, check=check, before=state
            )
    finally:
        _stop(rehearsal)
    return {"champion": previous.version, "previous_champion": champion.version}


def _settled_state(registry: Registry, actor: str, check: Any) -> RegistryState:
    """The account of the last move, after one that was cut off was ended and nothing was found wrong."""
    seen = settle(registry, actor, check)
    require_sound(registry, seen)
    return seen.state or RegistryState()


def _expect(registry: Registry, actor: str, action: str, number: str, expect: str, champion: Named | None) -> None:
    found = version_of(champion) or NO_CHAMPION
    if found == expect:
        return
    _refuse(registry, actor, action, number, {"expected": expect, "found": found})
    raise StaleExpectationError(
        f"the champion is {found}, not {expect}",
        where=registry.model_name,
        todo=f"Look at it, then {action} again with the right --expect.",
    )


def _refuse(registry: Registry, actor: str, action: str, number: str, detail: dict[str, Any]) -> None:
    append_audit(
        registry.workspace,
        actor=actor,
        action=f"{action}_refused",
        subject=number,
        detail=detail,
        model_name=registry.model_name,
    )


def _rehearsed(
    registry: Registry, actor: str, action: str, rehearsal: Rehearsal, named: Named, manifest: VersionManifest
) -> dict[str, Any]:
    """Load the version and ask it its golden cases; what it said, for the audit."""
    try:
        answer = rehearsal.judge(named.version, manifest, named.manifest_sha256)
    except GateRefusedError as error:
        _refuse(registry, actor, action, named.version, {"reason": error.line()})
        raise
    return {"cases": answer.n, "difference": round(answer.difference, 6)}


def _early_rehearsal(workspace: Workspace, model_name: str) -> Rehearsal | None:
    """The previous champion, as this workspace remembers it, is loaded by another process while MLflow is."""
    from flows.registry.audit import read_or_none

    anchor = read_or_none(workspace)
    state = anchor.of(model_name).state if anchor is not None else None
    previous = state.previous if state is not None else None
    return Rehearsal(workspace.runs_root / previous.run_id).start() if previous is not None else None


def _stop(rehearsal: Rehearsal | None) -> None:
    if rehearsal is not None:
        rehearsal.stop()


def _decision(
    settings: Settings,
    version: str,
    champion: Named | None,
    *,
    promoted: bool,
    gates: tuple[GateResult, ...],
    policy: PromotionPolicy,
) -> PromotionDecision:
    return PromotionDecision(
        model_name=settings.model_name,
        version=version,
        champion_before=version_of(champion),
        promoted=promoted,
        gates=gates,
        policy=policy,
    )
