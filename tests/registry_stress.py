"""Many processes promote and roll back at once, some are killed, and somebody watches who is champion.

    python tests/registry_stress.py --attempts 500 --processes 8 --folder DIR

Prints one JSON record. Workers are forked from a process that has imported everything, so that a killed one is
replaced at once; nothing of MLflow or sqlite is opened before the fork.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import sqlite3
import struct
import sys
import time
from collections import Counter as Counts
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class Counter:
    """A number that forked processes share; a kill in the middle of it loses at most one count."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def add(self) -> int:
        value = self.value + 1
        self._memory[:8] = struct.pack("q", value)
        return value

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._memory[:8])[0])


def forked(work: Callable[[], None]) -> int:
    """Do `work` in another process; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def attempt(folder: Path, seed: int, log: Path, counters: list[Counter], attempts: int) -> None:
    """Promote or roll back at random until all attempts together are enough; every answer is a line of `log`."""
    from registry_factory import OPEN, settings_of

    from data_contracts.errors import NoduleflowError
    from flows.registry import Registry
    from flows.registry.promotion import promote, rollback
    from flows.workspace import Workspace

    chance = random.Random(seed)
    settings = settings_of(folder)
    workspace = Workspace(settings.workspace)
    registry = Registry(workspace, settings.model_name)
    mine = counters[seed % len(counters)]
    with log.open("a") as stream:
        while sum(counter.value for counter in counters) < attempts:
            mine.add()
            champion = registry.alias("champion") or "none"
            stale = chance.random() < 0.1
            expect = str(chance.randint(1, 3)) if stale else champion
            line: dict[str, object] = {"kind": "rollback" if chance.random() < 0.3 else "promote", "expect": expect}
            try:
                if line["kind"] == "rollback":
                    line["champion"] = rollback(workspace, settings, expect=expect)["champion"]
                else:
                    version = str(chance.randint(1, 3))
                    decision = promote(workspace, settings, version, expect=expect, policy=OPEN)
                    line["champion"] = decision.version if decision.gates else None  # it was champion already
            except NoduleflowError as error:
                line["refused"] = type(error).__name__
            stream.write(json.dumps(line) + "\n")
            stream.flush()


def watch(database: Path, model: str, done: Counter, result: Path) -> None:
    """Look into MLflow's own table until told to stop: one champion, at every moment from the first on."""
    looks, seen, wrong = 0, set(), 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    asked = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'champion'"
    while not done.value:
        found = [row[0] for row in connection.execute(asked, (model,))]
        looks += 1
        wrong += len(found) != 1
        seen |= set(found)
        time.sleep(0.003)
    result.write_text(json.dumps({"looks": looks, "wrong": wrong, "champions_seen": len(seen)}))


def judge_chain(lines: list[dict], answers: list[dict], first_move: int) -> list[str]:
    """What contradicts "one move after the other, and none lost"; empty where nothing does."""
    wrong = []
    champion, pending, made, move = None, None, [], 0
    for line in lines:
        action, detail = line["action"], line["detail"]
        if action.endswith("_intent"):
            if pending is not None:
                wrong.append(f"line {line['sequence'] + 1}: an intent before the last one was ended")
            if detail["champion_before"] != champion or detail["move"] != move + 1:
                wrong.append(f"line {line['sequence'] + 1}: it does not begin where the last move ended")
            pending = line
        elif action.endswith("_done"):
            if pending is None or detail["move"] != pending["detail"]["move"] or line["subject"] != pending["subject"]:
                wrong.append(f"line {line['sequence'] + 1}: done, and not meant")
            else:
                made.append((action.removesuffix("_done"), champion or "none", line["subject"]))
            champion, move, pending = line["subject"], detail["move"], None
        elif action == "move_abandoned":
            wrong.append(f"line {line['sequence'] + 1}: a sound move was given up")
    moved = [(answer["kind"], answer["expect"], answer["champion"]) for answer in answers if answer.get("champion")]
    counts: dict[tuple, int] = {}
    for move_made in made[first_move:]:
        counts[move_made] = counts.get(move_made, 0) + 1
    for said in moved:
        counts[said] = counts.get(said, 0) - 1
        if counts[said] < 0:
            wrong.append(f"{said} was answered more often than it was done: an update was lost")
    return wrong


