"""The site that chaos is made of: a small cohort, the commands of a night, and children that can be killed.

Commands are forked from a process that has imported what they need, so that a kill falls upon work and not upon
imports; what they do from there on is what `noduleflow` does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: a fit of a moment
_NARROW = {
    "backbone": "resnet18",
    "weights": "none",
    "input_size_px": 32,
    "unfreeze": 1,
    "head": "linear",
    "augmentations": 1,
    "epochs": 2,
    "warmup_epochs": 0,
    "threads": 1,
}
#: gates that any version passes: what is tried here is not how good it is
_POLICY = """name = "chaos"
min_auc = 0.0
min_auc_minus_size = -1.0
max_auc_drop_vs_champion = 1.0
max_ece = 1.0
min_test_nodules = 1
refuse_severe_warnings = false
require_card = false
"""
SECRET = "chaos " * 8


@dataclass(frozen=True)
class Command:
    """One command of the night; {study} stands for a study of the workspace."""

    name: str
    words: tuple[str, ...]


@dataclass
class Child:
    """A forked command."""

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status (minus the signal where one ended it), or None where it still runs after so long."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if deadline is not None and time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def kill(self) -> int:
        """kill -9 of it and its children."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # it may not lead a group of its own yet
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait() or 0

    def said(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")


class Site:
    """Cohort and commands. folder: of the cohort and the logs; until: the last command of a night."""

    def __init__(self, folder: Path, n_patients: int, seed: int, until: str = "review") -> None:
        from data_contracts.params import PhantomParams
        from pipeline.cohort.phantom import generate_cohort

        self.folder, self.until = folder, until
        self.cohort = folder / "cohort"
        params = PhantomParams(seed=seed, n_patients=n_patients, matrix=96, spacing_a_mm=4.0, spacing_b_mm=5.0)
        generate_cohort(params, self.cohort)
        self.policy = folder / "policy.toml"
        self.policy.write_text(_POLICY)
        self._n_logs = 0

    def night(self) -> list[Command]:
        """The commands in their order."""
        settings = [word for key, value in _NARROW.items() for word in ("--set", f"{key}={value}")]
        every = [
            Command("ingest", ("ingest", str(self.cohort / "site-a"), "--site", "site-a")),
            Command("ingest b", ("ingest", str(self.cohort / "site-b"), "--site", "site-b")),
            Command("annotate", ("annotate", str(self.cohort / "nodules.csv"), "--format", "csv")),
            Command("prepare", ("prepare", "--set", "spacing_mm=1.5")),
            Command("train", ("train", "--preset", "finetune", *settings)),
            Command("promote", ("promote", "challenger", "--expect", "none", "--policy", str(self.policy))),
            Command("review", ("review", "{study}")),
        ]
        return every[: [command.name for command in every].index(self.until) + 1]

    def start(self, workspace: Path, command: Command, **environment: str) -> Child:
        """Fork a command."""
        self._n_logs += 1
        log = self.folder / "logs" / f"{self._n_logs:05d}-{command.name.replace(' ', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        words = [word if word != "{study}" else _a_study(workspace) for word in command.words]
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_the_command(["--workspace", str(workspace), "--debug", *words], log, environment)
        return Child(pid, log)


def _a_study(workspace: Path) -> str:
    """The first study key that has a series of its own folder, by name."""
    import json

    for record in sorted((workspace / "series").glob("*/series.json")):
        return str(json.loads(record.read_text())["study_key"])
    return "none"


def _be_the_command(words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    """The child: its own group, its own output, and nothing of the parent when it ends."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update({"NODULEFLOW_SECRET": SECRET, "NODULEFLOW_ACTOR": "chaos", **environment})
        from flows.cli import main

        main(list(words))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _end_threads()
        os._exit(status)


def _end_threads() -> None:
    """What an interpreter does when it ends, of which a forked child has only this."""
    import threading

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(10)


def import_everything() -> None:
    """What the commands import, before the first fork; no thread may be started by it."""
    import importlib

    rooms = (
        "flows.intake.ingest",
        "flows.intake.annotation",
        "flows.datasets.prepare",
        "flows.learning.training",
        "flows.registry.promotion",
        "flows.reviewing.review",
        "flows.versions.tracking_model",
        "flows.commands.data",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
    )
    for room in rooms:
        importlib.import_module(room)
