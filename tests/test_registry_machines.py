"""Two machines, two workspaces, one MLflow on a real PostgreSQL: one of them wins, and both know who."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import Postgres
from registry_factory import OPEN, add_version

from data_contracts.errors import NoduleflowError, StaleExpectationError, UsageError, WorkspaceError
from flows.settings import Settings, apply_environment
from flows.workspace import Workspace

Machines = list[tuple[Workspace, Settings]]

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEY = "one key for both machines"
#: one machine promotes as soon as a file appears; another process, as another machine would be
_RACER = """
import json, os, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from registry_factory import OPEN
from data_contracts.errors import NoduleflowError
from flows.settings import Settings, apply_environment
from flows.workspace import Workspace
settings = Settings(workspace=Path({root!r}), _env_file=None)
apply_environment(settings)
import mlflow, pipeline.scoring.gates, models.predict
from flows.registry import Registry
from flows.registry.promotion import promote
workspace = Workspace(settings.workspace)
Registry(workspace, settings.model_name)
Path({ready!r}).touch()
while not Path({start!r}).exists():
    time.sleep(0.001)
try:
    promote(workspace, settings, {version!r}, expect="1", policy=OPEN)
    print("won")
except NoduleflowError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def machines(shared: Machines, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """The same two for each test, with what their environment says."""
    for name, value in _environment(postgres).items():
        monkeypatch.setenv(name, value)
    return shared


def _environment(postgres: Postgres) -> dict[str, str]:
    return {
        "NODULEFLOW_AUDIT_KEY": KEY,
        "NODULEFLOW_MLFLOW_TRACKING_URI": postgres.url,
        "MLFLOW_TRACKING_URI": postgres.url,
    }


@pytest.fixture(scope="module")
def shared(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two workspaces with the same three runs; version 1 is champion, made so by the first."""
    from flows.registry.promotion import promote

    folder = tmp_path_factory.mktemp("machines")
    before = dict(os.environ)
    os.environ.update(_environment(postgres))
    first = Settings(workspace=folder / "one", _env_file=None)
    apply_environment(first)
    workspace = Workspace(first.workspace).create()
    for number in (1, 2, 3):
        add_version(workspace, first, number)
    second = Settings(workspace=folder / "two", _env_file=None)
    other = Workspace(second.workspace).create()
    for name in ("runs", "datasets"):
        shutil.copytree(workspace.root / name, other.root / name)
    promote(workspace, first, "1", expect="none", policy=OPEN)
    yield [(workspace, first), (other, second)]
    os.environ.clear()
    os.environ.update(before)


def champion(machine: tuple[Workspace, Settings]) -> str | None:
    from flows.registry import Registry

    return Registry(machine[0], machine[1].model_name).alias("champion")


def faults(machine: tuple[Workspace, Settings]) -> list[str]:
    from flows.registry import Registry
    from flows.registry.faults import all_faults

    return [fault.what for fault in all_faults(Registry(machine[0], machine[1].model_name))]


def test_both_promote_at_once_and_one_wins(machines: Machines, tmp_path: Path) -> None:
    start, racers = tmp_path / "start", []
    for version, (workspace, _) in zip(("2", "3"), machines, strict=True):
        code = _RACER.format(
            paths=[str(Path(__file__).parents[1]), str(Path(__file__).parent)],
            root=str(workspace.root), ready=str(tmp_path / version), start=str(start), version=version,
        )  # fmt: skip
        racers.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
    while not all((tmp_path / version).exists() for version in ("2", "3")):
        assert all(racer.poll() is None for racer in racers)
        time.sleep(0.05)
    start.touch()
    answers = [racer.communicate(timeout=300)[0].strip() for racer in racers]
    assert sorted(answers) == ["StaleExpectationError", "won"]
    assert champion(machines[0]) == champion(machines[1]) == ("2" if answers[0] == "won" else "3")
    assert faults(machines[0]) == faults(machines[1]) == []


def test_what_one_machine_began_and_did_not_end_the_other_ends(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import aliases
    from flows.registry.audit import read_audit
    from flows.registry.promotion import promote

    (one, two), before = machines, champion(machines[0])
    target = "2" if before == "3" else "3"
    with monkeypatch.context() as patched:
        patched.setattr(aliases, "point", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote(*one, target, expect=str(before), policy=OPEN)
    assert champion(two) == target
    ended = read_audit(two[0])[-1]
    assert (ended.action, ended.detail["reconciled"]) == ("promote_done", True) and ended.detail["begun_in"]
    with pytest.raises(StaleExpectationError):
        promote(*one, "1", expect=str(before), policy=OPEN)
    assert faults(one) == faults(two) == []
    actions = [record.action for record in read_audit(one[0])]
    assert actions[-3:] == ["promote_intent", "promote_done", "promote_refused"]


def test_a_rollback_of_the_other_machine_s_promotion(machines: Machines) -> None:
    from flows.registry import Registry
    from flows.registry.direct import DirectClient
    from flows.registry.promotion import rollback

    one, two = machines
    previous = Registry(two[0], two[1].model_name).alias("previous_champion")
    assert isinstance(Registry.quick(two[0], two[1].model_name).client, DirectClient)
    assert rollback(*two)["champion"] == previous == champion(one)
    assert faults(one) == faults(two) == []


def test_the_lock_is_held_among_machines_and_falls_with_its_holder(machines: Machines) -> None:
    from flows.registry.lock import registry_lock

    (one, settings), (two, _) = machines
    name = settings.model_name
    waits = pytest.raises(WorkspaceError, match="another machine holds the lock")
    with registry_lock(one, name), waits, registry_lock(two, name, timeout_s=0.1):
        pass
    with registry_lock(two, name, timeout_s=5):
        pass


def test_who_lost_the_lock_moves_nothing(machines: Machines, postgres: Postgres) -> None:
    from flows.registry.lock import registry_lock

    (one, settings), _ = machines
    import psycopg2

    with registry_lock(one, settings.model_name) as check:
        check()
        with psycopg2.connect(postgres.url) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        with pytest.raises(WorkspaceError, match="lock does not answer"):
            check()


def test_a_machine_with_another_key_is_told_so(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.registry.promotion import promote

    monkeypatch.setenv("NODULEFLOW_AUDIT_KEY", "another key")
    with pytest.raises(NoduleflowError, match="NODULEFLOW_AUDIT_KEY"):
        promote(*machines[1], "1", expect="2", policy=OPEN)


def test_without_the_driver_the_command_says_what_to_install(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry.lock import registry_lock

    monkeypatch.setitem(sys.modules, "psycopg2", None)
    (one, settings), _ = machines
    with pytest.raises(UsageError, match="psycopg2 is not installed"), registry_lock(one, settings.model_name):
        pass


def test_two_threads_of_one_machine_wait_for_each_other(machines: Machines) -> None:
    from flows.registry.lock import registry_lock

    (one, settings), _ = machines
    inside, most = [], []

    def work() -> None:
        with registry_lock(one, settings.model_name):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
