"""The findings of a series, several at a time: scipy, zlib and the network leave Python's lock while they compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Made = TypeVar("Made")


def for_each(n: int, make: Callable[[int], Made]) -> list[Made]:
    """What `make` gives for 0..n-1, in order; as many at a time as there are processors, four at most.

    BLAS keeps to one thread meanwhile: several of its own for each of these take turns on the same processors.
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(make, range(n)))
