"""What a source is: something that runs on a thread of its own and hands raw messages to the intake."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from msgspec import Struct

from edge_runtime.capture.intake import Intake
from edge_runtime.wire import SourceHealth

log = logging.getLogger("edge_runtime.capture")


class Source(ABC):
    """Opened by its constructor (which raises ConfigError for what the user can mend), then started and stopped.

    `_run` is the thread's body: it returns when `stopping` is set or there is nothing more to come. It reads
    `self._intake` anew for every message: a reload that keeps the source gives it the next session's.
    """

    ends: ClassVar[bool]
    """Whether it comes to an end by itself (a file does; a camera does not)."""

    passive: ClassVar[bool] = False
    """Whether it gives only what others send it: that all has come is then for other sources to say."""

    settings: Struct | None = None
    """The row of the configuration that it was opened for."""

    claimed: Struct | None = None
    """The row of a session in the making that it will stand for once it is handed over."""

    reads: object = None
    """What it may have read besides its settings when it was opened, of the bundle's streams above all."""

    def __init__(self, name: str, intake: Intake) -> None:
        self.name = name
        self._intake = intake
        self.stopping = threading.Event()
        self._started = threading.Event()
        self._ended = threading.Event()
        self._failure: str | None = None
        self._left_behind = False
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def serves(self, settings: Struct, reads: object) -> bool:
        """Whether this source, as it runs, is what a row with these settings asks for."""
        return self._failure is None and self.settings == settings and self.reads == reads

    def ready(self) -> None:
        """Have the thread stand by, so that nothing is left of `start` that could fail. Harmless when called again."""
        if self._thread.ident is None:
            self._thread.start()

    def start(self) -> None:
        """Begin to deliver."""
        self.ready()
        self._started.set()

    def hand_over(self, intake: Intake) -> None:
        """Deliver into `intake` from the next message on, for the row that claimed it. Loop thread."""
        self._intake = intake

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop delivering and free everything; waits at most `timeout_s`. Harmless when called again."""
        self.stopping.set()
        self._started.set()
        if self._thread.is_alive() and not self._left_behind:
            self._thread.join(timeout_s)
            self._left_behind = self._thread.is_alive()
            if self._left_behind:
                log.warning("%s: still busy after %.1f s (a device driver hangs); left behind", self.name, timeout_s)
        elif self._thread.ident is None:
            self._close()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    @property
    def state(self) -> str:
        """In a word, for the status: `running`, `ended` or `failed`; a process may be `waiting`. Any thread."""
        if self._failure is not None:
            return "failed"
        return "ended" if self.ended else "running"

    @property
    def reason(self) -> str | None:
        """Why it does not run as it should, if so. Any thread."""
        return self._failure

    def health(self) -> SourceHealth:
        """For the status. Any thread."""
        return SourceHealth(self.name, self.state, self.reason)

    def _guarded(self) -> None:
        self._started.wait()
        try:
            if not self.stopping.is_set():
                self._run()
        except Exception as error:  # a source that breaks must not take the runtime with it
            log.exception("%s: source failed; its stream will be missing", self.name)
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._close()
            self._ended.set()

    @abstractmethod
    def _run(self) -> None: ...

    def _close(self) -> None:  # noqa: B027  (most sources open nothing)
        """Free what the constructor opened; called once, on the source's thread if it ever ran."""
