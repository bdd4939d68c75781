"""Items by task: few tasks, because each costs the Prefect server some 25 ms and 30 KB, and none of them endless."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from flows.running.plan import configured_batch
from flows.settings import series_workers

T = TypeVar("T")

#: tasks of one stage, however many items there are
MOST_TASKS = 128
#: small items share a task until there are so few
_FEW_TASKS = 32
_TASKS_OF_A_WORKER = 4


def batches(
    items: Sequence[T],
    *,
    weight: Callable[[T], float] = lambda item: 0.0,
    full: float = math.inf,
    workers: int = 0,
    size: int | None = None,
    most_tasks: int = MOST_TASKS,
) -> Iterator[tuple[T, ...]]:
    """The items in order, by task.

    Parameters
    ----------
    weight, full: what an item costs; a task of so much takes no more items than it must.
    workers: how many tasks run at a time; 0 asks the settings.
    size: items of a task; None asks the settings, where 0 means automatic: at most `most_tasks`.
    """
    if not items:
        return
    size = configured_batch() if size is None else size
    least = size or math.ceil(len(items) / most_tasks)
    few = min(max(_FEW_TASKS, _TASKS_OF_A_WORKER * (workers or series_workers())), most_tasks)
    most = size or max(least, len(items) // few + 1)
    some: list[T] = []
    total = 0.0
    for item in items:
        some.append(item)
        total += weight(item)
        if len(some) >= most or (total >= full and len(some) >= least):
            yield tuple(some)
            some, total = [], 0.0
    if some:
        yield tuple(some)
