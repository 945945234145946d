"""Open something on a thread beside the loop, which gives way to that thread once it is open.

Engines on a GPU belong to the thread that opened them: whoever opens engines while decisions go on is the loop after.
What fails, in whatever way, leaves the loop untouched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edge_runtime.errors import EdgeError

log = logging.getLogger("edge_runtime")

STOPPING = "the runtime is stopping"
"""The answer to an attempt that came too late."""

T = TypeVar("T")


class Attempt(Generic[T]):
    """From the request to its end. `opened`, or `error` and `reason`, are there once `done` is set."""

    def __init__(
        self,
        name: str,
        open: Callable[[], T],
        take_over: Callable[[T], None],
        abandon: Callable[[T], None],
        wake: Callable[[], None],
        answer: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        """All are called on the attempt's thread: `take_over` once the loop has given way, `abandon` where it does not
        want what was opened any more; `answer` gets None, or why not. `wake` has the loop look.
        """
        self.done = threading.Event()
        self.opened: T | None = None
        self.error: BaseException | None = None
        self.reason: str | None = None
        self._name = name
        self._open = open
        self._take_over = take_over
        self._abandon = abandon
        self._answer = answer
        self._wake = wake
        self._judged = threading.Event()
        self._accepted = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin. Raises nothing: that there is no thread to be had is a refusal too."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self.error, self.reason = error, str(error)
            self.done.set()

    def accept(self) -> None:
        """The loop has given way. Loop thread, which must not touch what was opened any more."""
        self._accepted = True
        self._judged.set()

    def dismiss(self, timeout_s: float = 0.0) -> None:
        """The loop has taken note of the failure, or does not want what may be opened any more. Loop thread."""
        self._judged.set()
        if timeout_s and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self.opened = self._open()
        except EdgeError as error:
            self.error, self.reason = error, str(error)
        except BaseException as error:  # whatever it is, the running loop has nothing to do with it
            log.exception("%s: unexpected error", self._name)
            self.error, self.reason = error, f"unexpected error, {type(error).__name__}: {error}"
        self.done.set()
        self._wake()
        self._judged.wait()
        if self.opened is None or not self._accepted:
            if self.opened is not None:
                self._abandon(self.opened)
            self._answer(self.reason or STOPPING)
            return
        self._answer(None)
        self._take_over(self.opened)
