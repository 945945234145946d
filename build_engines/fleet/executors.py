"""Who does the work: a row is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from build_engines.fleet.local import Local
from build_engines.fleet.on_ray import OnRay
from build_engines.fleet.recordings import Source
from build_engines.fleet.store import Store
from build_engines.fleet.task import Outcome, Task
from edge_runtime.errors import ConfigError


class Executor(Protocol):
    """Does a task to recordings, several at a time."""

    def run(self, task: Task, store: Store | None, sources: Sequence[Source]) -> Iterator[Outcome]:
        """What came of each of `sources`, in any order. A worker that is lost is replaced and its recording tried
        again, three times in all. Raises UserError where the task cannot be done at all."""


EXECUTORS = ("local", "ray")


def executor_of(name: str, workers: int | None, address: str | None) -> Executor:
    """The row called `name`. `workers`: processes at once (None: as many as there are cores and memory for). `address`:
    of a Ray cluster (None: one on this machine, for as long as the work lasts). Raises ConfigError."""
    if name == "ray":
        return OnRay(workers, address)
    if address is not None:
        raise ConfigError("--address names a Ray cluster; it goes with --engine ray")
    return Local(workers)
