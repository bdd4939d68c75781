"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and what mends it; todo is "" where nothing is to be done."""

    name: str
    state: State
    detail: str
    todo: str = ""

    def line(self) -> str:
        """For a person."""
        text = f"{self.state:<8} {self.name:<12} {self.detail}"
        return f"{text}. {self.todo}" if self.todo else text


def worst(name: str, faults: list[tuple[State, str, str]], fine: str) -> Check:
    """One check of several faults (state, what, todo); ok with the text `fine` where there are none."""
    if not faults:
        return Check(name, "ok", fine)
    state: State = "failed" if any(fault[0] == "failed" for fault in faults) else "warning"
    whats, todos = (list(dict.fromkeys(fault[place] for fault in faults if fault[place])) for place in (1, 2))
    return Check(name, state, "; ".join(whats), " ".join(todos))
