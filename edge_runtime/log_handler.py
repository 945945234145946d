"""The log of a service: bounded whatever comes, and never waited for.

Lines are written by a thread of their own, so that a full pipe holds up nobody. Each is one line of printable
characters and of bounded length: what others send in can neither forge a line nor move a cursor. One that comes again
is counted and summed up, and so is what exceeds a few lines a second.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque

MAX_LINE = 600
"""Characters; more is cut off and said."""
MAX_TRACE_LINES = 60
START_LINES, START_S = 100, 5.0
"""So many lines may be said in the first seconds."""
BURST_LINES = 10
"""After that, so many at once."""
LINES_PER_S = 3.0
ERRORS_PER_S = 1.0
"""Errors are counted by themselves: no flood of warnings leaves one out."""
REPEAT_S = 10.0
"""A line that was said within this time is counted, and summed up after it."""
MAX_REPEATS = 64
"""Lines whose repeats are counted at a time."""
MAX_WAITING = 400
"""Lines that wait for whoever reads the log."""
FLUSH_S = 0.3
SUM_UP_S = 1.0


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """`text` as a single line of printable characters, all others escaped, of at most about `limit` characters."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return cut if len(text) <= limit else f"{cut}... ({len(text)} characters)"


class Budget:
    """Lines that may be said: START_LINES at the start, then `rate` a second and BURST_LINES at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._began = self._at = now
        self._left = float(START_LINES)
        self.left_out = 0
        """Lines that were not said since one was."""

    def take(self, lines: int, now: float) -> bool:
        """Whether `lines` that belong together may be said at `now` (monotonic seconds): where one is left. More than
        are left are borrowed.
        """
        most = START_LINES if now - self._began < START_S else BURST_LINES
        self._left = min(most, self._left + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= lines
        return True


class BoundedHandler(logging.Handler):
    """Writes to a file descriptor. Any thread may log; nothing here waits or raises."""

    def __init__(self, descriptor: int, form: str) -> None:
        """`form`: of a line, as for logging.Formatter; what it shows besides the message must be of bounded length."""
        super().__init__()
        self.setFormatter(logging.Formatter(form))
        self._descriptor = descriptor
        now = time.monotonic()
        self._lines, self._errors = Budget(LINES_PER_S, now), Budget(ERRORS_PER_S, now)
        self._repeats: dict[str, tuple[float, int]] = {}
        """A line as it was said, since when, and how often since then."""
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._more = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Under the handler's lock."""
        try:
            message = one_line(record.getMessage())
            trace = self._trace(record)
        except Exception as error:  # arguments that do not fit their text
            message, trace = one_line(f"{record.msg!r}: cannot be said ({error})"), []
        now = time.monotonic()
        self._sum_up(now)
        key = f"{record.levelname} {message}"
        if key in self._repeats:
            since, count = self._repeats[key]
            self._repeats[key] = since, count + 1
            return
        if len(self._repeats) < MAX_REPEATS:
            self._repeats[key] = now, 0
            self._more.set()
        shown = logging.LogRecord(record.name, record.levelno, "", 0, message, None, None)
        shown.created, shown.msecs = record.created, record.msecs
        self._say(now, record.levelno, [self.format(shown), *trace])

    def flush(self) -> None:
        """Give what waits a moment to be written."""
        self._more.set()
        self._idle.wait(FLUSH_S)

    def close(self) -> None:
        """Say what is still to be summed up, and wait for it for a moment."""
        with self._guard():
            self._sum_up(float("inf"))
        self.flush()
        super().close()

    def _guard(self) -> threading.RLock:
        assert self.lock is not None
        return self.lock

    @staticmethod
    def _trace(record: logging.LogRecord) -> list[str]:
        """Set in, so that no line of it looks like one of the log."""
        if not record.exc_info:
            return []
        lines = logging.Formatter().formatException(record.exc_info).splitlines()
        if len(lines) > MAX_TRACE_LINES:
            half = MAX_TRACE_LINES // 2
            lines = [*lines[:half], f"({len(lines) - 2 * half} lines are left out)", *lines[-half:]]
        return [f"    | {one_line(line)}" for line in lines]

    def _sum_up(self, now: float) -> None:
        """Say how often lines came again, once their time is over. In the order in which they were said."""
        while self._repeats:
            key, (since, count) = next(iter(self._repeats.items()))
            if now - since < REPEAT_S:
                return
            del self._repeats[key]
            if count:
                level, _, message = key.partition(" ")
                text = f"{count} times more: {message}"
                number = logging.getLevelName(level)
                shown = logging.LogRecord("", number, "", 0, text, None, None)
                self._say(min(now, time.monotonic()), number, [self.format(shown)])

    def _say(self, now: float, level: int, lines: list[str]) -> None:
        budget = self._errors if level >= logging.ERROR else self._lines
        if not budget.take(len(lines) + bool(budget.left_out), now):
            return
        if budget.left_out:
            lines = [f"({budget.left_out} lines are left out)", *lines]
            budget.left_out = 0
        if len(self._waiting) + len(lines) > MAX_WAITING:
            self._lost += len(lines)
            return
        if self._lost:
            lines = [f"({self._lost} lines are lost: nobody read the log)", *lines]
            self._lost = 0
        self._idle.clear()
        self._waiting.append("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        self._more.set()

    def _write(self) -> None:
        """On a thread of its own."""
        while True:
            self._more.wait(SUM_UP_S if self._repeats else None)
            self._more.clear()
            with self._guard():
                self._sum_up(time.monotonic())
            while self._waiting:
                data = memoryview(self._waiting[0])
                try:
                    while data:
                        data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    time.sleep(0.01)
                    self._waiting[0] = bytes(data)
                    continue
                except OSError:  # nobody is there to read it
                    pass
                self._waiting.popleft()
            self._idle.set()


def log_to(descriptor: int, level: int, form: str) -> BoundedHandler:
    """Have everything that is logged in this process go to `descriptor`, and nowhere else."""
    handler = BoundedHandler(descriptor, form)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.raiseExceptions = False
    return handler
