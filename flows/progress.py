"""What a person sees while a run goes on: bars on a terminal, one line an item without one; all on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def say(line: str) -> None:
    """One line on standard error."""
    print(line, file=sys.stderr, flush=True)


class Stage:
    """Counts the items of one stage."""

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0

    def advance(self, item: str, n: int = 1) -> None:
        """`n` more are done; `item` must hold no patient's identifier."""
        self.done += n
        say(f"{self.name} {self.done}/{self.total}: {item}")


class _BarStage(Stage):
    def __init__(self, name: str, total: int, bar: object, handle: object) -> None:
        super().__init__(name, total)
        self._bar = bar
        self._handle = handle

    def advance(self, item: str, n: int = 1) -> None:
        self.done += n
        self._bar.update(self._handle, advance=n, item=item)  # type: ignore[attr-defined]


@contextmanager
def stage(name: str, total: int) -> Iterator[Stage]:
    """Show the progress of a stage with `total` items."""
    if not sys.stderr.isatty():
        yield Stage(name, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[item]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _BarStage(name, total, bar, bar.add_task(name, total=total, item=""))
