"""A Prefect database with the tables that are read, made by hand: runs and schedules in any state."""

from __future__ import annotations

import json
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path


class PrefectDatabase:
    """prefect/prefect.db of a workspace."""

    def __init__(self, workspace: Path) -> None:
        (workspace / "prefect").mkdir(parents=True, exist_ok=True)
        self.rows = sqlite3.connect(workspace / "prefect" / "prefect.db", isolation_level=None)
        self.rows.executescript(
            "CREATE TABLE flow (id, name); CREATE TABLE flow_run_state (id, message);"
            "CREATE TABLE flow_run (id, flow_id, state_type, state_name, expected_start_time, start_time, end_time,"
            " state_id, auto_scheduled, deployment_id);"
            "CREATE TABLE events (occurred, event, resource_id);"
            "CREATE TABLE deployment (id, name, paused); "
            "CREATE TABLE deployment_schedule (deployment_id, active, schedule);"
        )

    def run(
        self,
        flow: str,
        state: str,
        *,
        began: timedelta,
        took: timedelta | None = None,
        message: str = "",
        name: str = "",
        beat: timedelta | None = None,
        deployment: str = "",
    ) -> None:
        """A run that began so long ago; took: until its end."""
        now = datetime.now(UTC)
        known = self.rows.execute("SELECT id FROM flow WHERE name = ?", (flow,)).fetchone()
        flow_id = known[0] if known else str(uuid.uuid4())
        if not known:
            self.rows.execute("INSERT INTO flow VALUES (?, ?)", (flow_id, flow))
        run_id, state_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.rows.execute("INSERT INTO flow_run_state VALUES (?, ?)", (state_id, message))
        start = None if state == "SCHEDULED" else text(now - began)
        end = text(now - began + took) if took is not None else None
        values = (
            run_id,
            flow_id,
            state,
            name or state.capitalize(),
            text(now - began),
            start,
            end,
            state_id,
            1,
            deployment,
        )
        self.rows.execute("INSERT INTO flow_run VALUES (?,?,?,?,?,?,?,?,?,?)", values)
        if beat is not None:
            event = (text(now - beat), "prefect.flow-run.heartbeat", f"prefect.flow-run.{run_id}")
            self.rows.execute("INSERT INTO events VALUES (?, ?, ?)", event)

    def deployment(self, name: str, *, paused: bool = False, cron: str = "0 2 * * *") -> str:
        """A deployment with one active schedule; returns its id."""
        made = str(uuid.uuid4())
        self.rows.execute("INSERT INTO deployment VALUES (?, ?, ?)", (made, name, paused))
        self.rows.execute("INSERT INTO deployment_schedule VALUES (?, 1, ?)", (made, json.dumps({"cron": cron})))
        return made


def text(when: datetime) -> str:
    """A time as Prefect writes it: UTC without saying so."""
    return when.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
