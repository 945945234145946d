"""How far a long work is: a bar on a terminal; elsewhere a line now and then, which a log keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_S = 30.0
"""Seconds between two lines."""
Advance = Callable[..., None]
"""`advance(steps=1, note="")`: so many steps more are done; the last note stays."""

T = TypeVar("T")


@contextmanager
def progress(console: Console, what: str, total: int | None = None, transient: bool = True) -> Iterator[Advance]:
    """Tell on `console` how far `what` is; `total`: its steps, where they are known. The bar disappears at the end
    where it is `transient`. Not within another one."""
    if not console.is_terminal:
        yield _Lines(console, what, total).advance
        return
    count = "{task.completed}/{task.total}" if total is not None else "{task.completed}"
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(count), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=transient) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, **({"note": note} if note else {}))  # type: ignore[arg-type]

        yield advance


def counted(console: Console, what: str, items: Iterable[T]) -> Iterator[T]:
    """`items`, and on `console` how many of them have been taken: see `progress`."""
    with progress(console, what) as advance:
        for item in items:
            yield item
            advance()


class _Lines:
    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._console, self._what, self._total = console, what, total
        self._start = self._told = time.monotonic()
        self._done, self._note = 0, ""

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self._note = note or self._note
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        of = f" of {self._total}" if self._total is not None else ""
        note = f"  {self._note}" if self._note else ""
        self._console.print(
            f"{self._what}: {self._done}{of} after {now - self._start:.0f} s{note}", highlight=False, markup=False
        )
