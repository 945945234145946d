"""The same work on many items by all cores: pieces go to worker processes, results come back in the items' order.

The processes are started where there is enough to do, and wait for the next work until this process ends. They begin
empty: no fork of a process that has threads, and nothing of the main program runs in them.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from calibration.memory import available_bytes
from edge_runtime.errors import EdgeError, UserError

WORKERS = "BUILD_ENGINES_WORKERS"
"""Environment variable: how many processes; 1 = this one alone."""
WORKER_BYTES = 400 << 20
"""A worker with its libraries, an engine and the pieces on their way to it takes about so much memory."""
ALONE = 192
"""Fewer items are not worth starting processes for."""
PIECE = 16
"""Items in a piece."""
AHEAD = 2
"""Pieces that a worker has not done yet, at most."""
UNTAKEN = 4
"""Pieces for each worker that are under way or done and not taken, at most: one that takes long holds nobody up, and
memory stays bounded."""

T = TypeVar("T")
R = TypeVar("R")
Job = Callable[[Iterator[T]], Iterator[R]]
"""One result for each item, in order, given before the next item is taken."""
Make = Callable[[], "Job[T, R]"]
"""Makes the job: once in each process that works. Can be pickled."""


def cores() -> int:
    """How many processes may work at once: the cores that this process may use, or as WORKERS says, as far as there is
    memory for them. Raises UserError."""
    if _office.inside:
        return 1
    told = os.environ.get(WORKERS, "")
    if told and (not told.isdigit() or int(told) < 1):
        raise UserError(f"{WORKERS} is {told!r}; give a number of processes, 1 or more")
    wanted = int(told) if told else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    available = available_bytes()
    return wanted if available is None else max(1, min(wanted, available // WORKER_BYTES))


def spread(
    make: Make[T, R],
    items: Iterable[T],
    group: Callable[[T], Hashable] | None = None,
    alone: int | None = None,
    piece: int = PIECE,
    most: int | None = None,
) -> Iterator[R]:
    """The job's result for each of `items`, in order: the same for any number of processes.

    Items of one `group` follow each other, and one process sees them all (None: each item is its own). Fewer than
    `alone` items (None: `ALONE`), or one core, and this process does the work; so it does for `most` = 1, else the
    processes are that many at most. What the job raises is raised here, in its item's place.
    """
    rest, alone = iter(items), ALONE if alone is None else alone
    first = list(islice(rest, alone))
    count = cores() if len(first) >= alone else 1
    count = count if most is None else max(1, min(count, most))
    if count == 1 or not _office.busy.acquire(blocking=False):
        yield from make()(chain(first, rest))
        return
    done = False
    try:
        yield from _office.crew.work(count, make, _pieces(chain(first, rest), group, piece))
        done = True
    finally:
        if not done:  # what is still on its way would be taken for the next job's
            _office.crew.close()
        _office.busy.release()


def _pieces(items: Iterable[T], group: Callable[[T], Hashable] | None, size: int) -> Iterator[tuple[bool, list[T]]]:
    """Items in pieces, and whether a piece goes on with the group of the one before."""
    piece: list[T] = []
    before: Hashable = None
    goes_on = False
    for item in items:
        own = group(item) if group is not None else None
        if len(piece) >= size:
            yield goes_on, piece
            piece, goes_on = [], group is not None and own == before
        piece.append(item)
        before = own
    if piece:
        yield goes_on, piece


def dismiss() -> None:
    """End the processes that wait for work: what they hold (a library, data) is given back."""
    if _office.busy.acquire(blocking=False):
        try:
            _office.crew.close()
        finally:
            _office.busy.release()


_MAIN = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from calibration.spread import serve
serve(int(sys.argv[2]))"""


def many(count: int) -> bool:
    """Whether so many items are worth starting processes for."""
    return count >= ALONE


