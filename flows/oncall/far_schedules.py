"""When a schedule is next due by its own cron line: Prefect makes no runs that are further away than 100 days."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

#: what is due later than this has no run in Prefect yet, a day to spare
HORIZON = timedelta(days=99)


def next_due(schedules: Iterable[Any], now: datetime | None = None) -> datetime | None:
    """The first time of some schedules, as Prefect keeps them (a record or its JSON); None where none can be told."""
    now = now or datetime.now(UTC)
    found = [time for schedule in schedules if (time := _next(schedule, now)) is not None]
    return min(found, default=None)


def _next(schedule: Any, now: datetime) -> datetime | None:
    from cronsim import CronSim, CronSimError

    try:
        fields = json.loads(schedule) if isinstance(schedule, str) else dict(schedule)
        zone = ZoneInfo(fields.get("timezone") or "UTC")
        return next(CronSim(fields["cron"], now.astimezone(zone))).astimezone(UTC)
    except (CronSimError, StopIteration, KeyError, TypeError, ValueError, OSError):
        return None
