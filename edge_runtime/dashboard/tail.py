"""The last lines of the log, for the page."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime, timezone

from msgspec import Struct

from edge_runtime.log_handler import one_line

MAX_LINES = 100
MAX_CHARACTERS = 300
LOGGER = "edge_runtime"


class Line(Struct, frozen=True):
    """One line of the log."""

    number: int
    time: str
    """UTC, RFC 3339."""
    level: str
    text: str


class Tail(logging.Handler):
    """Keeps the last MAX_LINES lines that the runtime logs, each of bounded length, until it is closed. Any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._count = 0
        logging.getLogger(LOGGER).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Under the handler's lock."""
        try:
            text = one_line(record.getMessage(), MAX_CHARACTERS)
        except Exception as error:  # arguments that do not fit their text
            text = one_line(f"{record.msg!r}: cannot be said ({error})", MAX_CHARACTERS)
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        self._lines.append(Line(self._count, time, record.levelname, text))
        self._count += 1

    def lines(self, after: int = -1) -> list[Line]:
        """Those that are kept, with a higher number than `after`."""
        assert self.lock is not None
        with self.lock:
            return [line for line in self._lines if line.number > after]

    def close(self) -> None:
        """Listen no more."""
        logging.getLogger(LOGGER).removeHandler(self)
        super().close()