class WorkerLost(UserError):
    """A worker's process has ended by itself, or was ended."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            f"a worker process ended (exit code {exit_code}); if the system ended it for want of memory, set {WORKERS} "
            "to fewer"
        )
        self.exit_code = exit_code


class Worker:
    """One process, as the one that hired it sees it: it is sent what makes a job, then pieces, then None, and the next
    job. What a job raises comes in place of its results, and ends it."""

    def __init__(self, news: threading.Semaphore) -> None:
        """`news` is released for all that comes back."""
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._news = news
        self._sent = self._received = 0
        # Somebody must always be listening: a worker that cannot get rid of its results takes no new piece.
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def undone(self) -> int:
        """Pieces that it has not given back."""
        return self._sent - self._received

    @property
    def ready(self) -> bool:
        """Whether `take` need not wait."""
        return not self.results.empty()

    def begin(self, make: object) -> None:
        """A new job, in the folder in which this process works now."""
        self.send((Path.cwd(), make))

    def send_piece(self, piece: list[Any]) -> None:
        self._sent += 1
        self.send(piece)

    def send(self, what: object) -> None:
        try:
            self._connection.send(what)
        except OSError:
            pass  # it has ended: whoever takes its results meets the reason in its place

    def take(self) -> list[Any]:
        """The results of its oldest piece. Raises WorkerLost, and what the job has raised."""
        got = self.results.get()
        if got is None:
            raise WorkerLost(self._process.wait())
        if isinstance(got, BaseException):
            raise got
        results: list[Any] = got
        return results

    def close(self) -> None:
        """End the process, whatever it does. Harmless when called again."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        try:
            while True:
                got = self._connection.recv()
                self._received += 1
                self.results.put(got)
                self._news.release()
        except (OSError, EOFError):
            self.results.put(None)
            self._news.release()


class _Crew:
    def __init__(self) -> None:
        self._everybody: list[Worker] = []
        self._news = threading.Semaphore(0)

    def work(self, count: int, make: Make[T, R], pieces: Iterable[tuple[bool, list[T]]]) -> Iterator[R]:
        """By `count` of them; those that are not there yet are started."""
        while len(self._everybody) < count:
            self._everybody.append(Worker(self._news))
        workers = self._everybody[:count]
        for worker in workers:
            worker.begin(make)
        under_way: deque[Worker] = deque()
        worker = workers[0]
        for goes_on, piece in pieces:
            worker = worker if goes_on else min(workers, key=lambda one: one.undone)
            while worker.undone >= AHEAD or len(under_way) >= UNTAKEN * count:
                if under_way[0].ready or len(under_way) >= UNTAKEN * count:
                    yield from under_way.popleft().take()
                else:
                    self._news.acquire()  # whoever comes back first: not the one that was sent first
                worker = worker if goes_on else min(workers, key=lambda one: one.undone)
            worker.send_piece(piece)
            under_way.append(worker)
        while under_way:
            yield from under_way.popleft().take()
        for worker in workers:
            worker.send(None)

    def close(self) -> None:
        for worker in self._everybody:
            worker.close()
        self._everybody = []


class _Office:
    """This process and its workers."""

    def __init__(self) -> None:
        self.inside = False
        """Whether this process is itself a worker."""
        self.busy = threading.Lock()
        self.crew = _Crew()


_office = _Office()
atexit.register(_office.crew.close)


# The rest runs in a worker.


def serve(descriptor: int) -> None:
    """Do what comes by the connection `descriptor`, until it ends."""
    work_alone()
    connection = Connection(descriptor)
    try:
        while True:
            folder, make = connection.recv()
            try:
                os.chdir(folder)
                _do(connection, make)
            except EdgeError as error:
                connection.send(error)
                return
            except Exception as error:
                connection.send(RuntimeError(f"in a worker process: {error}\n{traceback.format_exc()}"))
                return
    except (OSError, EOFError, KeyboardInterrupt):
        return


def work_alone() -> None:
    """This process is one of several, one for each core: nothing that it does is spread any further."""
    import cv2

    _office.inside = True
    cv2.setNumThreads(1)


def _do(connection: Connection, make: Make[Any, Any]) -> None:
    sizes: deque[int] = deque()

    def fed() -> Iterator[Any]:
        while (piece := connection.recv()) is not None:
            sizes.append(len(piece))
            yield from piece

    results: list[Any] = []
    for result in make()(fed()):
        results.append(result)
        if len(results) == sizes[0]:
            sizes.popleft()
            connection.send(results)
            results = []


def once_each(work: Callable[[T], R]) -> Callable[[Iterator[T]], Iterator[R]]:
    """The job that does `work` to each item by itself."""
    return lambda items: map(work, items)
