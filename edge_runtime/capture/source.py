"""What a source is: something that runs on a thread of its own and hands raw messages to the intake."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from edge_runtime.capture.intake import Intake

log = logging.getLogger("edge_runtime.capture")


class Source(ABC):
    """Opened by its constructor (which raises ConfigError for what the user can mend), then started and stopped.

    `_run` is the thread's body: it returns when `stopping` is set or there is nothing more to come.
    """

    ends: ClassVar[bool]
    """Whether it comes to an end by itself (a file does; a camera does not)."""

    def __init__(self, name: str, intake: Intake) -> None:
        self.name = name
        self._intake = intake
        self.stopping = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop delivering and free everything; waits at most `timeout_s`. Harmless when called again."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("%s: still busy after %.1f s (a device driver hangs); left behind", self.name, timeout_s)
        elif self._thread.ident is None:
            self._close()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception:  # a source that breaks must not take the runtime with it
            log.exception("%s: source failed; its stream will be missing", self.name)
        finally:
            self._close()
            self._ended.set()

    @abstractmethod
    def _run(self) -> None: ...

    def _close(self) -> None:  # noqa: B027  (most sources open nothing)
        """Free what the constructor opened; called once, on the source's thread if it ever ran."""
