"""How many runs a Prefect server knows, which it is told of behind our back."""

from __future__ import annotations

import time

import httpx

_QUIET_S = 4.0


def settled_count(address: str, kind: str) -> int:
    """Runs of a kind (task_runs, flow_runs) at an API address, once it has written down all it was sent."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < _QUIET_S:
        time.sleep(0.5)
        found = httpx.post(f"{address}/{kind}/count", json={}, timeout=60).json()
        if found != count:
            count, since = found, time.monotonic()
    return int(count)
