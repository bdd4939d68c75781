"""The task runner of the configuration, made when a flow starts: threads, processes, a Dask or a Ray cluster."""

from __future__ import annotations

import atexit
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from data_contracts.errors import ExchangeError, NoduleflowError, UsageError, WorkspaceError
from flows.progress import say
from flows.running.plan import RunnerPlan, configured_plan
from flows.settings import Settings, series_workers

if TYPE_CHECKING:
    from distributed import LocalCluster

_CONNECT_S = 10.0

_made: dict[str, LocalCluster] = {}
_making = threading.Lock()


class ConfiguredRunner(ThreadPoolTaskRunner[Any]):
    """Stands in a flow's definition; what runs its tasks is decided when the flow starts.

    one_at_a_time: on threads, because its tasks use every core themselves.
    """

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        super().__init__(max_workers=1)
        self._one_at_a_time = one_at_a_time

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker is sent the flow of its task, and must not start a cluster for it."""
        return ThreadPoolTaskRunner, (1,)

    def duplicate(self) -> TaskRunner[Any]:  # type: ignore[override]
        return _runner(configured_plan(), 1 if self._one_at_a_time else series_workers())


def _runner(plan: RunnerPlan, workers: int) -> TaskRunner[Any]:
    if plan.kind == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if plan.kind == "processes":
        return ProcessPoolTaskRunner(max_workers=series_workers())
    return _dask_runner(plan) if plan.kind == "dask" else _ray_runner(plan)


def completed(futures: Iterable[Any]) -> Iterator[Any]:
    """What each task returned, as they end; raises what a task raised, and WorkspaceError where it was lost."""
    for future in as_completed(list(futures)):
        try:
            result = future.result()
            # Dask keeps a result on its worker, and would make it anew if that died after this flow.
            release = getattr(getattr(future, "wrapped_future", None), "release", None)
            if release is not None:
                release()
            yield result
        except NoduleflowError:
            raise
        except Exception as error:
            raise WorkspaceError(
                f"a task was lost with its workers ({type(error).__name__})",
                todo="What is done stays; run the same command again. The workers' logs say why they ended.",
            ) from None


def _dask_runner(plan: RunnerPlan) -> TaskRunner[Any]:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise _not_installed("prefect-dask", "dask") from None
    if not plan.address:
        return DaskTaskRunner(address=_local_cluster().scheduler_address)
    _must_answer(plan)
    _check_dask_workers(plan)
    return DaskTaskRunner(address=plan.address)


def _local_cluster() -> LocalCluster:
    """One Dask cluster a process, on loopback alone, for all its flows."""
    from distributed import LocalCluster

    with _making:
        if "dask" not in _made:
            _made["dask"] = LocalCluster(
                n_workers=series_workers(), threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            )
            atexit.register(close_clusters)
        return _made["dask"]


def close_clusters() -> None:
    """End the cluster that this process made, if any."""
    with _making, suppress(Exception):
        if (cluster := _made.pop("dask", None)) is not None:
            cluster.close()


def _check_dask_workers(plan: RunnerPlan) -> None:
    from distributed import Client

    try:
        with Client(plan.address, timeout=_CONNECT_S, set_as_default=False) as client:
            workers = list(client.scheduler_info(n_workers=-1)["workers"])
    except (OSError, ValueError, TypeError) as error:
        raise ExchangeError(
            f"what answers there is no Dask scheduler that this one understands ({type(error).__name__})",
            where=plan.address,
            todo="Run the same versions of dask and distributed on every machine.",
        ) from None
    if not workers:
        raise ExchangeError("the Dask cluster has no worker", where=plan.address, todo="Start `dask worker` there.")
    if not Settings().prefect_api_url and any(not _is_here(urlsplit(worker).hostname or "") for worker in workers):
        raise UsageError(
            "workers on other machines cannot reach the embedded Prefect server",
            where=plan.address,
            todo="Start a Prefect server and name it in NODULEFLOW_PREFECT_API_URL.",
        )
    say(f"tasks run on {len(workers)} workers of the Dask cluster at {plan.address}")


def _ray_runner(plan: RunnerPlan) -> TaskRunner[Any]:
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise _not_installed("prefect-ray", "") from None
    if plan.address:
        _must_answer(plan)
        if not Settings().prefect_api_url and not _is_here(urlsplit(plan.address).hostname or ""):
            raise UsageError(
                "workers on other machines cannot reach the embedded Prefect server",
                where=plan.address,
                todo="Start a Prefect server and name it in NODULEFLOW_PREFECT_API_URL.",
            )
        return RayTaskRunner(address=plan.address)
    quiet = {"include_dashboard": False, "num_cpus": series_workers()}
    return RayTaskRunner(init_kwargs={**quiet, "_node_ip_address": "127.0.0.1"})


def _must_answer(plan: RunnerPlan) -> None:
    """A client that finds nobody waits for half a minute and then says something else."""
    place = urlsplit(plan.address)
    try:
        socket.create_connection((place.hostname or "", place.port or 0), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ExchangeError(
            f"no cluster answers ({error.strerror or type(error).__name__})",
            where=plan.address,
            todo="Start it, or set NODULEFLOW_RUNNER to threads.",
        ) from None


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's."""
    import psutil

    if host in ("", "localhost", "::1") or host.startswith("127."):
        return True
    with suppress(OSError):
        host = socket.gethostbyname(host)
    return any(address.address == host for found in psutil.net_if_addrs().values() for address in found)


def _not_installed(package: str, extra: str) -> UsageError:
    how = f'pip install ".[{extra}]" in the checkout' if extra else f"pip install {package}"
    return UsageError(f"this task runner needs {package}, which is not installed", todo=f"Install it: {how}.")
