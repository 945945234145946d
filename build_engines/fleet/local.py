"""By processes of this machine."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from build_engines.fleet.recordings import Source
from build_engines.fleet.store import Store
from build_engines.fleet.task import LeftOut, Outcome, Task, job
from calibration.spread import Worker, WorkerLost, cores

ATTEMPTS = 3
"""A recording at which so many workers were lost is left out."""


@dataclass(frozen=True)
class Local:
    """A recording at a time for each worker: memory does not grow with their number."""

    workers: int | None = None
    """None: as many as there are cores, and memory for."""

    def run(self, task: Task, store: Store | None, sources: Sequence[Source]) -> Iterator[Outcome]:
        crew = _Crew(partial(job, task, store), min(self.workers or cores(), len(sources)))
        try:
            yield from crew.work(sources)
        finally:
            crew.close()


class _Crew:
    def __init__(self, make: Callable[[], object], count: int) -> None:
        self._make, self._count = make, count
        self._news = threading.Semaphore(0)
        self._busy: dict[Worker, Source] = {}
        self._idle: list[Worker] = []

    def work(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        waiting = deque(sources)
        losses: Counter[str] = Counter()
        while waiting or self._busy:
            while waiting and (worker := self._free()) is not None:
                self._busy[worker] = waiting.popleft()
                worker.send_piece([self._busy[worker]])
            while not (ready := [worker for worker in self._busy if worker.ready]):
                self._news.acquire()
            for worker in ready:
                source = self._busy.pop(worker)
                try:
                    (outcome,) = worker.take()
                except WorkerLost as lost:
                    worker.close()
                    losses[source.id] += 1
                    if losses[source.id] < ATTEMPTS:
                        waiting.append(source)
                    else:
                        yield LeftOut(
                            source.id, f"the process that read it ended {ATTEMPTS} times (exit code {lost.exit_code})"
                        )
                except BaseException:
                    worker.close()
                    raise
                else:
                    self._idle.append(worker)
                    yield outcome

    def _free(self) -> Worker | None:
        if self._idle:
            return self._idle.pop()
        if len(self._busy) >= self._count:
            return None
        worker = Worker(self._news)
        worker.begin(self._make)
        return worker

    def close(self) -> None:
        for worker in (*self._busy, *self._idle):
            worker.close()