def run(folder: Path, attempts: int, processes: int, kill_every: int, seed: int) -> dict[str, object]:
    """Set up, let them loose, kill some, and judge what is left."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from registry_factory import OPEN, make_workspace, settings_of

    from flows.settings import apply_environment

    settings = settings_of(folder)
    apply_environment(settings)
    # Imported before the fork; nothing of it is opened here.
    import sqlalchemy.orm

    import flows.registry.promotion
    import models.predict  # noqa: F401
    import pipeline.scoring.gates  # noqa: F401
    from flows.workspace import Workspace

    sqlalchemy.orm.configure_mappers()

    def set_up() -> None:
        workspace, _ = make_workspace(folder, versions=3)
        flows.registry.promotion.promote(workspace, settings, "1", expect="none", policy=OPEN)
        flows.registry.promotion.promote(workspace, settings, "2", expect="1", policy=OPEN)

    if os.waitstatus_to_exitcode(os.waitpid(forked(set_up), 0)[1]):
        raise SystemExit("the workspace could not be made")
    workspace = Workspace(settings.workspace)
    counters, done, log = [Counter() for _ in range(processes)], Counter(), folder / "answers.jsonl"
    result = folder / "watched.json"
    watcher = forked(lambda: watch(workspace.mlflow_database, settings.model_name, done, result))
    started, kills, chance = time.monotonic(), 0, random.Random(seed)
    workers = {
        forked(lambda number=number: attempt(folder, number, log, counters, attempts)): number
        for number in range(processes)
    }
    next_seed, next_kill = processes, kill_every
    failed = 0
    while workers:
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            number = workers.pop(ended[0], None)
            failed += number is not None and os.waitstatus_to_exitcode(ended[1]) not in (0, -signal.SIGKILL)
            if not workers:
                break
        if workers and next_kill < (count := sum(counter.value for counter in counters)) < attempts:
            time.sleep(chance.uniform(0, 0.1))  # at any moment of an attempt
            victim = chance.choice(list(workers))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            number, kills = workers.pop(victim), kills + 1
            fresh = next_seed - next_seed % processes + number
            next_seed += processes
            workers[forked(lambda seed=fresh: attempt(folder, seed, log, counters, attempts))] = number
            next_kill = count + chance.randint(1, 2 * kill_every)
        time.sleep(0.01)
    elapsed = time.monotonic() - started
    done.add()
    os.waitpid(watcher, 0)
    # What the last kill left is ended by whoever opens the registry.
    from flows.registry import Registry
    from flows.registry.faults import all_faults

    registry = Registry(workspace, settings.model_name)
    lines = [json.loads(line) for line in workspace.audit_file.read_text().splitlines()]
    answers = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return {
        "attempts": sum(counter.value for counter in counters),
        "answers": len(answers),
        "moved": sum(bool(answer.get("champion")) for answer in answers),
        "refused": sum("refused" in answer for answer in answers),
        "refusals": dict(Counts(str(answer["refused"]) for answer in answers if "refused" in answer)),
        "failed_workers": failed,
        "kills": kills,
        "ended_for_others": sum(bool(line["detail"].get("reconciled")) for line in lines),
        "elapsed_s": round(elapsed, 2),
        "attempts_per_s": round(sum(counter.value for counter in counters) / elapsed, 2),
        "watched": json.loads(result.read_text()),
        "faults": [fault.what for fault in all_faults(registry)],
        "contradictions": judge_chain(lines, answers, first_move=2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=500)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kill-every", type=int, default=20, help="attempts between kills, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    record = run(given.folder, given.attempts, given.processes, given.kill_every, given.seed)
    print(json.dumps(record, indent=2))
