"""Make what comes next while what came last is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")
WAITING = 2
"""So many are ready at most."""


def ahead(items: Iterator[T]) -> Iterator[T]:
    """`items` in their order, made by another thread. What is raised there is raised here, in its place."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(WAITING)
    ended = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        """Whether somebody is still there to take it."""
        while not ended.is_set():
            try:
                ready.put((item, error), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        ended.set()
        thread.join()
