"""The partials of all recordings, by whoever does the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from rich.console import Console

from build_engines.fleet.executors import Executor
from build_engines.fleet.recordings import Source
from build_engines.fleet.store import Store
from build_engines.fleet.task import LeftOut, Task
from build_engines.progress import progress
from edge_runtime.errors import UserError

P = TypeVar("P", bound=Struct)
T = TypeVar("T")


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """By recording, in no order that means anything."""

    partials: dict[str, T]
    left_out: dict[str, str]
    """Why."""


class Work(NamedTuple):
    """How it is done."""

    executor: Executor
    store: Store | None
    console: Console
    """For how far it is, and what is left out."""


def gather(task: Task, kind: type[P], sources: Sequence[Source], work: Work) -> Gathered[P]:
    """What `task` makes of each of `sources`: partials of the type `kind`. Raises UserError where nothing could be made
    of any."""
    decoder = msgspec.msgpack.Decoder(kind)
    return _gathered(task, sources, work, lambda name, data: decoder.decode(data))


class Spooled(Generic[P]):
    """Partials in a folder: for those that would not all fit into memory."""

    def __init__(self, kind: type[P], files: dict[str, Path]) -> None:
        self._decoder, self._files = msgspec.msgpack.Decoder(kind), files

    def __call__(self) -> Iterator[tuple[str, P]]:
        """In the order of the recordings' ids, one at a time."""
        for name in sorted(self._files):
            yield name, self._decoder.decode(self._files[name].read_bytes())


def spool(
    task: Task, kind: type[P], sources: Sequence[Source], work: Work, folder: Path
) -> tuple[Spooled[P], dict[str, str]]:
    """As `gather`, with the partials in `folder`; and why recordings are left out."""
    numbers = {source.id: number for number, source in enumerate(sources)}

    def keep(name: str, data: bytes) -> Path:
        path = folder / str(numbers[name])
        path.write_bytes(data)
        return path

    found = _gathered(task, sources, work, keep)
    return Spooled(kind, found.partials), found.left_out


def _gathered(task: Task, sources: Sequence[Source], work: Work, take: Callable[[str, bytes], T]) -> Gathered[T]:
    partials: dict[str, T] = {}
    left_out: dict[str, str] = {}
    kept, begun = 0, time.monotonic()
    with progress(work.console, "recordings", len(sources)) as advance:
        for number, outcome in enumerate(work.executor.run(task, work.store, sources), 1):
            if isinstance(outcome, LeftOut):
                left_out[outcome.id] = outcome.reason
                work.console.print(
                    f"left out: {outcome.id}: {outcome.reason}", markup=False, highlight=False, soft_wrap=True
                )
            else:
                partials[outcome.id] = take(outcome.id, outcome.data)
                kept += outcome.kept
            left_s = (time.monotonic() - begun) / number * (len(sources) - number)
            advance(1, f"about {left_s:.0f} s left")
    if kept:
        work.console.print(f"{kept} of {len(sources)} recordings were done before", highlight=False)
    if not partials:
        name, reason = min(left_out.items())
        raise UserError(f"recordings: nothing could be made of any of the {len(sources)}; {name}: {reason}")
    return Gathered(partials, left_out)
