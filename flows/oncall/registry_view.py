"""The registry as it stands, read and not touched: a few rows of MLflow's, without the seconds its import takes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from data_contracts.errors import RegistryError
from flows.oncall.prefect_view import reading
from flows.registry.direct import DirectClient
from flows.registry.state import ALIASES

if TYPE_CHECKING:
    from flows.oncall.findings import Findings
    from flows.registry.versions import Registry
    from flows.settings import Settings
    from flows.workspace import Workspace

_TIMEOUT_S = 3.0


class _Reading(DirectClient):
    """MLflow's sqlite database, opened to read: it waits for nobody's lock and takes none."""

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        if not self._sqlite:
            with super()._cursor() as ask:
                yield ask
            return
        from pathlib import Path

        with reading(Path(self._uri.removeprefix("sqlite:///")), _TIMEOUT_S) as connection:
            yield lambda statement, *values: [tuple(row) for row in connection.execute(statement, values).fetchall()]

    def search_model_versions(self, query: str) -> list[SimpleNamespace]:
        """Every version of the model that `name='...'` names, with its tags."""
        name = query.partition("'")[2].rpartition("'")[0]
        with self._cursor() as ask:
            live = "SELECT version FROM model_versions WHERE name = ? AND current_stage <> 'Deleted_Internal'"
            numbers = [row[0] for row in ask(f"{live} ORDER BY version", name)]
            tags: dict[int, dict[str, str]] = {number: {} for number in numbers}
            for number, key, value in ask("SELECT version, key, value FROM model_version_tags WHERE name = ?", name):
                tags.setdefault(number, {})[key] = value
        return [SimpleNamespace(version=number, tags=tags[number]) for number in numbers]


class _Asking:
    """An MLflow server, asked over HTTP."""

    def __init__(self, address: str) -> None:
        self._address = f"{address.rstrip('/')}/api/2.0/mlflow"
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        self._auth = (user, password) if user and password else None

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        import httpx

        try:
            answer = httpx.get(f"{self._address}/{path}", params=query, timeout=_TIMEOUT_S, auth=self._auth)
        except httpx.HTTPError as error:
            raise RegistryError(
                f"the MLflow server does not answer ({type(error).__name__})",
                where=self._address,
                todo="Start it, or mend NODULEFLOW_MLFLOW_TRACKING_URI.",
            ) from None
        if answer.status_code == 404:
            raise LookupError(path)
        if answer.status_code != 200:
            todo = "Set NODULEFLOW_MLFLOW_USER and _PASSWORD." if answer.status_code in (401, 403) else "Read its log."
            raise RegistryError(
                f"the MLflow server refuses (HTTP {answer.status_code})", where=self._address, todo=todo
            )
        return dict(answer.json())

    def probe(self) -> None:
        """Raises RegistryError where the server is away or refuses us."""
        self._get("experiments/search", max_results="1")

    def get_registered_model(self, name: str) -> SimpleNamespace:
        """Aliases and tags."""
        model = self._get("registered-models/get", name=name)["registered_model"]
        aliases = {one["alias"]: str(one["version"]) for one in model.get("aliases", [])}
        return SimpleNamespace(aliases=aliases, tags=_tags(model))

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        """Number and tags."""
        found = self._get("model-versions/get", name=name, version=version)["model_version"]
        return SimpleNamespace(version=version, tags=_tags(found))

    def search_model_versions(self, query: str) -> list[SimpleNamespace]:
        """Every version with its tags, at most the newest 1000."""
        found = self._get("model-versions/search", filter=query, max_results="1000").get("model_versions", [])
        return [SimpleNamespace(version=int(one["version"]), tags=_tags(one)) for one in found]


def _tags(record: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in record.get("tags", [])}


def probe_server(uri: str) -> None:
    """Ask an MLflow server once, for some seconds; raises RegistryError where it is away or refuses us."""
    _Asking(uri).probe()


def registry_view(workspace: Workspace, settings: Settings, found: Findings) -> dict[str, Any]:
    """Aliases, and the sentences of versions that wait for people; what is wrong goes to `found`."""
    record: dict[str, Any] = {**dict.fromkeys(ALIASES), "waiting_for_signoff": []}
    registry = found.section(
        "mlflow.db",
        lambda: _registry(workspace, settings),
        None,
        "restore it from a backup (`noduleflow restore`); the files of versions are in runs/ and mlartifacts/",
    )
    known_end_of = None
    if registry is not None:
        from flows.registry.faults import quick_faults
        from flows.registry.signoffs import policy_of, waiting
        from flows.registry.state import known_end, see

        def ask() -> None:
            nonlocal known_end_of
            seen = see(registry.client, workspace, registry.model_name)
            record.update({alias: seen.aliases.get(alias) for alias in ALIASES})
            known_end_of = known_end(seen.state, workspace)
            for fault in quick_faults(registry, seen):
                found.add(fault.line())
            if seen.state is not None and seen.state.phase == "intent":
                found.add("a move of the champion was cut off", "the next `promote`, `review` or `doctor` ends it")

        found.section("the registry", ask, None)
        record["waiting_for_signoff"] = found.section(
            "sign-offs", lambda: waiting(registry, policy_of(settings)), [], "check the policy file"
        )
    from flows.registry.audit import verify_audit

    for fault in found.section("audit.jsonl", lambda: verify_audit(workspace, known_end_of), []):
        found.add(f"audit {fault}")
    return record


def _registry(workspace: Workspace, settings: Settings) -> Registry | None:
    """None where nothing was ever registered."""
    from flows.registry.versions import Registry
    from flows.versions.tracking import tracking_uri

    if not workspace.mlflow_database.exists() and not settings.mlflow_tracking_uri:
        return None
    uri = tracking_uri(workspace)
    if uri.startswith("http"):
        return Registry(workspace, settings.model_name, settle=False, client=_Asking(uri))  # type: ignore[arg-type]
    direct = _Reading(uri)
    if direct.fits():
        return Registry(workspace, settings.model_name, settle=False, client=direct)  # type: ignore[arg-type]
    if uri.startswith("sqlite:///") and workspace.mlflow_database.is_file():
        with reading(workspace.mlflow_database, _TIMEOUT_S) as rows:
            try:
                rows.execute("SELECT count(*) FROM registered_models").fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return None  # made, and nothing is in it yet
                raise
    return Registry(workspace, settings.model_name, settle=False)
