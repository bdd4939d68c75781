"""The registry under many hands: attempts a second, kills, contradictions; and how long a rollback takes at night.

    python tests/benchmarks/bench_registry.py [--attempts 10000] [--processes 8] [--rollbacks 5]

Eight processes promote and roll back at random on one workspace, one of them is killed every forty attempts or so,
and a watcher looks at MLflow's own table all the time. Then `noduleflow rollback` of a ResNet50 is timed from the
start of its process to its end, beside the imports of MLflow and torch in one process. Then an append to an audit of
100 000 lines is timed beside one to an audit of a few. Prints a table and writes bench/registry.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
_MOST_ROLLBACK_S = 5.0


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


def row(work: str, peer: str, value: float, n: int, *, at_least: float | None = None, at_most: float | None = None):
    return {
        "work": work, "peer": peer, "value": value, "at_least": at_least, "at_most": at_most, "interval": None,
        "n": n, "machine": machine(),
    }  # fmt: skip


def stress(attempts: int, processes: int) -> list[dict[str, Any]]:
    """The whole of tests/registry_stress.py."""
    with tempfile.TemporaryDirectory(prefix="registry-stress-") as folder:
        command = [sys.executable, str(REPOSITORY / "tests" / "registry_stress.py"), "--folder", folder]
        command += ["--attempts", str(attempts), "--processes", str(processes), "--kill-every", "40"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    kills = f"{found['kills']} kills, {found['ended_for_others']} moves ended for a killed one"
    watched = found["watched"]
    return [
        row("moments without exactly one champion", kills, watched["wrong"], watched["looks"], at_most=0),
        row("contradictions in the audit, lost updates among them", kills, len(found["contradictions"]),
            found["moved"], at_most=0),
        row("faults that are left", kills, len(found["faults"]), found["attempts"], at_most=0),
        row("attempts a second", f"{processes} processes", found["attempts_per_s"], found["attempts"]),
    ]  # fmt: skip


def rollbacks(times: int) -> list[dict[str, Any]]:
    """Wall time of the command on two versions of a ResNet50 from random numbers."""
    with tempfile.TemporaryDirectory(prefix="registry-rollback-") as folder:
        prepared = [sys.executable, __file__, "--prepare", folder]
        subprocess.run(prepared, check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "flows", "--workspace", f"{folder}/ws", "rollback"]
        ours, peer = [], []
        for _ in range(times):
            ours.append(_timed(command))
            peer.append(_timed([sys.executable, "-c", "import mlflow.store.model_registry.sqlalchemy_store, torch"]))
    print(f"rollback {[round(value, 2) for value in ours]} s, imports alone {[round(value, 2) for value in peer]} s")
    return [
        row("rollback of a ResNet50, s", "the command, start to end", median(ours), times, at_most=_MOST_ROLLBACK_S),
        row("rollback / import of MLflow and torch", "paired", median(a / b for a, b in zip(ours, peer, strict=True)),
            times),
    ]  # fmt: skip


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def prepare(folder: Path) -> None:
    """A workspace with two versions of a ResNet50, the second of them champion."""
    import compression_cohort
    import registry_factory

    from data_contracts.params import TrainParams
    from flows.registry.promotion import promote
    from flows.settings import apply_environment

    settings = registry_factory.settings_of(folder)
    apply_environment(settings)
    compression_cohort.PARAMS = TrainParams(backbone="resnet50", weights="none", input_size_px=64, head="linear")
    workspace, _ = registry_factory.make_workspace(folder, versions=2)
    promote(workspace, settings, "1", expect="none", policy=registry_factory.OPEN)
    promote(workspace, settings, "2", expect="1", policy=registry_factory.OPEN)


def appends(times: int = 200) -> list[dict[str, Any]]:
    """An append behind 100 000 lines over one behind a few, paired."""
    from data_contracts.versions import AuditAnchor, ChainEnd
    from flows.registry.anchor import write_anchor
    from flows.registry.audit import append_audit
    from flows.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="registry-audit-") as folder:
        short, long = Workspace(Path(folder) / "short").create(), Workspace(Path(folder) / "long").create()
        for workspace in (short, long):
            append_audit(workspace, actor="a", action="policy", subject="s", detail={})
        last = long.audit_file.read_text()
        record = append_audit(long, actor="a", action="policy", subject="s", detail={})
        own = long.audit_file.read_text().splitlines()[-1]
        long.audit_file.write_text(last * 100_000 + own + "\n")
        end = ChainEnd(length=record.sequence + 1, head=record.digest, size_bytes=long.audit_file.stat().st_size)
        write_anchor(long, AuditAnchor(end=end))
        ratios = []
        for _ in range(times):
            seconds = []
            for workspace in (long, short):
                started = time.perf_counter()
                append_audit(workspace, actor="a", action="policy", subject="s", detail={})
                seconds.append(time.perf_counter() - started)
            ratios.append(seconds[0] / seconds[1])
    return [row("append behind 100 000 lines / behind few", "paired", median(ratios), times, at_most=1.5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare is not None:
        prepare(given.prepare)
        return
    rows = [*appends(), *rollbacks(given.rollbacks), *stress(given.attempts, given.processes)]
    out = REPOSITORY / "bench" / "registry.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")
    for line in rows:
        bound = f"at most {line['at_most']:g}" if line["at_most"] is not None else ""
        print(f"{line['work']:<55} {line['value']:>10.3f}  {bound:<12} n {line['n']:<8} {line['peer']}")


if __name__ == "__main__":
    main()
