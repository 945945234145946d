"""By a Ray cluster (`pip install 'edge-runtime[fleet]'`): the one module that knows Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from build_engines.fleet.local import ATTEMPTS
from build_engines.fleet.recordings import Source
from build_engines.fleet.store import Store
from build_engines.fleet.task import LeftOut, Map, Outcome, Task, look_at
from calibration.spread import cores, work_alone
from edge_runtime.errors import UserError

AHEAD = 2
"""Recordings that are given out for each core at once."""
STARTS = 3
"""Ray waits 30 s for its own processes, which is not always enough where a machine is busy."""
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True)
class OnRay:
    """Recordings, bundles and the partials' folder must lie at the same paths on all of the cluster's machines."""

    workers: int | None = None
    """Of the cluster that is started here; of another, what it has."""
    address: str | None = None
    """Of a running cluster; None: one is started on this machine, and ended."""

    def run(self, task: Task, store: Store | None, sources: Sequence[Source]) -> Iterator[Outcome]:
        ray = _ray()
        begin(ray, self.address, self.workers)
        try:
            yield from _spread(ray, task, store, sources)
        finally:
            ray.shutdown()


def begin(ray: Any, address: str | None, workers: int | None) -> None:
    """Start a cluster of `workers`, or go to the one at `address`. Raises UserError."""
    trouble = ""
    for _ in range(STARTS if address is None else 1):
        try:
            if address is None:
                ray.init("local", num_cpus=workers or cores(), include_dashboard=False, **_QUIET)
            else:
                ray.init(address, **_QUIET)
            return
        except Exception as error:  # Ray raises plain ones
            ray.shutdown()
            trouble = str(error).partition("\n")[0]
    where = f"--address {address}: there is no Ray cluster" if address else "Ray does not start on this machine"
    raise UserError(f"{where}: {trouble}")


def _spread(ray: Any, task: Task, store: Store | None, sources: Sequence[Source]) -> Iterator[Outcome]:
    shared = ray.put((task, store))
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_on_worker)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(sources)
    under_way: dict[Any, Source] = {}
    while True:
        while len(under_way) < most and (source := next(waiting, None)) is not None:
            under_way[remote.remote(shared, source)] = source
        if not under_way:
            return
        for reference in ray.wait(list(under_way))[0]:
            source = under_way.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # what the task itself has raised
                raise error.cause from None
            except ray.exceptions.RayError as error:
                first = str(error).partition("\n")[0]
                yield LeftOut(source.id, f"the process that read it ended {ATTEMPTS} times ({first})")


_looks: dict[str, Map] = {}
"""Of this worker, by the task's key."""


def _on_worker(shared: tuple[Task, Store | None], source: Source) -> Outcome:
    task, store = shared
    if task.key not in _looks:
        work_alone()
        _looks[task.key] = task.open()
    return look_at(source, _looks[task.key], task.key, store)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--engine ray needs Ray; pip install 'edge-runtime[fleet]'") from None
    return ray
