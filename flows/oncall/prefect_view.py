"""Flow runs and schedules as Prefect has them: its embedded database, opened to read, or a server that is asked.

Prefect is not imported and no server is started: this answers within a second, also when nothing else does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.errors import WorkspaceError
from flows.oncall.far_schedules import next_due

if TYPE_CHECKING:
    from flows.settings import Settings
    from flows.workspace import Workspace

#: runs that are read, newest first, beside all that have not ended
_RECENT = 100
_TIMEOUT_S = 2.0
_OPEN = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")


@dataclass(frozen=True)
class FlowRun:
    """One run of a flow. type: Prefect's state type; state: its name, such as NothingNew; times are UTC.

    alive: when it last gave a sign of life; None where it never did. scheduled: whether a clock started it.
    """

    run_id: str
    flow: str
    type: str
    state: str
    expected: datetime | None
    start: datetime | None
    end: datetime | None
    message: str = ""
    alive: datetime | None = None
    scheduled: bool = False

    @property
    def seconds(self) -> float | None:
        """How long it took; None where it has not ended, or never began."""
        return None if self.start is None or self.end is None else (self.end - self.start).total_seconds()


@dataclass(frozen=True)
class Schedule:
    """One deployment. coming: times of its next runs as Prefect has them; overdue: those that have passed.

    due: the next time by its cron line, where Prefect has no run of it.
    """

    name: str
    is_active: bool
    is_paused: bool
    coming: tuple[datetime, ...] = ()
    overdue: tuple[datetime, ...] = ()
    due: datetime | None = None


@dataclass(frozen=True)
class PrefectView:
    """Runs, newest first, and schedules. where: "embedded", or the address; n_kept: runs in the database."""

    where: str
    runs: tuple[FlowRun, ...] = ()
    schedules: tuple[Schedule, ...] = ()


def view(workspace: Workspace, settings: Settings) -> PrefectView:
    """What Prefect knows now.

    Raises
    ------
    WorkspaceError: the database cannot be read, or the server does not answer.
    """
    if settings.prefect_api_url:
        return _of_server(settings)
    database = workspace.prefect_home / "prefect.db"
    if not database.is_file():
        return PrefectView("embedded")
    try:
        with reading(database) as rows:
            return _of_database(rows)
    except sqlite3.Error as error:
        raise WorkspaceError(
            f"Prefect's database cannot be read ({type(error).__name__}: {str(error)[:80]})",
            where=str(database),
            todo="If it stays so, move the file aside: it holds the history of runs and nothing else.",
        ) from None


@contextmanager
def reading(database: Path, timeout_s: float = _TIMEOUT_S) -> Iterator[sqlite3.Connection]:
    """An sqlite database opened to read; nothing is written beside it."""
    # Without a log beside it nobody is at work on it, and its files need not be locked.
    mode = "mode=ro" if database.with_name(f"{database.name}-wal").exists() else "immutable=1"
    from urllib.parse import quote

    connection = sqlite3.connect(f"file:{quote(str(database))}?{mode}", uri=True, timeout=timeout_s)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
        yield connection
    finally:
        connection.close()


_COLUMNS = (
    "r.id, f.name, r.state_type, r.state_name, r.expected_start_time, r.start_time, r.end_time, s.message,"
    " r.auto_scheduled, r.deployment_id"
)
_FROM = "FROM flow_run r JOIN flow f ON f.id = r.flow_id LEFT JOIN flow_run_state s ON s.id = r.state_id"


def _of_database(rows: sqlite3.Connection) -> PrefectView:
    ended = rows.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE r.start_time IS NOT NULL ORDER BY r.start_time DESC LIMIT ?", (_RECENT,)
    )
    marks = ",".join("?" * len(_OPEN))
    still = rows.execute(f"SELECT {_COLUMNS} {_FROM} WHERE r.state_type IN ({marks}) LIMIT 1000", _OPEN)
    found = {row[0]: _run(row) for row in [*ended.fetchall(), *still.fetchall()]}
    for run in list(found.values()):
        if run.type == "RUNNING":
            beat = rows.execute(
                "SELECT max(occurred) FROM events WHERE resource_id = ? AND event = 'prefect.flow-run.heartbeat'",
                (f"prefect.flow-run.{_dashed(run.run_id)}",),
            ).fetchone()[0]
            found[run.run_id] = replace(run, alive=_time(beat))
    coming: dict[str, list[datetime]] = {}
    planned = "SELECT deployment_id, expected_start_time FROM flow_run WHERE state_type = 'SCHEDULED'"
    for deployment, when in rows.execute(planned):
        if deployment and (time := _time(when)):
            coming.setdefault(deployment, []).append(time)
    lines: dict[str, list[Any]] = {}
    for key, line in rows.execute("SELECT deployment_id, schedule FROM deployment_schedule WHERE active"):
        lines.setdefault(key, []).append(line)
    schedules = [
        _schedule(name, bool(lines.get(key)), bool(paused), coming.get(key, []), lines.get(key, []))
        for key, name, paused in rows.execute("SELECT id, name, paused FROM deployment ORDER BY name")
    ]
    return PrefectView("embedded", _newest_first(found.values()), tuple(schedules))


def _of_server(settings: Settings) -> PrefectView:
    import httpx

    address = settings.prefect_api_url.rstrip("/")
    auth = None
    if settings.prefect_auth is not None:
        user, _, password = settings.prefect_auth.get_secret_value().partition(":")
        auth = (user, password)
    try:
        with httpx.Client(base_url=address, timeout=_TIMEOUT_S, auth=auth) as client:

            def ask(path: str, **body: Any) -> list[dict[str, Any]]:
                answer = client.post(f"{address}/{path}/filter", json=body)
                answer.raise_for_status()
                return list(answer.json())

            recent = ask("flow_runs", sort="START_TIME_DESC", limit=_RECENT)
            still = ask("flow_runs", flow_runs={"state": {"type": {"any_": list(_OPEN)}}}, limit=200)
            planned = ask(
                "flow_runs",
                flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
                sort="EXPECTED_START_TIME_ASC",
                limit=200,
            )
            deployments = ask("deployments", limit=200)
            flows = {one["id"]: one["name"] for one in ask("flows", limit=200)}
    except (httpx.HTTPError, ValueError, KeyError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {status}" if status else type(error).__name__
        todo = "Set NODULEFLOW_PREFECT_AUTH." if status == 401 else "Start it, or mend NODULEFLOW_PREFECT_API_URL."
        raise WorkspaceError(f"the Prefect server does not answer ({why})", where=address, todo=todo) from None
    found = {one["id"]: _run_of_record(one, flows) for one in [*recent, *still] if one.get("state_type") != "SCHEDULED"}
    coming: dict[str, list[datetime]] = {}
    for one in planned:
        if one.get("deployment_id") and (time := _time(one.get("expected_start_time"))):
            coming.setdefault(one["deployment_id"], []).append(time)
    schedules = [
        _schedule(
            str(one["name"]),
            any(schedule.get("active") for schedule in one.get("schedules") or ()),
            bool(one.get("paused")),
            coming.get(one["id"], []),
            [schedule.get("schedule") for schedule in one.get("schedules") or () if schedule.get("active")],
        )
        for one in deployments
    ]
    return PrefectView(address, _newest_first(found.values()), tuple(schedules))


def _run(row: tuple[Any, ...]) -> FlowRun:
    run_id, flow, kind, state, expected, start, end, message, is_scheduled, deployment = row
    times = (_time(expected), _time(start), _time(end))
    return FlowRun(
        str(run_id),
        str(flow),
        str(kind),
        str(state),
        *times,
        message=str(message or ""),
        scheduled=bool(is_scheduled and deployment),
    )


def _run_of_record(one: dict[str, Any], flows: dict[str, str]) -> FlowRun:
    state = one.get("state") or {}
    return FlowRun(
        str(one["id"]),
        flows.get(one.get("flow_id", ""), "unknown"),
        str(one.get("state_type")),
        str(one.get("state_name")),
        _time(one.get("expected_start_time")),
        _time(one.get("start_time")),
        _time(one.get("end_time")),
        message=str(state.get("message") or ""),
        scheduled=bool(one.get("auto_scheduled")),
    )


def _schedule(name: str, is_active: bool, is_paused: bool, times: list[datetime], lines: list[Any]) -> Schedule:
    now = datetime.now(UTC)
    ordered = sorted(times)
    return Schedule(
        name,
        is_active,
        is_paused,
        tuple(time for time in ordered if time > now),
        tuple(time for time in ordered if time <= now),
        None if ordered else next_due(lines, now),
    )


def _newest_first(runs: Iterable[FlowRun]) -> tuple[FlowRun, ...]:
    never = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(runs, key=lambda run: run.start or run.expected or never, reverse=True))


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _dashed(run_id: str) -> str:
    from uuid import UUID

    try:
        return str(UUID(run_id))
    except ValueError:
        return run_id


def server_note(workspace: Workspace) -> dict[str, Any] | None:
    """The embedded server this workspace has noted, where its process lives; None else."""
    import psutil

    try:
        state = dict(json.loads((workspace.prefect_home / "server.json").read_text()))
        process = psutil.Process(int(state["pid"]))
        words = process.cmdline()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return state if "server" in words and "start" in words else None
