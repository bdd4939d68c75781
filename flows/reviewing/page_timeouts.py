"""A connection that does not say what it wants is closed: uvicorn waits for ever for the head of a request."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def timed_protocol(head_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, with so many seconds from the first byte of a request's head to its last."""

    class TimedProtocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait()
            elif self._late is not None:
                self._late.cancel()
                self._late = None

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            # not from every byte anew: who sends one at a time would never be late
            if self._late is None:
                self._late = self.loop.call_later(head_s, self.transport.close)

    return TimedProtocol
