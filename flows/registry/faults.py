"""What is wrong with a registry: aliases that others moved, versions gone or changed, an audit that was cut."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_contracts.errors import ContractError, NoduleflowError, RegistryError
from data_contracts.versions import AuditAnchor, Named, RegistryState
from flows.registry.audit import audit_end, read_or_none, verify_audit
from flows.registry.state import CHAMPION, PREVIOUS, Seen, known_end

if TYPE_CHECKING:
    from flows.registry.versions import Registry
    from flows.settings import Settings
    from flows.workspace import Workspace


@dataclass(frozen=True)
class Fault:
    """One fault, in a sentence, and how it is mended.

    kind: "account", "alias", "files" or "audit".
    """

    kind: str
    what: str
    todo: str

    def line(self) -> str:
        return f"{self.what}. {self.todo}"


_MEND = "`noduleflow doctor --mend` puts it back as the last promotion or rollback left it, and writes that down."
_MODEL_GONE = (
    "Restore MLflow's database from a backup. Else `noduleflow doctor --mend` begins without a champion, and "
    "the `noduleflow train` that made a version, given again, registers it anew."
)
_AUDIT = "`noduleflow doctor --mend` keeps the file aside and begins a new chain that names the fault."
_RESTORE = "Restore the files from a backup, or `noduleflow rollback` if another version is meant to answer."


def quick_faults(registry: Registry, seen: Seen | None = None) -> list[Fault]:
    """Faults that are seen without reading files or the whole audit, in what MLflow said just now."""
    found: list[Fault] = []
    anchor: AuditAnchor | None = None
    try:
        anchor = audit_end(registry.workspace)
    except (RegistryError, ContractError) as error:
        found.append(Fault("audit", error.what, _AUDIT))
        anchor = read_or_none(registry.workspace)
    try:
        seen = seen or registry.see()
    except RegistryError as error:
        return [*found, Fault("account", error.what, error.todo or _MEND)]
    found += _account_faults(registry, seen, anchor)
    if seen.state is not None:
        found += _alias_faults(registry, seen, seen.state)
        end = known_end(seen.state, registry.workspace)
        if end is not None and anchor is not None and anchor.end.length < end.length:
            what = f"the audit has {anchor.end.length} records, MLflow knows of {end.length}"
            found.append(Fault("audit", what, _AUDIT))
    return found


def all_faults(registry: Registry) -> list[Fault]:
    """Every fault: also of the files of champion and previous champion, and of each line of the audit."""
    found = quick_faults(registry)
    state = trusted_state(registry)
    if not any(fault.kind == "audit" for fault in found):
        try:
            lines = verify_audit(registry.workspace, known_end(state, registry.workspace))
            found += [Fault("audit", f"audit {line}", _AUDIT) for line in lines]
        except ContractError as error:
            found.append(Fault("audit", error.what, _AUDIT))
    for name, named in ((CHAMPION, state.champion), (PREVIOUS, state.previous)) if state else ():
        if named is not None and (reason := broken(registry, named)) is not None:
            found.append(Fault("files", f"{name}, version {named.version}: {reason}", _RESTORE))
    return found


def audit_faults(workspace: Workspace, settings: Settings) -> list[str]:
    """What is wrong with the audit, by itself and by MLflow's account of it, where there is one.

    Raises
    ------
    ContractError: a line cannot be read; it is named.
    """
    if not workspace.mlflow_database.exists() and not settings.mlflow_tracking_uri:
        return verify_audit(workspace)
    from flows.registry.versions import Registry

    registry = Registry(workspace, settings.model_name)
    try:
        return verify_audit(workspace, known_end(registry.see().state, workspace))
    except RegistryError as error:
        return [*verify_audit(workspace), error.what]


def require_sound(registry: Registry, seen: Seen) -> None:
    """Raises RegistryError where there is a fault that a move of the champion would cover up."""
    if found := quick_faults(registry, seen):
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        raise RegistryError(f"{found[0].what}{more}", where=registry.model_name, todo=found[0].todo)


def trusted_state(registry: Registry) -> RegistryState | None:
    """The newest account that is signed with our key: MLflow's, or the one kept beside the audit."""
    known = []
    with suppress(RegistryError):
        known.append(registry.see().state)
    anchor = read_or_none(registry.workspace)
    known.append(anchor.of(registry.model_name).state if anchor is not None else None)
    accounts = [state for state in known if state is not None]
    return max(accounts, key=lambda state: state.move, default=None)


def broken(registry: Registry, named: Named) -> str | None:
    """Why the files of a version are not what was registered; None where they are."""
    try:
        if not registry.exists(named.version):
            return "it was deleted from MLflow"
        if registry.named(named.version) != named:
            return "MLflow holds another run or manifest under its number"
        registry.verified(named)
    except NoduleflowError as error:
        return f"{error.what} ({error.where})" if error.where else error.what
    return None


def _account_faults(registry: Registry, seen: Seen, anchor: AuditAnchor | None) -> list[Fault]:
    ours = anchor.of(registry.model_name).state if anchor is not None else None
    if seen.state is None:
        if ours is not None:
            gone, todo = ("account", _MEND) if seen.exists else ("registered model", _MODEL_GONE)
            return [Fault("account", f"the {gone} is gone from MLflow; champion was {_name(ours.champion)}", todo)]
        if champion := seen.aliases.get(CHAMPION):
            what = f"version {champion} is champion, and no promotion made it so"
            return [Fault("alias", what, "`noduleflow doctor --mend` takes the alias away; then promote a version.")]
        return []
    if ours is not None and seen.state.move < ours.move:
        what = f"the account in MLflow was set back to move {seen.state.move}, {ours.move} were made"
        return [Fault("account", what, _MEND)]
    return []


def _alias_faults(registry: Registry, seen: Seen, state: RegistryState) -> list[Fault]:
    found = []
    for alias, named, before in (
        (CHAMPION, state.champion, state.before),
        (PREVIOUS, state.previous, state.previous_before),
    ):
        there, expected = seen.aliases.get(alias), named.version if named else None
        if there == expected:
            continue
        if state.phase == "intent" and there == (before.version if before else None):
            continue
        if expected is not None and not registry.exists(expected):
            what = f"version {expected}, which is {alias}, was deleted from MLflow"
        elif there is None:
            what = f"the alias {alias} was taken from version {expected}"
        else:
            what = f"the alias {alias} was pointed at version {there}, the last move left it at {expected or 'none'}"
        found.append(Fault("alias", what, _MEND))
    return found


def _name(named: Named | None) -> str:
    return f"version {named.version}" if named else "none"
