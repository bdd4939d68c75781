"""One run of a job at a time: a second one ends at once, and a killed one stands in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data_contracts.errors import UsageError, WorkspaceError
from flows.workspace import Workspace

#: a killed run on another machine holds its slot no longer than this after its last sign of life
LEASE_S = 120.0


def limit_name(job: str) -> str:
    """The global concurrency limit of a job on a Prefect server."""
    return f"noduleflow-{job}"


@contextmanager
def sole_run(workspace: Workspace, job: str, *, on_server: bool) -> Iterator[bool]:
    """Whether this is the only run of the job now.

    On this machine a lock of the workspace decides, which the system frees with its process, however that ends. Where
    several machines share a Prefect server, a concurrency limit with a lease decides beside it; a deployment's own
    limit would stay taken by a run that was killed together with its worker.

    Raises
    ------
    UsageError: the server has no such limit, which `noduleflow deploy` makes.
    """
    lock = workspace.lock(f"job-{job}", timeout_s=0)
    try:
        lock.__enter__()
    except WorkspaceError:
        yield False
        return
    try:
        if not on_server:
            yield True
            return
        with _slot(job) as mine:
            yield mine
    finally:
        lock.__exit__(None, None, None)


@contextmanager
def _slot(job: str) -> Iterator[bool]:
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    slot = concurrency(
        limit_name(job), timeout_seconds=1, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False
    )
    try:
        slot.__enter__()
    except TimeoutError:
        yield False
        return
    except ConcurrencySlotAcquisitionError:
        raise UsageError(
            f"the Prefect server has no concurrency limit {limit_name(job)!r}",
            todo="Run `noduleflow deploy`, which makes what the jobs need.",
        ) from None
    try:
        yield True
    finally:
        slot.__exit__(None, None, None)
