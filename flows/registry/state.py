"""Who is champion, by the registry's own account: one signed tag of the registered model, written with every move.

MLflow moves an alias for anybody who asks, and keeps no history. The account says which version each alias was last
pointed at by a promotion or rollback, so that an alias that others moved, or a champion that was deleted, is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_contracts.errors import ContractError, RegistryError
from data_contracts.versions import ChainEnd, Named, RegistryState
from flows.registry.direct import is_missing
from flows.registry.keys import audit_key, same, sign, workspace_id
from flows.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = ALIASES = "champion", "challenger", "previous_champion"
STATE_TAG = "noduleflow.registry_state"
_PURPOSE = "registry state"
#: as many workspaces as one tag of 5000 characters holds
_MOST_AUDITS = 16
_OTHER_KEY = (
    "Was it signed in another workspace, give both the same NODULEFLOW_AUDIT_KEY; else `noduleflow doctor --mend`."
)


@dataclass(frozen=True)
class Seen:
    """What MLflow says at one moment: the aliases, and the account; None where there is none."""

    aliases: dict[str, str]
    state: RegistryState | None
    exists: bool = True

    def expected(self, alias: str) -> str | None:
        """The version that an alias must name by the account."""
        named = None if self.state is None else self.state.champion if alias == CHAMPION else self.state.previous
        return None if named is None else named.version


def see(client: MlflowClient, workspace: Workspace, model_name: str) -> Seen:
    """Aliases and account in one answer of MLflow.

    Raises
    ------
    RegistryError: the account was changed, or signed with another key.
    """
    aliases, text = raw_tag(client, model_name)
    if aliases is None:
        return Seen({}, None, exists=False)
    return Seen(aliases, None if text is None else parse_state(workspace, text))


def raw_tag(client: MlflowClient, model_name: str) -> tuple[dict[str, str] | None, str | None]:
    """(aliases, None where there is no such model; the account as it stands)."""
    try:
        model = client.get_registered_model(model_name)
    except Exception as error:  # of MLflow, or of a database; their classes are not worth the import
        if is_missing(error):
            return None, None
        raise RegistryError(
            "the registry of MLflow does not answer", where=model_name, todo=_first_line(error)
        ) from None
    return {name: str(version) for name, version in dict(model.aliases).items()}, model.tags.get(STATE_TAG)


def parse_state(workspace: Workspace, text: str) -> RegistryState:
    """The account of a tag; raises RegistryError where it is not signed with our key."""
    mac, _, body = text.partition(" ")
    if not same(mac, sign(audit_key(workspace), _PURPOSE, body)):
        raise RegistryError("the account of the registry in MLflow is not signed with our key", todo=_OTHER_KEY)
    try:
        return RegistryState.from_json(body)
    except ContractError as error:
        raise RegistryError(f"the account of the registry cannot be read ({error.what})") from None


def write_state(client: MlflowClient, workspace: Workspace, model_name: str, state: RegistryState) -> None:
    """Sign the account and set it, in one write of MLflow's."""
    body = state.model_dump_json(exclude_defaults=True)
    client.set_registered_model_tag(model_name, STATE_TAG, f"{sign(audit_key(workspace), _PURPOSE, body)} {body}")


def with_audit(state: RegistryState, workspace: Workspace, end: ChainEnd) -> RegistryState:
    """The account that knows how far this workspace's audit was written."""
    mine = workspace_id(workspace)
    others = [(name, known) for name, known in state.audits.items() if name != mine]
    return state.model_copy(update={"audits": dict([*others, (mine, end)][-_MOST_AUDITS:])})


def known_end(state: RegistryState | None, workspace: Workspace) -> ChainEnd | None:
    """How far this workspace's audit was written by the account."""
    return None if state is None else state.audits.get(workspace_id(workspace))


def version_of(named: Named | None) -> str | None:
    """The version's number, or None."""
    return None if named is None else named.version


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
