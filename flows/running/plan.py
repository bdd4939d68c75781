"""Which task runner the configuration names; nothing heavy is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_contracts.errors import UsageError

WORDS = ("threads", "processes", "dask", "ray")
#: scheme of an address -> kind of cluster
_SCHEMES = {"dask": "dask", "tcp": "dask", "tls": "dask", "ray": "ray"}
_ADDRESS = re.compile(r"(?P<scheme>[a-z]+)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")

_of_the_file: dict[str, object] = {}


@dataclass(frozen=True)
class RunnerPlan:
    """kind: one of WORDS. address: of a cluster that is there already, as its client takes it; "" makes one here."""

    kind: str = "threads"
    address: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether tasks run in other processes than the flow."""
        return self.kind != "threads"


def runner_plan(text: str) -> RunnerPlan:
    """The plan that a word or an address names; raises ValueError."""
    word = text.strip()
    if word.lower() in ("", *WORDS):
        return RunnerPlan(word.lower() or "threads")
    found = _ADDRESS.fullmatch(word)
    if found is None or found["scheme"] not in _SCHEMES or int(found["port"]) > 65535:
        raise ValueError(
            "a task runner is threads, processes, dask, ray, or the address of a cluster such as "
            "dask://host:8786 or ray://host:10001"
        )
    kind = _SCHEMES[found["scheme"]]
    scheme = "tcp" if found["scheme"] == "dask" else found["scheme"]
    return RunnerPlan(kind, f"{scheme}://{found['host']}:{found['port']}")


def take_from_file(runner: str, batch: int | None) -> None:
    """What the configuration file of a run says; the environment goes before it."""
    _of_the_file.clear()
    _of_the_file.update({"runner": runner, "batch": batch})


def configured_plan() -> RunnerPlan:
    """The plan of the environment, else of the configuration file, else threads; raises UsageError."""
    from flows.settings import Settings

    try:
        return runner_plan(Settings().runner or str(_of_the_file.get("runner") or ""))
    except ValueError as error:
        raise UsageError(str(error), where="runner") from None


def configured_batch() -> int:
    """Items of a task by the configuration; 0 is automatic."""
    from flows.settings import Settings

    batch = Settings().batch
    return batch if batch is not None else int(_of_the_file.get("batch") or 0)  # type: ignore[call-overload]
