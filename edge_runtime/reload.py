"""Take over a new configuration while decisions go on.

An attempt reads the configuration and opens a whole session beside the loop, on a thread of its own. What fails there,
in whatever way, leaves the running session untouched. What succeeds waits for the loop, which gives way to it between
two decisions; the thread that opened the session then is the loop, since engines on a GPU belong to the thread that
opened them.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.attempt import Attempt
from edge_runtime.config import Config
from edge_runtime.session import Session
from edge_runtime.wire import ReloadHealth

CANCEL_TIMEOUT_S = 0.5


class Reloads:
    """Requests and what became of them. Loop thread, but for `ask`."""

    def __init__(self, begin: Callable[[Callable[[], Config]], Attempt[Session]]) -> None:
        """`begin` makes the attempt for what loads the configuration."""
        self._begin = begin
        self._pending: Callable[[], Config] | None = None
        self._attempt: Attempt[Session] | None = None
        self._succeeded = 0
        self._refused = 0
        self._reason: str | None = None

    def ask(self, load: Callable[[], Config]) -> None:
        """Reload from what `load` gives. Any thread and signal handlers; while an attempt runs, once more after it."""
        self._pending = load

    def due(self) -> bool:
        """Whether an attempt was asked for and none runs."""
        return self._pending is not None and self._attempt is None

    def start(self) -> None:
        """Start the attempt that is due."""
        load, self._pending = self._pending, None
        assert load is not None
        self._attempt = self._begin(load)
        self._attempt.start()

    def finished(self) -> Attempt[Session] | None:
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
        self._pending = None
        if self._attempt is not None:
            self._attempt.dismiss(CANCEL_TIMEOUT_S)

    def health(self) -> ReloadHealth:
        """For the status."""
        return ReloadHealth(self._succeeded, self._refused, self._attempt is not None, self._reason)
