"""The troubles: each takes a fresh workspace through the night its own way, and notes what it did."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chaos_site import SECRET, Child, Command, Site
from mlflow_server import MlflowServer

#: a command that runs longer than this hangs
TIMEOUT_S = 900.0


@dataclass
class Night:
    """One night under trouble. usual_s: how long each command takes undisturbed; notes: what was seen."""

    site: Site
    workspace: Path
    random: random.Random
    usual_s: dict[str, float]
    environment: dict[str, str] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def start(self, command: Command) -> Child:
        """Start a command."""
        return self.site.start(self.workspace, command, **self.environment)

    def finish(self, command: Command, *, may_fail: bool = False, child: Child | None = None) -> int:
        """Run a command to its end; a failure that may not be, or one without a clear line, is a fault."""
        child = child or self.start(command)
        status = child.wait(TIMEOUT_S)
        if status is None:
            child.kill()
            self.faults.append(f"{command.name} hung for {TIMEOUT_S:.0f} s")
            return 124
        if status == 0 or _already_done(command, child):
            return 0
        lines = [line for line in child.said().splitlines() if line.startswith("noduleflow: ")]
        if not lines or "unexpected" in lines[-1]:
            self.faults.append(
                f"{command.name} ended with {status} and said {lines[-1:] or 'nothing'} ({child.log.name})"
            )
        elif not may_fail:
            self.faults.append(f"{command.name} ended with {status}: {lines[-1]} ({child.log.name})")
        else:
            self.notes.append(lines[-1].removeprefix("noduleflow: ")[:140])
        return status


def _already_done(command: Command, child: Child) -> bool:
    """A promotion that was killed after it was done is refused the second time: `--expect none` is no longer so."""
    return command.name == "promote" and "the champion is 1, not none" in child.said()


def undisturbed(night: Night) -> None:
    """Every command once."""
    for command in night.site.night():
        started = time.monotonic()
        night.finish(command)
        night.usual_s[command.name] = time.monotonic() - started


def kills(night: Night, at_most: int = 6) -> None:
    """kill -9 at random moments of every command, and the same command again, until it ends."""
    for command in night.site.night():
        span_s = night.usual_s[command.name]
        for _ in range(night.random.randint(1, at_most)):
            child = night.start(command)
            # half of them anywhere, half of them early: a command that goes on has less and less to do
            moment_s = span_s * night.random.random() ** night.random.choice((1, 3))
            status = child.wait(moment_s)
            if status is None:
                child.kill()
                night.kills[command.name] = night.kills.get(command.name, 0) + 1
            elif status == 0 or _already_done(command, child):
                break
            else:
                night.faults.append(f"{command.name} ended with {status} after a kill ({child.log.name})")
        night.finish(command)


def two_at_once(night: Night) -> None:
    """Two nights at the same time on the same workspace."""
    for command in night.site.night():
        pair = [night.start(command), night.start(command)]
        for child in pair:
            night.finish(command, child=child)


def full_disk(night: Night, disk: object) -> None:
    """Little room before every command: it fails with a line or does what it can; with room again it goes on."""
    for command in night.site.night():
        disk.fill(night.random.choice((0, 2**14, 2**18, 2**20)))  # type: ignore[attr-defined]
        night.finish(command, may_fail=True)
        disk.free()  # type: ignore[attr-defined]
        night.finish(command)


def read_only(night: Night, disk: object) -> None:
    """The store cannot be written when a command starts, or stops to be while it is at work."""
    for command in night.site.night():
        disk.read_only()  # type: ignore[attr-defined]
        night.finish(command, may_fail=True)
        disk.read_only(False)  # type: ignore[attr-defined]
        night.finish(command)


def torn_tables(night: Night) -> None:
    """After every command the tables are garbage; the command that writes them makes them anew."""
    commands = night.site.night()
    repairs = {
        "series.parquet": commands[1],
        "rejected.parquet": commands[1],
        "nodules.parquet": commands[2],
    }
    for command in commands:
        night.finish(command)
        for name, repair in repairs.items():
            table = night.workspace / name
            if not table.exists():
                continue
            whole = table.read_bytes()
            table.write_bytes(night.random.choice((b"", b"PAR1", whole[: len(whole) // 2], b"\0" * len(whole))))
            night.finish(repair)


def prefect_away(night: Night, server: object, away_s: float) -> None:
    """The Prefect server is killed while a command is at work, and comes back on the same database."""
    for command in night.site.night():
        child = night.start(command)
        if child.wait(night.usual_s[command.name] * night.random.random()) is None and command.name != "promote":
            server.stop()  # type: ignore[attr-defined]
            time.sleep(away_s)
            server.start()  # type: ignore[attr-defined]
            night.finish(command, may_fail=True, child=child)
        night.finish(command)


def mlflow_away(night: Night, folder: Path, away_s: float) -> None:
    """As `prefect_away` with a server of MLflow, which keeps its database and artifacts where a workspace does."""
    workspace = night.workspace
    server = MlflowServer(
        fresh(folder), f"sqlite:///{workspace}/mlflow.db", "a word of the chaos", artifacts=workspace / "mlartifacts"
    )
    night.environment = {
        "NODULEFLOW_MLFLOW_TRACKING_URI": server.url,
        "NODULEFLOW_MLFLOW_USER": "noduleflow",
        "NODULEFLOW_MLFLOW_PASSWORD_FILE": str(server.password_file),
    }
    with ExitStack() as running:
        running.enter_context(server)
        for command in night.site.night():
            child = night.start(command)
            if child.wait(night.usual_s[command.name] * night.random.random()) is None:
                running.close()
                time.sleep(away_s)
                running.enter_context(server)
                night.finish(command, may_fail=True, child=child)
            night.finish(command)


def clock_jumps(night: Night) -> None:
    """Every other command lives two days ago or a day ahead, by libfaketime, as a process of its own."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed (Debian's package faketime)")
    for number, command in enumerate(night.site.night()):
        if number % 2 == 0 and command.name != "review":
            night.finish(command)
            continue
        shift = night.random.choice(("-2d", "+1d"))
        words = [word if word != "{study}" else _study(night) for word in command.words]
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAKETIME": shift,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NODULEFLOW_SECRET": SECRET,
            "NODULEFLOW_ACTOR": "chaos",
        }
        done = subprocess.run(
            [sys.executable, "-m", "flows", "--workspace", str(night.workspace), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        night.notes.append(f"{command.name} at {shift}")
        if done.returncode != 0:
            night.faults.append(f"{command.name} at {shift} ended with {done.returncode}: {done.stderr[-300:]}")
            night.finish(command)


def _study(night: Night) -> str:
    from chaos_site import _a_study

    return _a_study(night.workspace)


def fresh(folder: Path, make: Callable[[Path], None] | None = None) -> Path:
    """An empty folder for a workspace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if make is not None:
        make(folder)
    return folder
