"""A task's parameter that Prefect neither looks into nor writes down.

Prefect walks through every list, record and dataclass that a task is given, in search of results of other tasks: for
the headers of a series that takes longer than reading them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def _unheard(*_: object) -> None:
    """What a task has to tell while it runs reaches only its own process."""


class Opaque(Generic[T]):
    """Holds a value. told: called by the task for each item that is done, where it runs in the process that asked."""

    __slots__ = ("told", "value")

    def __init__(self, value: T, told: Callable[..., None] = _unheard) -> None:
        self.value = value
        self.told = told

    def __reduce__(self) -> tuple[Any, ...]:
        return Opaque, (self.value,)

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__}>"


class Heard:
    """Hands each item on once, however often and in which thread it is told."""

    def __init__(self, hand_on: Callable[[str], None]) -> None:
        self._hand_on = hand_on
        self._known: set[str] = set()
        self._guard = threading.Lock()

    def __call__(self, key: str) -> None:
        with self._guard:
            if key not in self._known:
                self._known.add(key)
                self._hand_on(key)
