"""Take over a new configuration while decisions go on.

An attempt reads the configuration and opens a whole session beside the loop, on a thread of its own. What fails there,
in whatever way, leaves the running session untouched. What succeeds waits for the loop, which gives way to it between
two decisions; the thread that opened the session then is the loop, since engines on a GPU belong to the thread that
opened them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_runtime.config import Config
from edge_runtime.errors import EdgeError
from edge_runtime.session import Session
from edge_runtime.wire import ReloadHealth

log = logging.getLogger("edge_runtime")

CANCEL_TIMEOUT_S = 0.5


class Attempt:
    """One reload, from the request to its end. `session` or `reason` is there once `done` is set."""

    def __init__(
        self,
        open_session: Callable[[], Session],
        take_over: Callable[[Session], None],
        answer: Callable[[str | None], None],
        wake: Callable[[], None],
    ) -> None:
        """`take_over` is run by the attempt's thread once the loop has given way; `answer` gets None, or why not."""
        self.done = threading.Event()
        self.session: Session | None = None
        self.reason: str | None = None
        self._open_session = open_session
        self._take_over = take_over
        self._answer = answer
        self._wake = wake
        self._judged = threading.Event()
        self._accepted = False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Begin. Raises nothing: that there is no thread to be had is a refusal too."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self.reason = str(error)
            self.done.set()

    def accept(self) -> None:
        """The loop has given way to the session. Loop thread, which must not touch the session any more."""
        self._accepted = True
        self._judged.set()

    def dismiss(self, timeout_s: float = 0.0) -> None:
        """The loop has taken note of the refusal, or has ended and wants no session any more. Loop thread."""
        self._judged.set()
        if timeout_s and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self.session = self._open_session()
        except EdgeError as error:
            self.reason = str(error)
        except BaseException as error:  # whatever it is, the running session has nothing to do with it
            log.exception("reload: unexpected error")
            self.reason = f"unexpected error, {type(error).__name__}: {error}"
        self.done.set()
        self._wake()
        self._judged.wait()
        if self.session is None or not self._accepted:
            if self.session is not None:
                self.session.abandon()
            self._answer(self.reason or "the runtime is stopping")
            return
        self._answer(None)
        self._take_over(self.session)


class Reloads:
    """Requests and what became of them. Loop thread, but for `ask`."""

    def __init__(self, begin: Callable[[Callable[[], Config]], Attempt]) -> None:
        """`begin` makes the attempt for what loads the configuration."""
        self._begin = begin
        self._asked: Callable[[], Config] | None = None
        self._attempt: Attempt | None = None
        self._succeeded = 0
        self._refused = 0
        self._reason: str | None = None

    def ask(self, load: Callable[[], Config]) -> None:
        """Reload from what `load` gives. Any thread and signal handlers; while an attempt runs, once more after it."""
        self._asked = load

    def due(self) -> bool:
        """Whether an attempt was asked for and none runs."""
        return self._asked is not None and self._attempt is None

    def start(self) -> None:
        """Start the attempt that is due."""
        load, self._asked = self._asked, None
        assert load is not None
        self._attempt = self._begin(load)
        self._attempt.start()

    def finished(self) -> Attempt | None:
        """The attempt that has come to its end, if one has; counted, and forgotten here."""
        attempt = self._attempt
        if attempt is None or not attempt.done.is_set():
            return None
        self._attempt = None
        self._reason = attempt.reason
        if attempt.reason is None:
            self._succeeded += 1
        else:
            self._refused += 1
        return attempt

    def cancel(self) -> None:
        """No reload any more; an attempt that still opens something is left to end by itself."""
        self._asked = None
        if self._attempt is not None:
            self._attempt.dismiss(CANCEL_TIMEOUT_S)

    def health(self) -> ReloadHealth:
        """For the status."""
        return ReloadHealth(self._succeeded, self._refused, self._attempt is not None, self._reason)
