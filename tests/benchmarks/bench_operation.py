"""What orchestration costs: task runs and seconds of an ingest under Prefect, beside the same functions called plainly.

    python tests/benchmarks/bench_operation.py [--studies 10000] [--rounds 1]

Small series are the worst case: each takes some milliseconds, and a task run takes as long. The cost is measured twice
on the embedded server, which runs before and after: as the difference of whole ingests, where the noise of the machine
is larger than it, and as the difference of ingests whose tasks find their outcomes ready, where hardly anything else is
left. The bar is on the second, as a share of the whole ingest.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(Path(__file__).parent)]

from paired import Row, publish, take_turns, value_row  # noqa: E402
from prefect_counts import settled_count  # noqa: E402
from small_studies import write_studies  # noqa: E402

from flows.settings import Settings, apply_environment  # noqa: E402

#: of a stage of 10 000 studies, and of the whole of its wall time
MOST_TASK_RUNS, MOST_SHARE = 200, 0.02
#: voxels of a chest of 300 slices
_CHEST_VOXELS = 300 * 512 * 512


@contextmanager
def called_plainly() -> Iterator[None]:
    """The steps of an ingest as functions on as many threads, without Prefect."""
    from flows.intake import ingest
    from flows.settings import series_workers

    with concurrent.futures.ThreadPoolExecutor(series_workers()) as pool:
        function = ingest.ingest_batch.fn
        batch = SimpleNamespace(submit=lambda *given: pool.submit(function, *given))

        def completed(futures: list[Any]) -> Iterator[Any]:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()

        plain = {"scan": ingest.scan.fn, "rebuild_tables": ingest.rebuild_tables.fn, "completed": completed}
        with patch.multiple(ingest, ingest_batch=batch, **plain):
            yield


class Ready:
    """Stands in for the work of a batch: outcomes of an earlier run."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Any] = {}

    def keep(self, found: dict[str, Any]) -> dict[str, Any]:
        self.outcomes |= found
        return found

    def of(self, batch: Any, order: Any, told: Callable[..., None]) -> dict[str, Any]:
        found = {raw.group_key: self.outcomes[raw.group_key] for raw in batch.series}
        for key, outcome in found.items():
            told(key, *outcome)
        return found


def ingest_rows(work: Path, source: Path, n: int, rounds: int) -> list[Row]:
    from data_contracts.params import IngestParams
    from flows.engine import engine
    from flows.intake.batch import HeldBatch
    from flows.intake.ingest import ingest_flow
    from flows.intake.sources import PrivatePaths
    from flows.workspace import Workspace

    ready, params, fresh = Ready(), IngestParams(keep_vault=False), iter(range(10**6))
    work_of = HeldBatch.ingest

    def fresh_root() -> str:
        return str(work / f"workspace-{next(fresh)}")

    def stored_root() -> str:
        """The workspace of the first run, which remembers no source."""
        shutil.rmtree(work / "workspace-0" / "known", ignore_errors=True)
        return str(work / "workspace-0")

    def under_prefect(root: Callable[[], str]) -> None:
        ingest_flow(root(), PrivatePaths(paths=(source,)), "site", params, False)

    def plainly(root: Callable[[], str]) -> None:
        with called_plainly():
            ingest_flow.fn(root(), PrivatePaths(paths=(source,)), "site", params, False)

    def both(root: Callable[[], str]) -> dict[str, Callable[[], object]]:
        return {"plain": lambda: plainly(root), "prefect": lambda: under_prefect(root)}

    # One key, so that the outcomes of one run fit the others.
    os.environ["NODULEFLOW_SECRET"] = "measured"
    server = Workspace(work / "server")
    with engine(server) as address:
        before = settled_count(address, "task_runs")
        with patch.object(HeldBatch, "ingest", lambda *given: ready.keep(work_of(*given))):
            under_prefect(fresh_root)
        task_runs = settled_count(address, "task_runs") - before
        whole = take_turns(both(fresh_root), rounds, warm_up=0)
        settled_count(address, "task_runs")
        with patch.object(HeldBatch, "ingest", lambda *given: ready.of(*given)):
            empty = take_turns(both(stored_root), 3, warm_up=1)
    each = [ours - theirs for ours, theirs in zip(empty["prefect"], empty["plain"], strict=True)]
    cost_s = sorted(each)[len(each) // 2]
    wall_s = min(whole["plain"])
    share = cost_s / (wall_s + cost_s)
    name = f"ingest of {n} small studies"
    seconds = {"plain_s": round(wall_s, 2), "prefect_s": round(min(whole["prefect"]), 2), "orchestration_s": cost_s}
    differences = [1 - theirs / ours for ours, theirs in zip(whole["prefect"], whole["plain"], strict=True)]
    spread = (min(each) / (wall_s + min(each)), max(each) / (wall_s + max(each)))
    whole_share = 1 - min(whole["plain"]) / min(whole["prefect"])
    return [
        value_row(f"{name}: task runs", task_runs, "task runs", at_most=MOST_TASK_RUNS),
        value_row(f"{name}: orchestration", share, "of wall", n=3, interval=spread, at_most=MOST_SHARE, **seconds),
        value_row(
            f"{name}: whole runs apart by",
            whole_share,
            "of wall",
            n=rounds,
            interval=(min(differences), max(differences)),
        ),
    ]


def plan_rows(n: int = 10_000) -> list[Row]:
    """Tasks that `n` chests of 300 slices become, on this machine and on a cluster of 64 workers."""
    from flows.running.batches import batches

    rows = []
    for stage, weight, full in (("ingest", _CHEST_VOXELS, 8 << 20), ("prepare", 0, 1), ("review", 0, 1)):
        for workers in (2, 64):
            tasks = len(list(batches(range(n), weight=lambda item, w=weight: w, full=full, workers=workers, size=0)))
            name = f"{stage} of {n} chests, {workers} workers: tasks"
            rows.append(value_row(name, tasks, "tasks", at_most=MOST_TASK_RUNS))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        apply_environment(Settings(workspace=work / "server"))
        source = write_studies(work / "source", given.studies)
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - a line a series
        try:
            rows = ingest_rows(work, source, given.studies, given.rounds)
        finally:
            sys.stderr = sys.__stderr__
    publish("operation", [*rows, *plan_rows()])


if __name__ == "__main__":
    main()
